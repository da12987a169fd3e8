"""A release: a tree of relay, whose commands and processes run on the dependencies of these tests."""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.flow.formation import run
from tests.support.processes import Serve, serve

BEFORE = "58d21f210dce0c7afdb571a0f028e3f0f98fae72"
"""The release that this one takes over from. A newer release names a newer commit here."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release.

    Attributes:
        tree: the folder that has its `relay` and its `config`.
    """

    name: str
    tree: Path

    def environ(self, variables: dict[str, str]) -> dict[str, str]:
        """Return what makes a Python of this venv run this release."""
        return {**variables, "PYTHONPATH": str(self.tree), "RELAY_CONFIG": str(self.tree / "config")}

    def serve(self, variables: dict[str, str], folder: Path) -> AbstractAsyncContextManager[Serve]:
        """Start a process of this release."""
        return serve(self.environ(variables), folder)

    async def run(self, variables: dict[str, str], folder: Path, *command: str) -> tuple[int, str]:
        """Run a command of this release: its exit code, and what it said."""
        return await run(self.environ(variables), folder, sys.executable, "-m", "relay", *command)
