"""The help of each command: uncut on a narrow terminal, with an example that can be pasted, and nothing unexplained."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from relay.cli import cli
from relay.settings.options import Settings

ROOT = get_command(cli)
WITHOUT_VARIABLES = ("demo", "dev", "listen", "sandbox")
VARIABLES = {field.alias for field in Settings.model_fields.values()} | {"RELAY_URL", "NAME_BASE_URL", "NAME_API_KEY"}


def every(of: Any, *path: str) -> list[tuple[tuple[str, ...], Any]]:
    """Every group and command, by its words."""
    below = of.commands.items() if isinstance(of, TyperGroup) else ()
    return [(path, of), *(found for name, command in below for found in every(command, *path, name))]


EVERY = every(ROOT)
COMMANDS = [(words, command) for words, command in EVERY if not isinstance(command, TyperGroup)]


def names(commands: list[tuple[tuple[str, ...], Any]]) -> list[str]:
    return [" ".join(words) or "relay" for words, _ in commands]


def shown(words: tuple[str, ...], width: int = 80) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], terminal_width=width)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("words", [words for words, _ in EVERY], ids=names(EVERY))
def test_help_is_whole(words: tuple[str, ...], width: int) -> None:
    text = shown(words, width)
    assert "..." not in text.replace("]...", "").replace("}...", "")
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=names(COMMANDS))
def test_an_example_stands_in_one_line_and_is_right(words: tuple[str, ...], command: Any) -> None:
    (example,) = re.findall(r"^ +Example: (.*)", shown(words), re.MULTILINE)
    given = shlex.split(example)
    while "=" in given[0]:
        del given[0]
    assert tuple(given[: len(words) + 1]) == ("relay", *words), "the example is cut"
    assert example.isascii(), "a sign that stands for something else cannot be pasted"
    command.make_context(words[-1], given[len(words) + 1 :]).close()


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=names(COMMANDS))
def test_everything_that_can_be_given_is_explained(words: tuple[str, ...], command: Any) -> None:
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} of {words}"


@pytest.mark.parametrize("words", [words for words, _ in COMMANDS], ids=names(COMMANDS))
def test_it_says_which_variables_are_read(words: tuple[str, ...]) -> None:
    _, reads, listed = " ".join(re.split("Arguments:|Options:", shown(words))[0].split()).partition(" Reads ")
    assert bool(reads) == (words[0] not in WITHOUT_VARIABLES)
    assert set(re.findall(r"[A-Z_]{5,}", listed)) <= VARIABLES


def test_a_shell_can_complete() -> None:
    script = CliRunner().invoke(cli, [], env={"_RELAY_COMPLETE": "source_bash"}, prog_name="relay")
    assert script.exit_code == 0
    assert "complete -o" in script.output
    found = CliRunner().invoke(
        cli,
        [],
        env={"_RELAY_COMPLETE": "complete_bash", "COMP_WORDS": "relay deliv", "COMP_CWORD": "1"},
        prog_name="relay",
    )
    assert "deliveries" in found.output
