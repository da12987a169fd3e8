"""The seam between relay and its channels: what a channel is given, and what it says of a target and of a message.

`relay.channels` lists the channels; docs/add-a-channel.md shows how to write one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

import httpx
from pydantic import BaseModel, ConfigDict, Field

from relay.channels.urls import UrlCheck
from relay.model.delivery import Outcome, Verdict
from relay.model.times import Millis
from relay.outbound.descriptors import NoRoom
from relay.outbound.prepared import NONE, DecodedResponse, PreparedRequest
from relay.outbound.transport import Transport, failure_class
from relay.security.guard import Guard
from relay.settings.options import Settings
from relay.store import Database

DEADLINE = 15.0
"""Seconds for one attempt: name resolution, connection, headers and body together."""

MAX_ANSWER = 64 * 1024
"""Bytes of a receiver's answer that are read."""

KEPT_ANSWER = 16 * 1024
"""Bytes of it that an attempt keeps."""

ROOM_RETRY = 1.0
"""Seconds until the next try where relay itself had no connection to spare."""

EventName = Literal["task.completed", "task.failed", "task.expired", "task.lost", "task.progress", "task.late"]
Events = Annotated[
    list[EventName],
    Field(min_length=1, description="What this target wants to hear. Every terminal event, if left out."),
]
_ENDS: list[EventName] = ["task.completed", "task.failed", "task.expired", "task.lost"]


def default(value: Any, **constraints: Any) -> Any:
    """Return a field whose default is a list or an object. Made anew each time: pydantic would copy it deeply."""
    schema = {"default": value, **constraints.pop("json_schema_extra", {})}
    return Field(default_factory=lambda: value.copy(), json_schema_extra=schema, **constraints)


ALL_ENDS: Any = default(_ENDS)


