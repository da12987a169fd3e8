"""Recorded answers, read as a poll would read them, without a network: for `relay providers read` and for tests."""

from __future__ import annotations

from typing import NamedTuple

import httpx

from relay.model.reading import Kind, Reading
from relay.model.times import Millis
from relay.providers.definition import Definition
from relay.providers.document import Answer
from relay.providers.follow import FollowUp, NoFollowUp
from relay.providers.reader import Reader


class Recorded(NamedTuple):
    """How recorded answers are read.

    Attributes:
        remark: what people should know of the second request; empty where there is nothing to say.
    """

    reading: Reading
    remark: str


def read_recorded(definition: Definition, answer: Answer, second: Answer | None, now: Millis) -> Recorded:
    """Return how an answer is read, with that of the second request where the file asks for one.

    Args:
        second: the answer to the second request, if it was recorded.
        now: resolves a `Retry-After` that is a date.
    """
    reading = Reader(definition.read, definition.statuses, definition.errors).read(answer, now)
    if definition.follow is None:
        return Recorded(reading, "the file has no [follow]: the second answer is not read" if second else "")
    if reading.kind is not Kind.COMPLETED:
        return Recorded(reading, "not completed, so the second answer is not read" if second else "")
    base = httpx.URL(definition.request.base_url) if definition.request.base_url else None
    follow_up = FollowUp(definition.follow, definition.read.envelope.members, base)
    try:
        target = follow_up.target(answer, {})
    except NoFollowUp as error:
        return Recorded(reading, f"no second request is made for the result: {error}")
    if second is None:
        return Recorded(
            reading, f"the result needs a second request, GET {target}: give the answer to it with --follow"
        )
    return Recorded(follow_up.read(reading, second), "")
