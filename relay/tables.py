"""The tables of a provider file that say how its answers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Table(BaseModel):
    """A table of a definition file: a key that nobody reads is a typo, and refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Path(Table):
    """Where something is read: JMESPath expressions, of which the first that finds something counts."""

    expressions: tuple[str, ...]
    _searches: tuple[Callable[[Any], Any], ...] = ()

    def model_post_init(self, _context: Any) -> None:
        try:
            searches = tuple(_search(expression) for expression in self.expressions)
        except JMESPathError as error:
            raise ValueError(f"not JMESPath: {' '.join(str(error).split())}") from None
        object.__setattr__(self, "_searches", searches)

    def candidates(self, document: Any) -> Iterator[Any]:
        """What is found, in the order of the alternatives, without what is empty."""
        for search in self._searches:
            try:
                value = search(document)
            except (JMESPathError, TypeError, ValueError, RecursionError):
                continue
            if value is not None and value is not False and value not in ("", [], {}):
                yield value

    def first(self, document: Any) -> Any:
        """What is found first, or None."""
        return next(self.candidates(document), None)


def _search(expression: str) -> Callable[[Any], Any]:
    """What finds an expression's value. Nearly all are plain `a.b.c`: walking one takes a tenth of interpreting it."""
    compiled = jmespath.compile(expression)
    if unknown := next((name for name in _functions(compiled.parsed) if name not in Functions.FUNCTION_TABLE), None):
        raise ValueError(f"JMESPath has no function '{unknown}'; it has {', '.join(sorted(Functions.FUNCTION_TABLE))}")
    names = expression.split(".")
    if not all(name.isascii() and name.isidentifier() for name in names):
        found: Callable[[Any], Any] = compiled.search
        return found

    def walk(value: Any) -> Any:
        for name in names:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    return walk


def _functions(node: Any) -> Iterator[str]:
    """The functions that a compiled expression calls: JMESPath itself looks for one only when it comes to call it."""
    if isinstance(node, dict):
        if node["type"] == "function_expression":
            yield node["value"]
        for child in node["children"]:
            yield from _functions(child)


def _as_path(value: Any) -> Any:
    return {"expressions": [value] if isinstance(value, str) else value} if isinstance(value, str | list) else value


class ResultPaths(Table):
    """`[read.result]`"""

    url: Path = Path(expressions=())
    thumbnail_url: Path = Path(expressions=())
    preview_url: Path = Path(expressions=())
    width: Path = Path(expressions=())
    height: Path = Path(expressions=())
    enhanced_prompt: Path = Path(expressions=())

    _paths = field_validator("*", mode="before")(_as_path)


class ErrorPaths(Table):
    """`[read.error]`"""

    code: Path = Path(expressions=("error.code", "code"))
    message: Path = Path(expressions=("error.message", "error", "message"))

    _paths = field_validator("*", mode="before")(_as_path)


class Read(Table):
    """`[read]`: where in an answer things are."""

    status: Path
    progress: Path = Path(expressions=())
    result: ResultPaths = ResultPaths()
    error: ErrorPaths = ErrorPaths()

    _paths = field_validator("status", "progress", mode="before")(_as_path)


class Statuses(Table):
    """`[statuses]`: which statuses mean what, compared without case."""

    pending: tuple[str, ...] = ()
    completed: tuple[str, ...] = Field(min_length=1)
    failed: tuple[str, ...] = Field(min_length=1)
    unknown_task: tuple[str, ...] = ()

    @field_validator("*")
    @classmethod
    def _lower(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(value.lower() for value in values)

    def model_post_init(self, _context: Any) -> None:
        seen: set[str] = set()
        for status in (*self.pending, *self.completed, *self.failed, *self.unknown_task):
            if status in seen:
                raise ValueError(f"the status '{status}' stands in two places")
            seen.add(status)


class Errors(Table):
    """`[errors]`: which HTTP errors say something about a task, or about the key."""

    unknown_task_http: tuple[int, ...] = (404,)
    unknown_task_codes: tuple[str, ...] = ()
    quota_codes: tuple[str, ...] = ()

    @field_validator("unknown_task_http")
    @classmethod
    def _of_a_task(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 400 <= value < 500 or value in (401, 402, 403, 408, 429) for value in values):
            raise ValueError("must be statuses from 400 to 499 that speak of a task: not 401, 402, 403, 408 or 429")
        return values
