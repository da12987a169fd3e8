"""What is wrong with a provider file, in the words of the file: the table, the key, the line, and what to write."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from relay.providers.auth import KINDS
from relay.providers.paths import TAGS

Place = tuple[str, ...]

_TABLE = re.compile(r"\s*\[+\s*([^\[\]]+?)\s*\]+\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")

TABLE = "must be a table"

# By the kinds of pydantic's errors, whose own words are about Python.
_WORDS = {
    "missing": "is missing",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": TABLE,
    "model_type": TABLE,
    "dataclass_type": TABLE,
    "too_short": "must name at least one",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


def mistakes(errors: Iterable[ErrorDetails], model: type[BaseModel], files: Sequence[Path]) -> list[str]:
    """Return a line for each mistake in a definition, in the order of the tables.

    Args:
        errors: what validation found.
        model: what was to be validated.
        files: the file, and those that it extends.
    """
    lines = dict[Place, str]()
    for error in errors:
        place = tuple(str(part) for part in error["loc"] if part not in (*TAGS, *KINDS))
        words = ": ".join(filter(None, (".".join(place), _words(error, model, place))))
        lines.setdefault(place, f"{words}{_where(place, files)}")
    return list(lines.values())


def _words(error: ErrorDetails, model: type[BaseModel], place: Place) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        kind_of_table = next((str(part) for part in error["loc"] if part in KINDS), None)
        keys = list(_keys(model, place[:-1], kind_of_table))
        return f"is no key of {'this table' if place[1:] else 'this file'}; {nearest(place[-1], keys)}"
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        given = str(error["input"])
        near = [choice for choice in choices if choice.lower() == given.lower()] or get_close_matches(given, choices, 1)
        return f"must be {context['expected']}{f'; did you mean {near[0]!r}?' if near else ''}"
    if place == ("name",):
        return "the file's name must be small letters, digits and hyphens, 63 at most"
    if _WORDS.get(kind) == TABLE and set(_keys(model, place)) & set(TAGS):
        return "must be an expression, or a list of expressions"
    if kind == "string_pattern_mismatch" and place[-1] == "path":
        return "must begin with '/' and be printable ASCII without blanks"
    words = _WORDS.get(kind)
    return words.format(**context) if words else error["msg"].removeprefix("Value error, ")


def nearest(name: str, names: Sequence[str]) -> str:
    """Return what to say about a name that stands for nothing: the one that was perhaps meant, else all of them."""
    near = get_close_matches(name, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there is {', '.join(names)}"


def _keys(model: Any, place: Place, kind: str | None = None) -> Iterator[str]:
    """Yield the keys that a table may have; if there are tables of several kinds, one of that kind."""
    if place:
        for key, annotation in _fields(model):
            if key == place[0]:
                for below in _parts(annotation):
                    if kind is None or kind in _kinds(below):
                        yield from _keys(below, place[1:])
    else:
        yield from (key for key, _ in _fields(model) if key not in ("name", "own_address"))


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield a type and all that it is made of, such as the tables of a union."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _kinds(model: Any) -> tuple[Any, ...]:
    """Return the values of `kind` that a table may have."""
    return next((get_args(annotation) for key, annotation in _fields(model) if key == "kind"), ())


def _fields(model: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        yield from ((field.alias or name, field.annotation) for name, field in model.model_fields.items())
    elif dataclasses.is_dataclass(model):
        yield from ((field.name, None) for field in dataclasses.fields(model))


def _where(place: Place, files: Sequence[Path]) -> str:
    """Return in words where a place stands: the line, and the file if the definition only extends it."""
    lines = {file: _places(file.read_text("utf-8")) for file in files}
    for end in range(len(place), 0, -1):  # what is missing, or stands within a value, has no line of its own
        for file in files:
            if line := lines[file].get(place[:end]):
                return f" (line {line}{'' if file == files[0] else f' of {file.name}'})"
    return ""


def _places(text: str) -> Mapping[Place, int]:
    """Return on which line each table and each key begins. What stands within a value is a part of its key."""
    found: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if heading := _TABLE.fullmatch(line):
            table = _names(heading[1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_names(key[1])), number)
    return found


def _names(dotted: str) -> Place:
    return tuple(name.strip().strip("\"'") for name in re.split(r"\s*\.\s*", dotted))
