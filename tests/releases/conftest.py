"""The earlier release, as it was committed."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.releases.release import BEFORE, Release

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Release:
    """The earlier release, on the dependencies of this one."""
    made = subprocess.run(["git", "archive", BEFORE, "relay", "config"], cwd=ROOT, capture_output=True)
    if made.returncode:
        why = f"the release before, {BEFORE:.9}, is not in this clone: run 'git fetch --unshallow'"
        (pytest.fail if request.config.getoption("--no-skips") else pytest.skip)(why)
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return Release("before", folder)


@pytest.fixture(scope="session")
def this() -> Release:
    """The release that is here."""
    return Release("this", ROOT)
