"""Where something stands in an answer: JMESPath expressions, and the places in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from relay.providers.expressions import Interpreter, judge
from relay.providers.fields import number_of


class Table(BaseModel):
    """A table of a definition file: a key that nobody reads is a typo, and refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(NamedTuple):
    """A level of an answer.

    Attributes:
        name: how one gets there: empty for the answer itself, `data`, `data.videos[]`.
        objects: what stands there: of a list, each object in it. None where the place is there and holds nothing. An
            answer that is a list itself stands there as that.
    """

    name: str
    objects: Sequence[Any]

    def within(self, other: Place) -> bool:
        """Return whether this place is inside another one, or is that one."""
        return not other.name or self.name == other.name or self.name.startswith((f"{other.name}.", f"{other.name}["))


class Find(NamedTuple):
    """A value that a path has found: where, and in which place."""

    place: Place
    where: str
    value: Any


def is_empty(value: Any) -> bool:
    """Return whether a value counts as not found."""
    return value is None or value is False or (not value and value in ("", [], {}))


class Path(Table):
    """Where something is read: JMESPath expressions, of which the first that finds something counts."""

    expressions: tuple[str, ...]
    _searches: tuple[tuple[str, Callable[[Any], Any]], ...] = ()

    def model_post_init(self, _context: Any) -> None:
        try:
            searches = tuple((expression, _search(expression)) for expression in self.expressions)
        except JMESPathError as error:
            raise ValueError(f"not JMESPath: {' '.join(str(error).split())}") from None
        object.__setattr__(self, "_searches", searches)

    @property
    def names(self) -> tuple[str, ...]:
        """Return those of the expressions that are plain names of members."""
        return tuple(expression for expression in self.expressions if expression.isidentifier())

    def finds(self, places: Sequence[Place]) -> Iterator[Find]:
        """Yield what the first expression finds in each place, then the second, and so on, without what is empty."""
        for expression, search in self._searches:
            for place in places:
                for value in map(search, place.objects):
                    if not is_empty(value):
                        yield Find(place, f"{place.name}.{expression}" if place.name else expression, value)

    def first(self, places: Sequence[Place]) -> Any:
        """Return the value that is found first, or None. (Each poll asks for two: generators would cost as much.)"""
        for _, search in self._searches:
            for place in places:
                for item in place.objects:
                    value = search(item)
                    if value is not None and not is_empty(value):
                        return value
        return None

    def raw(self, value: Any) -> Any:
        """Return what the expressions find first in a value, even if it is empty; None if they find nothing."""
        found = (search(value) for _, search in self._searches)
        return next((find for find in found if find is not None), None)


def as_path(value: Any) -> Any:
    """Return what a file may write for a path, one expression or a list of them, as the table it stands for."""
    return {"expressions": [value] if isinstance(value, str) else value} if isinstance(value, str | list) else value


def _kind_of_whole(value: Any) -> str:
    return "number" if isinstance(value, int | float) else "expressions"


Whole = Annotated[
    Annotated[Path, Tag("expressions")] | Annotated[float, Field(gt=0), Tag("number")], Discriminator(_kind_of_whole)
]


class Quotient(Table):
    """`{ done = "…", of = "…" }`: a progress that an answer gives as two numbers, or as one on a scale of its own.

    Attributes:
        of: where the whole stands, or the whole itself, such as 100 for percents that may be below 1.
    """

    done: Path
    of: Whole

    _paths = field_validator("done", "of", mode="before")(as_path)

    def finds(self, places: Sequence[Place]) -> Iterator[Find]:
        """Yield the fraction of each part that is found."""
        whole = self.of if isinstance(self.of, float) else number_of(self.of.first(places))
        for find in self.done.finds(places):
            part = number_of(find.value)
            if part is not None and whole and 0 <= part <= whole:
                yield find._replace(value=part / whole)

    def first(self, places: Sequence[Place]) -> float | None:
        """Return the fraction that is found first, or None."""
        return next((find.value for find in self.finds(places)), None)


def _kind_of_progress(value: Any) -> str:
    return "quotient" if isinstance(value, Quotient) or (isinstance(value, dict) and "done" in value) else "expressions"


Progress = Annotated[
    Annotated[Path, Tag("expressions")] | Annotated[Quotient, Tag("quotient")], Discriminator(_kind_of_progress)
]


def _kind_of_flag(value: Any) -> str:
    return "expressions" if isinstance(value, Path | dict) else "flag"


KeyNeeded = Annotated[Annotated[Path, Tag("expressions")] | Annotated[bool, Tag("flag")], Discriminator(_kind_of_flag)]

TAGS = ("expressions", "quotient", "number", "flag")
"""What pydantic puts into the place of an error, where a file has no such key."""


def _search(expression: str) -> Callable[[Any], Any]:
    """Compile an expression. Nearly all are plain `a.b.c`: walking one takes a tenth of interpreting it."""
    judge(expression)
    tree = jmespath.compile(expression).parsed
    names = expression.split(".")

    def member(value: Any) -> Any:
        return value.get(expression) if isinstance(value, dict) else None

    def walk(value: Any) -> Any:
        for name in names:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    def interpret(value: Any) -> Any:
        try:
            return _interpreter.visit(tree, value)
        except (JMESPathError, TypeError, ValueError, RecursionError):
            return None  # an expression that does not fit an answer finds nothing in it

    if not all(name.isascii() and name.isidentifier() for name in names):
        return interpret
    return walk if names[1:] else member


_interpreter = Interpreter()
