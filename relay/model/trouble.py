"""Troubles: what the operator should know of, because it does not go away by itself, or not soon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from relay.model.event import EventType
from relay.model.times import Millis


class UpstreamTrouble(StrEnum):
    """What is wrong with an upstream as a whole."""

    REFUSED = "refused"
    SILENT = "silent"
    UNROUTED = "unrouted"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, from when it was noticed until it is well again.

    Attributes:
        subject: names what is in trouble. It has one trouble at a time.
        type: the event that tells the operator.
        since: when it began.
        message: what is wrong, in one sentence.
        remedy: what to look at, such as the name of a variable.
        detail: the facts for programs, as JSON.
    """

    subject: str
    type: EventType
    since: Millis
    message: str
    remedy: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def upstream_subject(provider: str) -> str:
    """Return what an upstream is called among the subjects of troubles."""
    return f"upstream:{provider}"


def dead_subject(place: str) -> str:
    """Return what the dead deliveries of a place are called among the subjects of troubles."""
    return f"deliveries:{place}"


def unknown_subject(submission_id: str) -> str:
    """Return what a submission of which nobody knows what became is called among the subjects of troubles."""
    return f"submission:{submission_id}"


def unwell_subject(place: str) -> str:
    """Return what an unwell place is called among the subjects of troubles."""
    return f"target:{place}"
