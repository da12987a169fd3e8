"""The house stays as it was built: imports point down, packages close no circle, and every module says what it is."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from relay.channels import CHANNELS

ROOT = Path(__file__).parent.parent / "relay"
FILES = sorted(ROOT.rglob("*.py"))

# Each line may import from the lines below it, and no entry from another of its line.
LAYERS = """
    __main__
    cli
    app
    web worker
    actions wiring
    watch_request
    channels providers
    outbound settings simulators
    security
    store telemetry
    model errors slices interpreter
    __init__
"""
LEVEL = {name: level for level, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def place(file: Path) -> str:
    """Return the entry of LAYERS that a file belongs to: its own name, or that of its package."""
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(file: Path) -> Iterator[str]:
    """Return the entries of LAYERS that a file imports from, wherever in it the import stands."""
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
    up = {name for name in imported(file) if name != here and LEVEL[name] <= LEVEL[here]}
    assert not up, f"{here} must not import {', '.join(up)}: see LAYERS"


@pytest.mark.parametrize("parent", [file.parent for file in FILES if file.name == "__init__.py"], ids=lambda p: p.name)
def test_packages_close_no_circle(parent: Path) -> None:
    siblings = {file.parent.name for file in parent.glob("*/__init__.py")}
    package = ".".join(("relay", *parent.relative_to(ROOT).parts))
    graph = {name: used(package, parent / name) & siblings - {name} for name in siblings}
    TopologicalSorter(graph).prepare()


def used(package: str, by: Path) -> set[str]:
    """Return the names that the files of a folder import from a package."""
    statement = re.compile(rf"^ *(?:from|import) {re.escape(package)}(?:\.| import )(\w+)", re.MULTILINE)
    return {name for file in by.rglob("*.py") for name in statement.findall(file.read_text())}


def test_the_top_is_short() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 350


# To add a channel must not touch these. The messages that live in Slack have a file of the store to themselves.
NAMELESS = ("model/", "actions.py", "web/api/", "worker/dispatcher.py", "store/")
SEAM = ("channels/base.py", "channels/targets.py", "channels/sender.py")
UNNAMED = [file for file in FILES if file.relative_to(ROOT).as_posix().startswith((*NAMELESS, *SEAM))]
NAMES = {name for channel in CHANNELS for name in (channel.name(), channel.__name__, channel.schema.__name__)}


@pytest.mark.parametrize(
    "file",
    [file for file in UNNAMED if file.name != "slack_messages.py"],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_no_channel_is_named(file: Path) -> None:
    words = set[str]()
    for node in ast.walk(ast.parse(file.read_bytes())):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.Constant(value=str(word)):
                words.add(word)
            case ast.ImportFrom(module=str(word)) | ast.alias(name=word):
                words.update(word.split("."))
    assert not words & NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_says_what_it_is(file: Path) -> None:
    module = ast.parse(file.read_bytes())
    assert ast.get_docstring(module) or not module.body, f"{file} has no docstring"


def test_no_name_of_a_class_stands_twice() -> None:
    names = Counter(
        statement.name
        for file in FILES
        for statement in ast.parse(file.read_text("utf-8")).body
        if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_")
    )
    assert [name for name, times in names.items() if times > 1] == []
