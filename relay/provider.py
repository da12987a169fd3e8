"""A declared upstream: its definition file, and the query that turns a task id into a reading."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx
import orjson
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from relay import __version__
from relay.budget import Limit
from relay.cadence import Cadence
from relay.errors import ConfigError
from relay.masking import spellings, without
from relay.model import Caution, Millis, Reading
from relay.outbound import failure_class
from relay.reading import Answer, Reader, not_answered
from relay.settings import from_environment, toml_of
from relay.tables import Errors, Read, Statuses, Table
from relay.values import fits_in_a_header

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that are read; a longer one is not understood."""

NOTHING = httpx.ByteStream(b"")
"""The body of a GET: given as a stream, it spares httpx making headers for it."""

SANDBOX = "sandbox:"
"""The `base_url` of the upstream that relay plays itself."""


_OF_A_URL = ("{task_id}", "{task_path}")
_PLACEHOLDERS = {"path": _OF_A_URL, "query": _OF_A_URL, "headers": ("{key}",)}  # JSON may have braces: GraphQL's


class RequestTable(Table):
    """`[request]`: what one query looks like.

    `{task_id}` stands for the id, percent-encoded in path and query; `{task_path}` for an id that is itself a path;
    `{key}` for the API key. A header that needs a key is left out when there is none. Names and values of `query` are
    plain text, `path` is sent as it is written.
    """

    base_url: str = ""
    method: Literal["GET", "POST"] = "GET"
    path: str = Field(pattern=r"^/[!-~]*$")
    query: dict[str, str] = Field({})
    headers: dict[str, str] = Field({})
    json_body: dict[str, Any] | None = Field(None, alias="json")
    timeout: float = Field(20.0, gt=0, le=40)  # a claim's lease is longer

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL:
            url = httpx.URL("")
        extra = url.userinfo or url.query or url.fragment
        whole = url.scheme in ("https", "http") and url.host and (url.port or 0) < 65536
        plain = whole and not extra and value.split() == [value]
        if value not in ("", SANDBOX) and not plain:
            raise ValueError("must be an address with https:// or http:// and a host, without query and password")
        return value.rstrip("/")

    @field_validator("path", "query", "headers")
    @classmethod
    def _known_placeholders(cls, template: Any, info: ValidationInfo) -> Any:
        allowed = _PLACEHOLDERS[str(info.field_name)]
        for text in _texts(template):
            if found := re.search(r"\{\w+\}?", re.sub("|".join(map(re.escape, allowed)), "", text)):
                raise ValueError(f"'{found[0]}' is no placeholder; {' and '.join(allowed)} can stand here")
        return template

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError("a name must be letters, digits and hyphens, without spaces")
            if not fits_in_a_header(value):
                raise ValueError(f"the value of '{name}' must be printable ASCII, in one line")
        return headers

    @model_validator(mode="after")
    def _asks_about_a_task(self) -> Self:
        in_url = any(one in text for text in _texts([self.path, self.query]) for one in _OF_A_URL)
        if not in_url and not any("{task_id}" in text for text in _texts(self.json_body)):
            raise ValueError("needs {task_id} or {task_path} in 'path' or 'query', or {task_id} in 'json'")
        return self

    @model_validator(mode="after")
    def _no_body_with_get(self) -> Self:
        if self.method == "GET" and self.json_body is not None:
            raise ValueError("'json' needs method = \"POST\": no body is sent with GET")
        return self


