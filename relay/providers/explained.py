"""How an answer was read, for people: which path found what, and which statuses the file lists nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from relay.model.reading import Kind, Reading
from relay.providers.definition import Definition
from relay.providers.document import Answer, document_of
from relay.providers.envelope import places_of
from relay.providers.fields import links_in, progress_of, reasons_in
from relay.providers.paths import Path, Place, Quotient
from relay.providers.reader import Reader, Word
from relay.providers.results import links_of


class Source(NamedTuple):
    """What was found: the path in the answer, what it is read as, and the value there."""

    where: str
    what: str
    value: str


class Explanation(NamedTuple):
    """Where a reading comes from.

    Attributes:
        statuses: every status in the answer, with what the file lists it as.
        sources: everything else that was read.
        unlisted: the statuses that stand in no list.
    """

    statuses: list[Source]
    sources: list[Source]
    unlisted: list[str]
    repaired: bool


def explain(definition: Definition, answer: Answer, reading: Reading) -> Explanation:
    """Return where in an answer its reading comes from."""
    document = document_of(answer)
    if document is None:
        return Explanation([], [], [], repaired=False)
    read = definition.read
    places = places_of(document.value, read.envelope.members)
    words = Reader(read, definition.statuses, definition.errors).statuses(places)
    lists = {status: name for name, group in definition.statuses.lists.items() for status in group}
    return Explanation(
        statuses=[_status(word, lists.get(word.status, "in no list")) for word in words],
        sources=list(_sources(definition, places, reading, answer.link_names)),
        unlisted=sorted({word.status for word in words if word.status not in lists}),
        repaired=document.repaired,
    )


def _status(word: Word, listed: str) -> Source:
    return Source(word.where, f"status ({listed})", _short(word.status))


def _sources(
    definition: Definition, places: Sequence[Place], reading: Reading, names: Mapping[str, str]
) -> Iterator[Source]:
    read = definition.read
    if reading.progress is not None:
        yield from _first("progress", read.progress, places, lambda value: progress_of(value) is not None)
    if reading.kind is Kind.COMPLETED:
        _, find = links_of(read.result.url, places, names)
        if find is not None:
            yield Source(find.where, "result.url", _short(find.value))
        for name in ("thumbnail_url", "preview_url"):
            yield from _first(f"result.{name}", getattr(read.result, name), places, links_in)
        for name in ("width", "height", "enhanced_prompt", "text", "ref"):
            yield from _first(f"result.{name}", getattr(read.result, name), places, str)
    elif reading.error is not None:
        code = reading.error["code"]
        message = reading.error["message"]
        yield from _first("error.code", read.error.code, places, lambda value: str(value) == code)
        yield from _first("error.message", read.error.message, places, lambda value: message in reasons_in(value))


def _first(
    what: str, path: Path | Quotient, places: Sequence[Place], usable: Callable[[Any], object]
) -> Iterator[Source]:
    find = next((find for find in path.finds(places) if usable(find.value)), None)
    if find is not None:
        yield Source(find.where, what, _short(find.value))


def _short(value: Any) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)[:200])
    return text if len(text) <= 80 else f"{text[:79]}…"
