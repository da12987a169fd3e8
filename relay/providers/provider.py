"""A declared upstream: its definition file, and the query that turns a task id into a reading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import orjson

from relay import __version__
from relay.errors import ConfigError
from relay.model.reading import TOO_LARGE, Reading
from relay.model.times import Millis
from relay.outbound.codings import READABLE
from relay.outbound.descriptors import NoRoom
from relay.outbound.prepared import Exchanger, PreparedRequest
from relay.outbound.transport import failure_class
from relay.providers.definition import SANDBOX, Definition, variable
from relay.providers.document import Answer
from relay.providers.reader import Reader, not_answered
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

UNUSABLE_KEY = "the API key holds characters that no header can carry"


_DOTS = re.compile(r"/\.\.?(?:/|$)")
"""Parts of a path that servers take for directions, also where they are percent-encoded."""


class QueryTemplate(NamedTuple):
    """What all queries with one key have in common.

    Attributes:
        request: all of them, but for the task.
        secret_forms: how the key may be written in an answer.
    """

    request: PreparedRequest
    secret_forms: tuple[bytes, ...]


class Provider:
    """An upstream that can be asked.

    Args:
        definition: its file.
        key: the deployment's API key for it, if it has one.
        exchanger: sends the queries.

    Attributes:
        base_url_variable: the environment variable that says where to ask.
        host: the host that is asked; empty if its address is not known.
    """

    def __init__(self, definition: Definition, key: str | None, exchanger: Exchanger) -> None:
        self.name = definition.name
        self.base_url_variable = variable(self.name, "BASE_URL")
        self._needs_key = definition.needs_key
        self.definition = definition
        self._key = key
        self._exchanger = exchanger
        self._reader = Reader(definition.read, definition.statuses, definition.errors)
        base = "http://sandbox" if definition.request.base_url == SANDBOX else definition.request.base_url
        self._base = httpx.URL(base) if base else None
        self._address = str(self._base).rstrip("/") if self._base else ""
        self.host = self._base.host if self._base else ""
        query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in definition.request.query.items())
        prefix = self._base.raw_path.decode().rstrip("/") if self._base else ""
        self._target = prefix + definition.request.path + (f"?{query}" if query else "")
        self._templates: dict[str | None, QueryTemplate] = {}

    @property
    def configured(self) -> bool:
        """Return whether its address is known."""
        return self._base is not None

    @property
    def remedy(self) -> str:
        """Return what to do where its address is not known."""
        return f"set {self.base_url_variable}"

    @property
    def key_remedy(self) -> str:
        """Return what to do where a query lacks its key."""
        return f"'{self.name}' needs an API key: set {variable(self.name, 'API_KEY')}"

    def lacks_key(self, key: str | None) -> bool:
        """Return whether a query with a watch's own key, or None for the deployment's, would lack the key it needs."""
        return self._needs_key and not (key or self._key)

    def lane(self, key: str | None) -> tuple[str, str | None]:
        """Return what the rate budget belongs to: (host, key)."""
        return self.host, key or self._key

    async def query(self, task_id: str, key: str | None, now: Millis) -> tuple[Reading, Answer | None]:
        """Ask once about a task. A failure of the upstream is a reading too. Beside it stands the answer, if one came.

        Args:
            key: the watch's own API key; None for the deployment's.
            now: resolves a `Retry-After` that is a date.

        Raises:
            ConfigError: the provider has no address.
            NoRoom: nothing was sent, because relay itself had no connection to spare.
        """
        key = key or self._key
        if not fits_in_a_header(key):
            return not_answered("unauthorized", UNUSABLE_KEY), None
        try:
            answer = await self._exchange(task_id, key)
        except NoRoom:
            raise
        except httpx.HTTPError as error:
            failure = failure_class(error)
            return not_answered(failure, f"no answer from {self.host}: {str(error) or failure}"), None
        return self._read(answer, now), answer

    def _read(self, answer: Answer, now: Millis) -> Reading:
        """Return what an answer says. If it is too large to keep, the reading has no bytes of it."""
        reading = self._reader.read(answer, now)
        if len(answer.body) <= MAX_KEPT or len(reading.body or reading.aside or b"") <= MAX_KEPT:
            return reading
        return replace(reading, body=reading.body and TOO_LARGE, aside=reading.aside and TOO_LARGE)

    async def _exchange(self, task_id: str, key: str | None) -> Answer:
        template = self._templates.get(key) or self._prepare(key)
        response = await self._exchanger.exchange(template.request, self._target_of(task_id), self._body_of(task_id))
        body = response.body
        truncated = response.truncated
        if len(body) > MAX_KEPT and _parts(body) > MAX_PARTS:
            body = body[:MAX_KEPT]
            truncated = True
        # Some repeat the key in what they say: an answer is stored, shown to the app and sent to its targets.
        secret_forms = template.secret_forms
        headers = _headers_read(response.headers)
        if "location" in headers:
            headers["location"] = redact(headers["location"].encode(), secret_forms).decode()
        unread = redact(response.unread.encode(), secret_forms).decode() if response.unread else ""
        body = redact(body, secret_forms)
        return Answer(
            response.status, headers, body, truncated, unread, response.reservation, secret_forms, self._address
        )

    def _target_of(self, task_id: str) -> bytes:
        """Return path and query of a query about a task.

        Raises:
            httpx.LocalProtocolError: the id would lead somewhere else. None can be registered that does.
        """
        target = self._target.replace("{task_id}", quote(task_id, safe=""))
        if "{task_path}" in target:
            target = target.replace("{task_path}", quote(task_id, safe="/:"))
        if "/." in target and _DOTS.search(target.partition("?")[0]):
            raise httpx.LocalProtocolError("a part of the id is '.' or '..', which leads to another address")
        return target.encode("ascii")

    def _body_of(self, task_id: str) -> bytes:
        """Return the body of a query about a task; a GET has none."""
        template = self.definition.request.json_body
        return b"" if template is None else orjson.dumps(_filled(template, task_id))

    def _prepare(self, key: str | None) -> QueryTemplate:
        """Make what all queries with a key have in common, once to save time."""
        if self._base is None:
            raise ConfigError(f"provider '{self.name}' has no address: {self.remedy}")
        table = self.definition.request
        headers = httpx.Headers({"User-Agent": f"relay/{__version__}", "Accept-Encoding": READABLE})
        for name, value in table.headers.items():
            if "{key}" not in value or key:
                headers[name] = value.replace("{key}", key or "")
        if table.json_body is not None:
            headers["Content-Type"] = "application/json"
        extensions = {"timeout": table.timeout, "max_bytes": table.max_bytes, "reuse": True}
        # Given as a stream, the body spares httpx making headers for it: each query has its own.
        request = httpx.Request(
            table.method, self._base, headers=headers, stream=httpx.ByteStream(b""), extensions=extensions
        )
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        template = QueryTemplate(self._exchanger.prepare(request), encoded_forms([key] if key else []))
        self._templates[key] = template
        return template


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


def _quoted(template: str) -> str:
    """Percent-encode all but the placeholders."""
    return quote(template, safe="").replace("%7Btask_id%7D", "{task_id}").replace("%7Btask_path%7D", "{task_path}")


def _filled(template: Any, task_id: str) -> Any:
    if isinstance(template, dict):
        return {name: _filled(value, task_id) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, task_id) for value in template]
    return template.replace("{task_id}", task_id) if isinstance(template, str) else template
