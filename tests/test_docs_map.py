"""The pages for those who carry on (architecture, contributing, glossary) name only what is there."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from relay.cli import cli
from relay.store.schema import metadata
from tests.test_layout import LAYERS

ROOT = Path(__file__).parent.parent
RELAY = ROOT / "relay"
PAGES = ("architecture.md", "contributing.md", "glossary.md")
EXAMPLE = re.compile(r"NAME|NNNN")  # stands for a name that the reader chooses


def page(name: str) -> str:
    """Return the text of a page of docs/."""
    return (ROOT / "docs" / name).read_text("utf-8")


def code_block(text: str, begins: str) -> list[str]:
    """Return the lines of the code block whose first line begins so."""
    (block,) = re.findall(rf"^```\n({re.escape(begins)}.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block).splitlines()


def exists(path: str) -> bool:
    """Return whether a path leads somewhere, from the root of the repository or, without its ending, from relay/."""
    path = path.rstrip("/")
    return any(place.exists() for place in (ROOT / path, RELAY / path, RELAY / f"{path}.py"))


@pytest.mark.parametrize("name", PAGES)
def test_every_path_leads_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", page(name), flags=re.MULTILINE | re.DOTALL)
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|toml|md|txt))`", text)
    assert paths
    assert [path for path in paths if not EXAMPLE.search(path) and not exists(path)] == []


# ----------------------------------------------------------------------------------------------------- architecture

TREE = code_block(page("architecture.md"), "relay/")


def test_the_tree_names_what_exists() -> None:
    parents: list[str] = []
    for line in TREE:
        names, _, _ = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        for name in names.split(", "):
            path = "/".join([*parents[:depth], name.rstrip("/")])
            kind = ROOT / path if name.endswith("/") else ROOT / f"{path}.py"
            assert kind.exists(), f"{line}: there is no {kind}"
            parents[depth:] = [name.rstrip("/")]


def test_the_tree_names_every_package() -> None:
    packages = {file.parent.relative_to(RELAY) for file in RELAY.rglob("__init__.py")} - {
        Path(),
        Path("store/migrations/versions"),
    }
    assert [str(package) for package in sorted(packages) if f"{package.name}/" not in "\n".join(TREE)] == []


def test_the_direction_is_that_of_the_layout() -> None:
    """`__main__` and `__init__`, which hold nothing, are left out of the drawing."""
    drawn = [line.split() for line in code_block(page("architecture.md"), "cli\n")]
    assert drawn == [names for line in LAYERS.split("\n") if (names := line.split()) and "__" not in line]


def test_every_table_is_described() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", page("architecture.md"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {*metadata.tables}


# --------------------------------------------------------------------------------------------------------- glossary


def test_the_classes_of_the_glossary_exist() -> None:
    for cell in re.findall(r"^\|[^|]*\|[^|]*\| (`.*) \|$", page("glossary.md"), re.MULTILINE):
        for module, classes in re.findall(r"`([\w/]+)`((?:,? `[A-Z]\w+`)*)", cell):
            tree = ast.parse((RELAY / f"{module}.py").read_bytes()) if classes else ast.Module([], [])
            defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
            assert {*re.findall(r"`(\w+)`", classes)} <= defined, module


def test_the_words_of_the_glossary_stand_once_and_in_order() -> None:
    words = re.findall(r"^\| ([^|]+) \| ", page("glossary.md"), re.MULTILINE)[1:]
    assert words == sorted(set(words), key=str.lower)


# ----------------------------------------------------------------------------------------------------- contributing


def test_every_command_can_be_run() -> None:
    text = page("contributing.md")
    ours = {command.name for command in cli.registered_commands} | {group.name for group in cli.registered_groups}
    assert {*re.findall(r"(?:`|bin/)relay ([a-z]+)", text)} <= ours
    for module in re.findall(r"python -m (tests[\w.]+)", text):
        assert find_spec(module), module
    for path in re.findall(r"bin/pytest (tests/[\w/.]+)", text):
        assert (ROOT / path).exists(), path


def test_the_gate_runs_what_the_page_says() -> None:
    gate = (ROOT / ".ci/run").read_text("utf-8")
    (block,) = re.findall(r"^```sh\n(\.venv/bin/pytest\n.*?)^```$", page("contributing.md"), re.MULTILINE | re.DOTALL)
    steps = [line.partition(" ${CI")[0] for line in gate.splitlines() if re.match(r"\.venv/bin/(?!pip)", line)]
    assert block.splitlines() == steps
    assert "--no-skips" in gate


def test_every_program_that_a_test_may_miss_is_named() -> None:
    sources = [file.read_text("utf-8") for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__)]
    programs = {name for text in sources for name in re.findall(r'which\("(\w+)"\)', text)}
    assert [name for name in sorted(programs) if f"`{name}`" not in page("contributing.md")] == []


def test_every_fixture_and_every_docs_test_is_there() -> None:
    text = page("contributing.md")
    fixtures = (ROOT / "tests/conftest.py").read_text("utf-8")
    for row in re.findall(r"^\| the fixture (.*?) \|", text, re.MULTILINE):
        assert all(f"def {name}(" in fixtures for name in re.findall(r"`(\w+)`", row)), row
    assert {file.name for file in (ROOT / "tests").glob("test_docs*.py")} == {
        *re.findall(r"\| `tests/(test_docs\w*\.py)` \|", text)
    }
