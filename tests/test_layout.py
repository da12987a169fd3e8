"""The house stays as it was built: imports point down, and every module says what it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "relay"
FILES = sorted(ROOT.rglob("*.py"))

# Each line may import from the lines below it; a package's own modules import each other freely. The last line imports
# nothing of relay. A new module finds its place here.
LAYERS = """
    __main__
    cli
    demo
    app
    scheduler web follow receiver reseal slack_setup
    poller dispatcher editor liveness
    parts sweep changes
    keyring
    channels
    store provider
    reading
    tables
    sdk
    outbound vault
    wire
    dialling
    guard
    settings
    values
    cadence retry budget
    tracing sentry
    model ids signing metrics logs masking
    errors
    sandbox standin jumps __init__
"""
LEVEL = {name: level for level, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def place(file: Path) -> str:
    """The name that a file has in LAYERS: its own, or that of its package."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(file: Path) -> Iterator[str]:
    """The places of relay that a file imports from, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names if name.split(".")[0] == "relay"):
            yield parts[1] if parts[1:] and parts[1] in LEVEL else "__init__"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_only(file: Path) -> None:
    here = place(file)
    assert here in LEVEL, f"{here} is new: give it a place in LAYERS"
    up = [name for name in imported(file) if name != here and LEVEL[name] <= LEVEL[here]]
    assert not up, f"{here} must not import {', '.join(up)}: see LAYERS"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_says_what_it_is(file: Path) -> None:
    module = ast.parse(file.read_bytes())
    assert ast.get_docstring(module) or not module.body, f"{file} has no docstring"
