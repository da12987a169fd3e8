"""An answer that wraps the answer proper: the places inside it, and whose word a success is.

The outer "success" of an envelope says only that the query itself went well. Told as the task's, it is a completion
without a link, minutes before the render is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from relay.providers.fields import written_out
from relay.providers.paths import Place

MAX_DEPTH = 6
"""Envelopes inside each other that are opened."""

MAX_PLACES = 64
"""Places of one answer that are read."""

MAX_OBJECTS = 200
"""Objects of one list that are read."""

_ABOUT = (
    r"(?:the|your|api|http|query|request|operation|process(?:ed|ing)?|call|get|fetch(?:ed)?|task|data|status|code"
    r"|response|return(?:ed)?|completed?|retrieved|was|is|has|been|\d{3})[\s:,_-]+"
)
_WENT_WELL = re.compile(
    rf"""(?ix) \W* (?:
        (?:{_ABOUT})* (?: ok(?:ay)? | success(?:ful(?:ly)?)? | succeed | normal | no[\s_-]errors? )
            (?: [\s:,_-]+ (?:processed|retrieved|fetched|queried|done|completed|returned) )*
        | (?:{_ABOUT})+ succeeded
        | (?:(?![不未没无非])[\u4e00-\u9fff]){{0,8}} (?:成功|正常) (?:しました|了)?
        | none | null | nil | undefined | n/a | true | 0 | 200 | 10000 | 20000 | 无 |
    ) \W*"""
)


def went_well(text: str) -> bool:
    """Return whether a text says only that a query went well: `success`, `OK`, `操作成功`, `200`, or nothing."""
    return len(text) <= 80 and _WENT_WELL.fullmatch(text) is not None


def places_of(document: Any, members: Sequence[str]) -> list[Place]:
    """Return the answer itself and the places within it that these members lead to, one inside the other."""
    places = [Place("", (document,))]
    if not isinstance(document, dict):
        return places
    for place in places:  # it grows as what stands inside is found
        if place.name.count(".") < MAX_DEPTH and len(places) < MAX_PLACES:
            there = [member for member in members if any(member in item for item in place.objects)]
            places.extend(inner for member in there if (inner := _inner(place, member)))
    return places


def _inner(place: Place, member: str) -> Place | None:
    """Return what stands under a member of a place: objects, or an empty place where it is null or empty."""
    values = [written_out(item[member]) for item in place.objects if member in item]
    name = f"{place.name}.{member}" if place.name else member
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    objects = [item for item in items[:MAX_OBJECTS] if isinstance(item, dict) and item]
    if objects:
        return Place(f"{name}[]" if any(isinstance(value, list) for value in values) else name, objects)
    return Place(name, ()) if all(value in (None, "", [], {}) for value in values) else None


def members_within(value: Any, names: Sequence[str], depth: int = MAX_DEPTH) -> Iterator[Any]:
    """Yield the values of members of these names below a value, whatever the objects around them are called."""
    if depth == 0:
        return
    if isinstance(value, dict):
        yield from (value[name] for name in names if name in value)
    for inner in value.values() if isinstance(value, dict) else value[:MAX_OBJECTS] if isinstance(value, list) else ():
        yield from members_within(inner, names, depth - 1)