class Target(BaseModel):
    """A target as an app gives it. Each channel has a subclass with the fields that its targets have.

    A field that relay does not know is refused, so that a typo is not silently lost.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    if (
        TYPE_CHECKING
    ):  # Each subclass declares these two itself: the API shows fields in the order of their declaration.
        type: str
        events: Events

    @classmethod
    def written(cls, text: str) -> dict[str, Any]:
        """Return the target that a text stands for, where there is room for no more: its first field has the text."""
        (name,) = get_args(cls.model_fields["type"].annotation)
        first = next(field for field in cls.model_fields if field not in ("type", "events"))
        return {"type": name, first: text}


TargetT = TypeVar("TargetT", bound=Target)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a target leads.

    Attributes:
        content: what `Channel.show` and `Channel.send` get back. It is stored sealed, so it may hold secrets.
        host: the name under which an app finds the deliveries. Targets of one host share a limit.
        place: what tells this address from the others of its channel. Each place has its own health and its own limit.
        living: whether a message there is posted at registration and edited until the end.
    """

    content: dict[str, Any] = field(repr=False)
    host: str
    place: str = field(repr=False)
    living: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One event on its way to one target.

    Attributes:
        id: the `webhook-id`, the same on every attempt.
        type: the event's type.
        body: the event, the same bytes on every attempt.
        address: the content of the target's `Address`.
        secrets: the app's signing secrets that are valid now, newest first.
        at: when this attempt begins.
        target_id: the target of a delivery; None for a test.
        traceparent: names this attempt to other services that trace; None where tracing is off.
        again: whether an attempt before this one has failed.
    """

    id: str
    type: str
    body: bytes
    address: dict[str, Any] = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    at: Millis
    target_id: str | None = None
    traceparent: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Preview:
    """A request as people may see it: the secrets of the target are masked."""

    url: str
    headers: Mapping[str, str]


class Refused(ValueError):
    """A target cannot be reached, or relay may not reach it. The text says why and what to do.

    Attributes:
        field: the field of the target that is wrong.
    """

    def __init__(self, field: str, detail: str) -> None:
        self.field = field
        super().__init__(detail)


class TargetTransport(httpx.AsyncBaseTransport):
    """How requests to targets go out: with TLS to public addresses, without TLS to the allowed networks only.

    Every request gets `DEADLINE` and `MAX_ANSWER` as its limits.

    Args:
        encrypted: sends requests with TLS.
        plain: sends requests without TLS; its guard permits fewer addresses.
    """

    def __init__(self, encrypted: Transport, plain: Transport) -> None:
        self._encrypted = encrypted
        self._plain = plain

    def prepare(self, request: httpx.Request) -> PreparedRequest:
        """Return a request that is built and checked, for many messages.

        Raises:
            httpx.TransportError: it can never be sent.
        """
        return self._way(request).prepare(request)

    async def exchange(
        self, prepared: PreparedRequest, target: bytes, body: bytes = b"", headers: Mapping[str, str] = NONE
    ) -> DecodedResponse:
        """Send a message and read the answer.

        Raises:
            httpx.TransportError: there is no answer.
        """
        transport = self._encrypted if prepared.origin.tls else self._plain
        return await transport.exchange(prepared, target, body, headers)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        return await self._way(request).handle_async_request(request)

    def _way(self, request: httpx.Request) -> Transport:
        """Set the limits of a request, and return what sends it."""
        request.extensions = {**request.extensions, "timeout": DEADLINE, "max_bytes": MAX_ANSWER}
        return self._encrypted if request.url.scheme == "https" else self._plain


@dataclass(frozen=True, slots=True)
class Resources:
    """What a process offers to its channels. Each channel takes what it needs.

    Attributes:
        settings: the effective configuration.
        transport: how HTTP requests to targets go out.
        urls: checks a URL at registration.
        guard: decides to which addresses an SDK may connect that opens its own connections.
        db: the database.
        process: the name of this process in leases.
        clock: returns the milliseconds since the epoch.
        noun_of: returns what a task of a provider is to people, such as "Transcription", by the provider's name.
    """

    settings: Settings
    transport: TargetTransport
    urls: UrlCheck
    guard: Guard
    db: Database
    process: str
    clock: Callable[[], Millis]
    noun_of: Callable[[str], str]


def failed(error: httpx.HTTPError) -> Outcome:
    """Return the outcome of an attempt that has ended with an error of a transport."""
    unsent = isinstance(error, NoRoom)
    pause = ROOM_RETRY if unsent else None
    return Outcome(Verdict.RETRY, failure_class(error), retry_after=pause, unsent=unsent, note=str(error) or None)


class Channel(ABC, Generic[TargetT]):
    """A way to notify people or programs: everything that relay knows about one type of target.

    Args:
        resources: what the process offers.

    Attributes:
        schema: the target as an app gives it. The value of its `type` is the name of the channel.
    """

    schema: ClassVar[type[Target]]

    @abstractmethod
    def __init__(self, resources: Resources) -> None: ...

    @classmethod
    def name(cls) -> str:
        """Return the `type` of this channel's targets."""
        (name,) = get_args(cls.schema.model_fields["type"].annotation)
        return str(name)

    @abstractmethod
    async def check(self, target: TargetT) -> None:
        """Refuse a target at registration if it cannot be reached, or must not be.

        Raises:
            Refused: with the field that is wrong and what to do.
        """

    async def permit(self, target: TargetT, app_id: str) -> None:
        """Refuse a target at registration that this app may not have, though others may. The default permits all.

        Raises:
            Refused: with the field that is wrong and what to do.
        """
        del target, app_id

    @abstractmethod
    def address(self, target: TargetT) -> Address:
        """Return where a target leads."""

    @abstractmethod
    def show(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a target that its app sees again, with every secret masked.

        The first of them is what the dashboard calls the target.

        Args:
            content: of the target's `Address`.
        """

    def preview(self, message: Message) -> Preview | None:
        """Return the request that a message goes out with; None if the channel makes a message of its own of it."""
        del message
        return None

    @abstractmethod
    async def send(self, message: Message) -> Outcome:
        """Try once to send a message, within `DEADLINE`. A failure at the other end is an outcome, not an exception."""

    async def aclose(self) -> None:
        """Close what the channel has opened."""
        return
