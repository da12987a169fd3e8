"""A reading: what one query of an upstream said about a task."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, cast

from typing_extensions import TypedDict

TOO_LARGE = b""
"""The body of an answer that was read but is too large to keep."""


class Kind(StrEnum):
    """What one query of the upstream came to."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN_TASK = "unknown_task"
    NOT_UNDERSTOOD = "not_understood"
    NOT_ANSWERED = "not_answered"


class Problem(TypedDict):
    """The `error` of a watch: a code to branch on and a sentence to read."""

    code: str
    message: str


INTERNAL = Problem(code="internal", message="relay itself failed to ask: the log of the operator says how")
"""Why a query told nothing, if a fault of relay's own has interrupted it."""


class Result(TypedDict):
    """The `result` of a completed task, a field null where the upstream does not say.

    `urls` has all links, `url` the first of them. `text` is a result that is text itself, `ref` one that no http link
    names. `key_needed` says that the links open only with the provider's key.
    """

    url: str | None
    urls: list[str]
    thumbnail_url: str | None
    preview_url: str | None
    width: int | None
    height: int | None
    enhanced_prompt: str | None
    text: str | None
    ref: str | None
    key_needed: bool
    expires_at: str | None


def stored_result(stored: Mapping[str, Any]) -> Result:
    """Return a stored result with all its members: earlier releases stored fewer."""
    url = stored.get("url")
    empty = dict.fromkeys(Result.__annotations__) | {"urls": [url] if url else [], "key_needed": False}
    return cast(Result, empty | dict(stored))


class Reading(NamedTuple):
    """What one query said. (Each poll makes one: as a frozen dataclass it would cost five times as much.)

    Attributes:
        status: the upstream's own word, in lower case; None when there was none.
        progress: 0 to 1.
        error: for a failure its reason; for an answer that tells nothing about the task, why it does not.
        retry_after: seconds that the upstream asked to be left alone, about this task or altogether.
        limited: the upstream refused because of how much is asked with this key, so the whole key must pause.
        body: the answer as it came, when it was a JSON object about the task; what events and the mirror repeat. Or
            `TOO_LARGE`.
        aside: the same, when it tells nothing about the task; repeated by the event of an end, and where nothing was
            said of the task.
        http_status: what `body` or `aside` came with.
        repaired: `body` or `aside` is not as it came: its writing was broken, and is strict JSON now.
        cut: `body` or `aside` is only what the provider's file keeps of the answer.
        model: what the upstream calls the model that works on the task.
        inline: the result stands in the answer itself, where no link will follow.
        no_route: a 404 that says nothing about the task, as routers give it: the address may be wrong.
    """

    kind: Kind
    status: str | None = None
    progress: float | None = None
    result: Result | None = None
    error: Problem | None = None
    retry_after: float | None = None
    limited: bool = False
    body: bytes | None = None
    aside: bytes | None = None
    http_status: int = 200
    repaired: bool = False
    cut: bool = False
    model: str | None = None
    inline: bool = False
    no_route: bool = False
