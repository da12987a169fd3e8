"""Bodies: of requests, read within bounds and as JSON, into models that validate; of answers, as JSON."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request
from starlette.responses import Response

from relay.errors import FieldError, Invalid, MalformedRequest, Overloaded, TooLarge, TooSlow, UnsupportedMediaType
from relay.outbound.deadline import Deadline
from relay.outbound.shares import OWNER, Shares

M = TypeVar("M", bound=BaseModel)

MAX_BODY = 512 * 1024
"""Bytes of a request body."""

MAX_BATCH_BODY = 16 * 1024 * 1024
"""Bytes of a batch."""

UNDER_WAY = 4 * MAX_BATCH_BODY
"""Bytes that the bodies under way in a process may come to. An app alone may have half of that."""

FREE = 64 * 1024
"""Bytes of a body that count for nothing: most bodies are smaller."""

RETRY_AFTER = 2.0
"""Seconds after which a caller may come again whose body there is no room for."""

BODY_DEADLINE = 20.0
"""Seconds in which a request body must have arrived."""

MAX_ERRORS = 100
"""Errors of one body that are answered: a body can have a hundred thousand, and no one reads more."""


class JsonResponse(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return `content` as JSON."""
        return orjson.dumps(content)


_JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json\s*(;.*)?", re.IGNORECASE)


async def read_json(request: Request) -> Any:
    """Return the request body as JSON.

    Raises:
        UnsupportedMediaType: it is not declared as JSON, or it is compressed.
        TooLarge: it has more than `MAX_BODY` bytes.
        MalformedRequest: it is not JSON as RFC 8259 has it, or names a key twice.
    """
    return decoded(await read_undecoded(request, MAX_BODY))


async def read_undecoded(request: Request, limit: int) -> bytes | bytearray:
    """Return a request body that should be JSON, for `decoded`.

    Raises:
        UnsupportedMediaType: it is not declared as JSON, or it is compressed.
        TooLarge: it has more than `limit` bytes.
    """
    if not _JSON_TYPE.fullmatch(request.headers.get("content-type", "").strip()):
        raise UnsupportedMediaType("send the body as 'Content-Type: application/json'")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("send the body as it is, without 'Content-Encoding'")
    return await read_body(request, limit)


def decoded(body: bytes | bytearray) -> Any:
    """Return a body as JSON.

    Raises:
        MalformedRequest: it is not JSON as RFC 8259 has it, or names a key twice.
    """
    try:
        orjson.loads(body)  # strict: UTF-8, no NaN, no lone surrogates, nesting bounded
        return _DECODER.decode(body.decode())  # whole numbers of any size; keys only once
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None


class Memory:
    """The memory for the body of one request, until the request is answered.

    Args:
        shares: of all bodies under way.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._owner = OWNER.get()
        self._size = 0
        self._until = asyncio.current_task()

    def grow(self, size: int, limit: int) -> None:
        """Take memory for so many bytes; if they turn out to be more than were taken, for twice as many.

        Raises:
            Overloaded: there is no room for them.
        """
        if size <= max(self._size, FREE):
            return
        more = max(0, min(max(size, 2 * self._size), limit) - self._size)
        if not self._shares.take(self._owner, more):
            raise Overloaded("too many bodies are under way", retry_after=RETRY_AFTER)
        if self._size == 0 and self._until is not None:
            self._until.add_done_callback(lambda _: self._shares.give_back(self._owner, self._size))
        self._size += more


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What the body of a request may take.

    Attributes:
        size: bytes.
        deadline: seconds until it has arrived.
        pause: seconds without a byte of it.
    """

    size: int
    deadline: float
    pause: float


async def read_body(request: Request, limit: int) -> bytearray:
    """Return the request body.

    Raises:
        TooLarge: it has more than `limit` bytes.
        TooSlow: it does not arrive in time.
        Overloaded: other bodies under way take all the memory that there is for those of this app.
        MalformedRequest: the connection ends before it.
    """
    limits = BodyLimits(limit, BODY_DEADLINE, BODY_DEADLINE)
    return await read_within(request, limits, request.app.state.bodies)


async def read_within(request: Request, limits: BodyLimits, shares: Shares) -> bytearray:
    """Return the request body, as `read_body` does.

    Args:
        shares: the memory for bodies of this kind.
    """
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not declared.isdigit() or int(declared) <= limits.size:
        memory = Memory(shares)
        memory.grow(int(declared) if declared.isdigit() else 0, limits.size)
        try:
            with Deadline(limits.deadline):
                more = True
                while more and len(body) <= limits.size:
                    async with asyncio.timeout(limits.pause):
                        message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise MalformedRequest("the connection ended before the body did")
                    chunk = message.get("body", b"")
                    memory.grow(len(body) + len(chunk), limits.size)
                    body += chunk
                    more = message.get("more_body", False)
        except TimeoutError:
            raise TooSlow(f"the body must arrive within {limits.deadline:.0f} s, and move meanwhile") from None
        if len(body) <= limits.size:
            return body
    raise TooLarge(f"the body may have {limits.size} bytes")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object that has each of its keys once."""
    members = dict(pairs)
    if len(members) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key '{twice[:40]}' stands twice in one object")
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def parse(model: type[M], value: Any, below: str = "", what: str = "the body") -> M:
    """Return `value` as `model`.

    Args:
        below: the pointer of what the caller sent, where `value` wraps it.
        what: what the caller calls `value`.

    Raises:
        Invalid: with every field that is wrong, and where it is.
    """
    if not isinstance(value, Mapping):
        raise Invalid(f"{what} must be a JSON object", errors=[FieldError("", "must be an object")])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        errors = [FieldError(pointer(detail["loc"]).removeprefix(below), _words(detail)) for detail in details]
        raise Invalid(_summary(errors, error.error_count(), what), errors=errors) from None


def _summary(errors: Sequence[FieldError], count: int, what: str) -> str:
    first = errors[0]
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{first.pointer or what}: {first.detail}{more}"


# Where pydantic's own message is about pydantic or Python.
_PLAIN = {
    "extra_forbidden": "is not a field here; check its spelling",
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "list_type": "must be an array",
    "dict_type": "must be an object",
}


def _words(error: ErrorDetails) -> str:
    """Return pydantic's message as a sentence about the field that the pointer names."""
    message = re.sub(r"^(Value error, |\w+ should )", lambda m: "must " if "should" in m[0] else "", error["msg"])
    return _PLAIN.get(error["type"], message.replace(" after validation", ""))


def pointer(path: Sequence[str | int]) -> str:
    """Return pydantic's location as a JSON pointer."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return "".join(f"/{part}" for part in parts)