class Definition(Table):
    """A file of `config/providers/`, checked. Every table is described in docs/add-a-provider.md."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    title: str = ""
    request: RequestTable
    read: Read
    statuses: Statuses
    errors: Errors = Errors()
    caution: Caution = Caution()
    cadence: Cadence = Cadence()
    budget: Limit = Limit()


def load_definition(file: File, environ: Mapping[str, str] = os.environ) -> Definition:
    """The definition in `file`, its `extends` resolved; its address may come from the environment (`NAME_BASE_URL`).

    Raises:
        ConfigError: one line with the file and the table, or the variable, and what is wrong.
    """
    raw = _raw(file)
    name = file.stem
    base_url = from_environment(variable(name, "BASE_URL"), environ)
    if base_url:
        raw = _merged(raw, {"request": {"base_url": base_url}})
    try:
        return Definition.model_validate({**raw, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        if base_url and first["loc"] == ("request", "base_url"):
            # What is no address may be a key that was pasted here, and an address may hold one.
            read = f", not {base_url!r}" if re.fullmatch(r"\w+://[^@?]*", base_url) else ""
            raise ConfigError(f"{variable(name, 'BASE_URL')}: {why}{read}") from None
        where = ".".join(str(part) for part in first["loc"] if part != "expressions")
        raise ConfigError(f"{file}: {where}: {why}") from None


def _raw(file: File, below: tuple[File, ...] = ()) -> dict[str, Any]:
    raw = toml_of(file)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    other = file.parent / f"{parent}.toml"
    if other.parent != file.parent:
        raise ConfigError(f"{file}: extends: '{parent}' is not the name of a file beside this one")
    if other in (file, *below):
        raise ConfigError(f"{file}: extends: '{parent}' extends this file in turn")
    return _merged(_raw(other, (file, *below)), raw)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def variable(name: str, what: Literal["BASE_URL", "API_KEY"]) -> str:
    """The environment variable of a provider, `UNIFIED_VIDEO_BASE_URL` for `unified-video`."""
    return f"{name.upper().replace('-', '_')}_{what}"


UNUSABLE_KEY = "the API key holds characters that no header can carry"


class Provider:
    """An upstream that can be asked.

    Args:
        definition: its file.
        key: the deployment's API key for it, if it has one.
        transport: how requests go out.
    """

    def __init__(self, definition: Definition, key: str | None, transport: httpx.AsyncBaseTransport) -> None:
        self.name = definition.name
        self.definition = definition
        self._key = key
        self._transport = transport
        self._reader = Reader(definition.read, definition.statuses, definition.errors)
        base = "http://sandbox" if definition.request.base_url == SANDBOX else definition.request.base_url
        self._base = httpx.URL(base) if base else None
        query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in definition.request.query.items())
        prefix = self._base.raw_path.decode().rstrip("/") if self._base else ""
        self._target = prefix + definition.request.path + (f"?{query}" if query else "")
        self._known: dict[str | None, tuple[httpx.Headers, tuple[bytes, ...]]] = {}

    @property
    def configured(self) -> bool:
        """Whether it is known where to ask."""
        return self._base is not None

    @property
    def remedy(self) -> str:
        """What makes it known."""
        return f"set {variable(self.name, 'BASE_URL')}"

    @property
    def host(self) -> str:
        """The host that is asked."""
        return self._base.host if self._base else ""

    def lane(self, key: str | None) -> tuple[str, str | None]:
        """What the rate budget belongs to: (host, key)."""
        return self.host, key or self._key

    async def query(self, task_id: str, key: str | None, now: Millis) -> Reading:
        """Asks once about a task. Whatever happens is a reading.

        Args:
            key: the watch's own API key; None for the deployment's.
            now: serves to understand a `Retry-After` that is a date.
        """
        key = key or self._key
        if not fits_in_a_header(key):
            return not_answered("unauthorized", UNUSABLE_KEY)
        try:
            return self.read(await self._exchange(task_id, key), now)
        except httpx.HTTPError as error:
            what = failure_class(error)
            return not_answered(what, f"no answer from {self.host}: {str(error) or what}")

    async def ask(self, task_id: str, key: str | None) -> Answer:
        """The answer to one query, as it came.

        Raises:
            httpx.HTTPError: there was none.
            ConfigError: there is no address, or the key cannot be sent.
        """
        key = key or self._key
        if not fits_in_a_header(key):
            raise ConfigError(UNUSABLE_KEY)
        return await self._exchange(task_id, key)

    def read(self, answer: Answer, now: Millis) -> Reading:
        """What an answer of `ask` says."""
        return self._reader.read(answer, now)

    async def _exchange(self, task_id: str, key: str | None) -> Answer:
        response = await self._transport.handle_async_request(self._request(task_id, key))
        # Some repeat the key in what they say: an answer is stored, shown to the app and sent to its targets.
        spelt = self._of_key(key)[1]
        if response.is_redirect:
            response.headers["location"] = without(response.headers["location"].encode(), spelt).decode()
        return Answer(
            response.status_code,
            response.headers,
            without(await response.aread(), spelt),
            truncated=bool(response.extensions.get("truncated")),
        )

    def _request(self, task_id: str, key: str | None) -> httpx.Request:
        if self._base is None:
            raise ConfigError(f"provider '{self.name}' has no address: {self.remedy}")
        table = self.definition.request
        target = self._target.replace("{task_id}", quote(task_id, safe=""))
        target = target.replace("{task_path}", quote(task_id, safe="/:"))
        return httpx.Request(
            table.method,
            self._base,
            headers=self._of_key(key)[0],
            content=None if table.json_body is None else orjson.dumps(_filled(table.json_body, task_id)),
            stream=NOTHING if table.method == "GET" else None,
            # The target replaces path and query: a URL of httpx costs more to build than to ask.
            extensions={"target": target.encode(), "timeout": table.timeout, "max_bytes": MAX_ANSWER},
        )

    def _of_key(self, key: str | None) -> tuple[httpx.Headers, tuple[bytes, ...]]:
        """A query's headers and the key's spellings, made once per key: making them costs more than sending them."""
        if key not in self._known:
            if len(self._known) >= 1000:
                self._known.clear()
            headers = httpx.Headers({"User-Agent": f"relay/{__version__}"})
            for name, value in self.definition.request.headers.items():
                if "{key}" not in value or key:
                    headers[name] = value.replace("{key}", key or "")
            if self.definition.request.json_body is not None:
                headers["Content-Type"] = "application/json"
            self._known[key] = headers, spellings([key] if key else [])
        return self._known[key]


def _quoted(template: str) -> str:
    """Percent-encoded but for the placeholders."""
    return quote(template, safe="").replace("%7Btask_id%7D", "{task_id}").replace("%7Btask_path%7D", "{task_path}")


def _texts(template: Any) -> Iterator[str]:
    """Every text of a template, names of tables and headers aside."""
    if isinstance(template, str):
        yield template
    elif isinstance(template, dict | list):
        for part in template.values() if isinstance(template, dict) else template:
            yield from _texts(part)


def _filled(template: Any, task_id: str) -> Any:
    if isinstance(template, dict):
        return {name: _filled(value, task_id) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, task_id) for value in template]
    return template.replace("{task_id}", task_id) if isinstance(template, str) else template
