"""docs/security.md: what it says is proven is proven, and no attack that we try is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent
PAGE = (ROOT.parent / "docs/security.md").read_text("utf-8")
NAMED = [tuple(one.split("::")) for one in re.findall(r"`([\w/]+::test_\w+)`", PAGE)]


def names_in(file: Path) -> set[str]:
    """The tests in a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_named_exists() -> None:
    missing = [f"{file}::{name}" for file, name in NAMED if name not in names_in(ROOT / f"{file}.py")]
    assert len(NAMED) > 50
    assert missing == []


def threats() -> list[list[str]]:
    """The rows of the table: threat, guard, tests."""
    table = PAGE.partition("| threat | guard | test |\n|---|---|---|\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_every_threat_has_a_guard_and_a_test() -> None:
    assert len(threats()) > 20
    for threat, guard, tests in threats():
        assert threat
        assert guard
        assert re.fullmatch(r"`[\w/]+::test_\w+`(, `[\w/]+::test_\w+`)*", tests), threat


def test_no_attack_is_left_out() -> None:
    tried = {(f"attack/{file.stem}", name) for file in (ROOT / "attack").glob("test_*.py") for name in names_in(file)}
    assert tried - set(NAMED) == set()
