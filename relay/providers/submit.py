"""`[[submit]]`: which calls create a task at an upstream, and where the id of the new task stands in the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from relay.model.task_ids import leads_elsewhere
from relay.providers.document import Answer
from relay.providers.paths import Path, Place, Table

_NAME = re.compile(r"\{(\w+)\}")
_TEMPLATE = re.compile(r"[^{}]*(?:\{[A-Za-z_][\w.]*\}[^{}]*)+")
_HEADER = "header:"


def pattern_of(template: str, manifold: Sequence[str] = ()) -> re.Pattern[str]:
    """Return what a path as it is sent matches: each `{name}` stands for one segment, or for a part of it.

    Args:
        manifold: the names that stand for several segments.
    """
    pattern = ""
    names = set[str]()
    for position, part in enumerate(_NAME.split(template)):
        if position % 2 == 0:
            pattern += re.escape(part)
        elif part in names:
            pattern += f"(?P={part})"
        else:
            names.add(part)
            pattern += f"(?P<{part}>{'.+' if part in manifold else '[^/]+'})"
    return re.compile(pattern)


def names_in(pattern: re.Pattern[str], path: str, manifold: Sequence[str] = ()) -> dict[str, str] | None:
    """Return what the names of a pattern stand for in a path, decoded; None if it is another path.

    A part that leads elsewhere once it is decoded is no segment: it makes another path of it.
    """
    found = pattern.fullmatch(path)
    if found is None or leads_elsewhere(path):
        return None
    names = {name: unquote(value) for name, value in found.groupdict().items()}
    for name, value in names.items():
        if not value.isprintable() or "\\" in value or ("/" in value and name not in manifold):
            return None
    return names


class TaskIdPath(Table):
    """`task_id`: where the id of the new task stands; of several places, the first in which there is one.

    Each is JMESPath, or `header:` and the name of a header, or a text with names of the path and of members of the
    answer: `{model}/{request_id}`.
    """

    places: tuple[str, ...] = Field(min_length=1)
    _paths: Mapping[str, Path] = {}

    def model_post_init(self, _context: Any) -> None:
        searched = [name for place in self.places for name in _searched(place)]
        object.__setattr__(self, "_paths", {name: Path(expressions=(name,)) for name in searched})

    def first(self, answer: Answer, document: Any, names: Mapping[str, str]) -> str | None:
        """Return the id that is found first.

        Args:
            document: the answer's JSON; None where it has none.
            names: what the names of the path stand for.
        """
        for place in self.places:
            if place.startswith(_HEADER):
                found: str | None = answer.headers.get(place.removeprefix(_HEADER).strip().lower()) or None
            elif _TEMPLATE.fullmatch(place):
                found = self._filled(place, document, names)
            else:
                found = self._member(place, document)
            if found:
                return found
        return None

    def _member(self, expression: str, document: Any) -> str | None:
        value = None if document is None else self._paths[expression].first([Place("", (document,))])
        return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None

    def _filled(self, template: str, document: Any, names: Mapping[str, str]) -> str | None:
        parts = re.split(r"\{([\w.]+)\}", template)
        for position in range(1, len(parts), 2):
            value = names.get(parts[position]) or self._member(parts[position], document)
            if value is None:
                return None
            parts[position] = value
        return "".join(parts)


def _searched(place: str) -> list[str]:
    """Return the expressions that are looked for in the JSON of an answer."""
    if place.startswith(_HEADER):
        if not re.fullmatch(r"\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*", place.removeprefix(_HEADER)):
            raise ValueError(f"'{place}' names no header")
        return []
    return re.findall(r"\{([\w.]+)\}", place) if _TEMPLATE.fullmatch(place) else [place]


class Submit(Table):
    """`[[submit]]`: a call that creates a task.

    Attributes:
        path: as it is sent, behind the address; `{name}` stands for one segment, or for a part of it.
        callback: members of a JSON body that say whom to tell; relay takes them out and tells these itself.
        callback_forward: one of them, in which relay names itself, so that the upstream wakes the poll; empty for none.
        refused_http: statuses that mean that nothing was taken, beside those from 400 to 499 that always do.
        timeout: seconds from the connection to the end of the answer.
    """

    method: Literal["POST", "PUT", "PATCH"] = "POST"
    path: str = Field(pattern=r"^/[!-~]*$")
    task_id: TaskIdPath
    callback: tuple[str, ...] = ()
    callback_forward: str = ""
    refused_http: tuple[int, ...] = ()
    timeout: float = Field(120.0, gt=0, le=600)
    _pattern: re.Pattern[str]

    @field_validator("task_id", mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        return {"places": [value] if isinstance(value, str) else value} if isinstance(value, str | list) else value

    @field_validator("path")
    @classmethod
    def _plain(cls, path: str) -> str:
        if unknown := re.search(r"[{}?#\\]", _NAME.sub("", path)):
            raise ValueError(f"'{unknown[0]}' cannot stand here: only names such as {{model}} can")
        names = _NAME.findall(path)
        if len(set(names)) != len(names) or any(not name.isidentifier() for name in names):
            raise ValueError("each name begins with a letter, and stands there once")
        if leads_elsewhere(path):
            raise ValueError("no part of it may be '.' or '..'")
        return path

    @field_validator("refused_http")
    @classmethod
    def _refusals(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 400 <= value <= 599 for value in values):
            raise ValueError("must be statuses from 400 to 599")
        return values

    def model_post_init(self, _context: Any) -> None:
        object.__setattr__(self, "_pattern", pattern_of(self.path))

    @property
    def callbacks(self) -> frozenset[str]:
        """Return the members of a JSON body that are taken out."""
        return frozenset(self.callback) | ({self.callback_forward} if self.callback_forward else set())

    @property
    def path_names(self) -> list[str]:
        """Return the names of its path."""
        return _NAME.findall(self.path)

    def names(self, path: str) -> dict[str, str] | None:
        """Return what the names of the path stand for in a path as it is sent; None if that is another path."""
        return names_in(self._pattern, path)


def path_of(url: str) -> str:
    """Return the path of a URL that an answer names; of anything else, nothing."""
    try:
        split = urlsplit(url)
    except ValueError:
        return ""
    return split.path if split.scheme in ("http", "https") else ""
