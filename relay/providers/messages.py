"""Messages to one upstream, prepared once and sent with a key, or with what is made of it; no answer holds the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from operator import attrgetter
from typing import NamedTuple

import httpx

from relay import __version__
from relay.errors import ConfigError
from relay.model.reading import Reading
from relay.model.times import Millis
from relay.outbound.codings import READABLE
from relay.outbound.deadline import Deadline
from relay.outbound.prepared import DecodedResponse, Exchanger, PreparedRequest
from relay.providers.credentials import UNUSABLE, Credential, Credentials
from relay.providers.definition import Definition
from relay.providers.document import Answer
from relay.providers.reader import not_answered
from relay.security.redaction import encoded_forms, redact
from relay.settings.types import fits_in_a_header

MAX_KEPT = 1024 * 1024
"""Bytes of an answer that a reading keeps. It is read whole, but only so much is stored and passed on."""

MAX_PARTS = 500_000
"""Values in an answer: in Python each takes many times the few bytes that it takes in JSON."""

MAX_TEMPLATES = 1000
"""Keys of which the prepared query is remembered."""

HEADERS_READ = {name.encode(): name for name in ("content-type", "location", "retry-after")}
"""The headers of an answer that count. Most answers have many more."""


class QueryTemplate(NamedTuple):
    """What all queries with one key have in common.

    Attributes:
        request: all of them, but for the task.
        follow_up: all second requests, but for their target.
        bulk: all queries about several tasks, but for the tasks.
        secret_forms: how the key may be written in an answer.
    """

    request: PreparedRequest
    follow_up: PreparedRequest
    bulk: PreparedRequest
    secret_forms: tuple[bytes, ...]


Which = Callable[[QueryTemplate], PreparedRequest]
"""Says which request of a template."""

QUERY: Which = attrgetter("request")
FOLLOW_UP: Which = attrgetter("follow_up")
BULK: Which = attrgetter("bulk")


class Messages:
    """What one upstream is asked.

    Args:
        definition: its file.
        base: its address; None if that is not known.
        key: the deployment's API key for it, if it has one.
        exchanger: sends the messages.
        remedy: what to do where its address is not known.
    """

    def __init__(
        self, definition: Definition, base: httpx.URL | None, key: str | None, exchanger: Exchanger, remedy: str
    ) -> None:
        self._definition = definition
        self._base = base
        self._address = str(base).rstrip("/") if base else ""
        self._key = key
        self._exchanger = exchanger
        self._remedy = remedy
        self._templates: dict[str | None, QueryTemplate] = {}
        self._credentials = Credentials(definition.auth, definition.request, exchanger) if definition.auth else None

    def at(self, base: httpx.URL | None, key: str | None) -> Messages:
        """Return these messages to another address. What is made of a key is shared, and made where the file says.

        Args:
            key: the deployment's API key there, if that may be sent to it.
        """
        moved = copy(self)
        moved._base = base
        moved._address = str(base).rstrip("/") if base else ""
        moved._key = key
        moved._templates = {}
        return moved

    async def send(
        self, key: str | None, which: Which, target: bytes, content: bytes, names: Mapping[str, str], now: Millis
    ) -> Answer | Reading:
        """Send a message, and return its answer; if nothing can be made of the key that lets it in, what that tells.

        Args:
            key: the watch's own API key; None for the deployment's.
            which: which of the prepared requests is sent.
            names: what the placeholders of the task stand for.
            now: what is made of the key has to be valid then.

        Raises:
            ConfigError: the provider has no address.
            httpx.TransportError: there is no answer.
        """
        key = key or self._key
        if self._credentials is not None and key:
            return await self._ask_with_credential(self._credentials, key, which, target, content, names, now)
        if not fits_in_a_header(key):
            return not_answered("unauthorized", f"the API key {UNUSABLE}")
        template = self._templates.get(key) or self._prepare(key)
        response = await self._exchanger.exchange(which(template), target, content)
        return self._answer(response, template.secret_forms, names)

    async def credential(self, now: Millis) -> Credential | Reading | None:
        """Return what is made of the deployment's key; why nothing can be; None where the key is sent as it is."""
        if self._credentials is None or not self._key:
            return None
        return await self._credentials.of(self._key, now)

    def heard(self, credential: Credential, status: int, now: Millis) -> None:
        """Note whether a call with what is made of the deployment's key was let in, for the next one."""
        credential.accepted |= status < 400
        if status == 401 and self._credentials is not None and self._key:
            self._credentials.drop(credential, self._key, now)

    async def _ask_with_credential(
        self,
        credentials: Credentials,
        key: str,
        which: Which,
        target: bytes,
        content: bytes,
        names: Mapping[str, str],
        now: Millis,
    ) -> Answer | Reading:
        """Ask with what is made of the key; if that is refused, once more with another one."""
        prepared = which(self._templates.get(None) or self._prepare(None))

        async def ask(credential: Credential) -> Answer:
            headers = credential.headers(prepared, target, content, now)
            response = await self._exchanger.exchange(prepared, target, content, headers)
            credential.accepted |= response.status < 400
            return self._answer(response, credential.secret_forms, names)

        seconds = self._definition.request.timeout
        try:
            with Deadline(seconds):
                credential = await credentials.of(key, now)
                if isinstance(credential, Reading):
                    return credential
                answer = await ask(credential)
                other = await credentials.instead_of(credential, key, now) if answer.status == 401 else None
                return await ask(other) if isinstance(other, Credential) else other or answer
        except TimeoutError:
            raise httpx.TimeoutException(f"no complete answer within {seconds:g} s") from None

    def _answer(self, response: DecodedResponse, secret_forms: tuple[bytes, ...], names: Mapping[str, str]) -> Answer:
        """Return an answer without the key: it is stored, shown to the app and sent to its targets."""
        body = response.body
        truncated = response.truncated
        if len(body) > MAX_KEPT and _parts(body) > MAX_PARTS:
            body = body[:MAX_KEPT]
            truncated = True
        headers = _headers_read(response.headers)
        if "location" in headers:
            headers["location"] = redact(headers["location"].encode(), secret_forms).decode()
        unread = redact(response.unread.encode(), secret_forms).decode() if response.unread else ""
        body = redact(body, secret_forms)
        return Answer(
            response.status, headers, body, truncated, unread, response.reservation, secret_forms, self._address, names
        )

    def _prepare(self, key: str | None) -> QueryTemplate:
        """Make what all queries with a key have in common, once to save time."""
        if self._base is None:
            raise ConfigError(f"provider '{self._definition.name}' has no address: {self._remedy}")
        table = self._definition.request
        headers = httpx.Headers({"User-Agent": f"relay/{__version__}", "Accept-Encoding": READABLE})
        for name, value in table.headers.items():
            if "{key}" not in value or key:
                headers[name] = value.replace("{key}", key or "")
        request = self._prepared(table.method, self._base, headers, as_json=table.json_body is not None)
        get = request if table.method == "GET" else self._prepared("GET", self._base, headers)
        bulk = self._definition.bulk
        many = (
            get if bulk is None or bulk.json_body is None else self._prepared("POST", self._base, headers, as_json=True)
        )
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        template = QueryTemplate(request, get, many, encoded_forms([key] if key else []))
        self._templates[key] = template
        return template

    def _prepared(
        self, method: str, base: httpx.URL, headers: httpx.Headers, *, as_json: bool = False
    ) -> PreparedRequest:
        """Make a request of which only the target and the body are missing."""
        table = self._definition.request
        if as_json:
            headers = headers.copy()
            headers.setdefault("Content-Type", "application/json")
        extensions = {"timeout": table.timeout, "max_bytes": table.max_bytes, "reuse": True}
        # Given as a stream, the body spares httpx making headers for it: each query has its own.
        return self._exchanger.prepare(
            httpx.Request(method, base, headers=headers, stream=httpx.ByteStream(b""), extensions=extensions)
        )


def _headers_read(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that are read of an answer; of one that stands there several times, all values."""
    read: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = HEADERS_READ.get(raw_name.lower())
        if name is not None:
            try:
                value = raw_value.decode()
            except UnicodeDecodeError:
                value = raw_value.decode("latin-1")
            read[name] = f"{read[name]}, {value}" if name in read else value
    return read


def _parts(body: bytes) -> int:
    """Return how many values a JSON text has at most."""
    return sum(body.count(mark) for mark in (b",", b"[", b"{"))
