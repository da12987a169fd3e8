"""Every table of a provider file, checked when the file is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any, Literal, Self

import httpx
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from relay.errors import ConfigError
from relay.model.cadence import Cadence
from relay.model.watch import NOUN, Caution
from relay.outbound.lane import Limit
from relay.providers.answer_paths import Read
from relay.providers.auth import Auth, OAuth
from relay.providers.bulk import Bulk
from relay.providers.follow import Follow
from relay.providers.hosts import Host
from relay.providers.id_form import IdForm
from relay.providers.mistakes import mistakes
from relay.providers.paths import Table
from relay.providers.placeholders import names_in, unknown_in
from relay.providers.statuses import Errors, Statuses
from relay.providers.submit import Submit
from relay.providers.variables import variable
from relay.settings.sources import from_environment, toml_of
from relay.settings.types import MIB, Size, duration, fits_in_a_header

SANDBOX = "sandbox:"
"""The `base_url` of the upstream that relay plays itself."""


_OF_A_URL = ("task_id", "task_path")

TASK_URL = "{task_url}"
"""The `path` of a provider whose ids are whole addresses."""


MAX_ANSWER = 16 * MIB
"""Bytes of an answer that are read unless the file says otherwise."""


MAX_TIMEOUT = 40.0
"""Seconds that all requests of one poll may take: the lease of its claim is longer."""


class RequestTable(Table):
    """`[request]`: what one query looks like.

    `{task_id}` stands for the id, percent-encoded in path and query; `{task_path}` for an id that is itself a path; the
    names of `id` for its parts; `{key}` for the API key. A header that needs a key is left out when there is none.
    Names and values of `query` are plain text, `path` is sent as it is written. It may be `{task_url}` alone, for an id
    that is a whole address.
    """

    base_url: str = ""
    id: str = ""
    method: Literal["GET", "POST"] = "GET"
    path: str = Field(pattern=r"^(/[!-~]*|\{task_url\})$")
    query: dict[str, str] = Field({})
    headers: dict[str, str] = Field({})
    json_body: dict[str, Any] | None = Field(None, alias="json")
    timeout: float = Field(20.0, gt=0, le=MAX_TIMEOUT)
    max_bytes: Size = Field(MAX_ANSWER, ge=1024, le=32 * MIB)  # twice that, coded and decoded, has room under way

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

    @field_validator("id")
    @classmethod
    def _of_parts(cls, form: str) -> str:
        IdForm(form)
        return form

    @field_validator("path", "query", "headers")
    @classmethod
    def _known_placeholders(cls, template: Any, info: ValidationInfo) -> Any:
        if template == TASK_URL:
            return template
        allowed = ("key",) if info.field_name == "headers" else (*_OF_A_URL, *names_in(info.data.get("id", "")))
        if unknown := unknown_in(template, allowed):
            known = " and ".join(f"{{{name}}}" for name in allowed)
            raise ValueError(f"'{unknown}' is no placeholder; {known} can stand here")
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
    def _path_stands_once(self) -> Self:
        base, path = ([part.lower() for part in text.split("/")[1:]] for text in (self.base_path, self.path))
        doubled = next((n for n in range(len(base), 0, -1) if base[-n:] == path[:n]), 0)
        if doubled:
            ending = "/" + "/".join(path[:doubled])
            raise ValueError(
                f"{self.base_url} ends in '{ending}', with which the path '{self.path}' begins: "
                f"leave it out, {self.base_url[: -len(ending)]}"
            )
        return self

    @property
    def asks_the_id(self) -> bool:
        """Return whether the id is the address that is asked."""
        return self.path == TASK_URL

    @property
    def carries_key(self) -> bool:
        """Return whether a query carries the API key."""
        return any("{key}" in value for value in self.headers.values())

    @property
    def base_path(self) -> str:
        """Return the path of `base_url`, empty if it has none."""
        return httpx.URL(self.base_url).path.rstrip("/")

    @model_validator(mode="after")
    def _asks_about_a_task(self) -> Self:
        in_body = set(names_in(self.json_body))  # which may have other braces, as GraphQL's do
        asked = set(names_in([self.path, self.query])) | in_body - {"task_path"}
        if unused := [name for name in IdForm(self.id).names if name not in asked]:
            raise ValueError(f"id: {{{unused[0]}}} stands nowhere in 'path', 'query' or 'json'")
        if not self.id and not self.asks_the_id and asked.isdisjoint(_OF_A_URL):
            raise ValueError("needs {task_id} or {task_path} in 'path' or 'query', or {task_id} in 'json'")
        return self

    @model_validator(mode="after")
    def _no_body_with_get(self) -> Self:
        if self.method == "GET" and self.json_body is not None:
            raise ValueError("'json' needs method = \"POST\": no body is sent with GET")
        return self


class Definition(Table):
    """A file of `config/providers/`, checked. Every table is described in docs/add-a-provider.md.

    Attributes:
        own_address: whether the file itself has an address, for which `NAME_BASE_URL` may be another.
    """

    own_address: bool = False
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    title: str = ""
    noun: str = Field(NOUN, min_length=1, max_length=40)
    hosts: tuple[Host, ...] = ()
    request: RequestTable
    auth: Auth | None = None
    submit: tuple[Submit, ...] = ()
    read: Read
    follow: Follow | None = None
    bulk: Bulk | None = None
    statuses: Statuses
    errors: Errors = Errors()
    caution: Caution = Caution()
    cadence: Cadence = Cadence()
    budget: Limit = Limit()

    @model_validator(mode="after")
    def _asks_the_files_address_for_tokens(self) -> Self:
        if self.hosts and isinstance(self.auth, OAuth) and self.auth.token_url.startswith("{base_url}"):
            raise ValueError("auth.token_url: needs an address of its own beside 'hosts': keys are not sent to theirs")
        return self

    @model_validator(mode="after")
    def _hosts_of_ids(self) -> Self:
        if self.request.asks_the_id and (self.request.query or not self.hosts):
            why = "else any app could have the key sent to itself, and no 'query': the id has its own"
            raise ValueError(f"path = '{TASK_URL}' needs 'hosts', {why}")
        return self

    @field_validator("cadence", mode="before")
    @classmethod
    def _with_a_duration(cls, table: Any) -> Any:
        if not isinstance(table, dict) or "expires_in" not in table:
            return table
        try:
            return {**table, "expires_in": duration(table["expires_in"])}
        except ValueError as error:
            raise ValueError(f"expires_in: {error}") from None

    @model_validator(mode="after")
    def _follows_within_a_claim(self) -> Self:
        if self.follow is None:
            return self
        if unknown := unknown_in(self.follow.path, (*_OF_A_URL, *names_in(self.request.id), *self.follow.names)):
            raise ValueError(f"follow.path: '{unknown}' stands for nothing: name it in 'with'")
        if self.request.timeout > MAX_TIMEOUT / 2:
            raise ValueError(f"request.timeout: at most {MAX_TIMEOUT / 2:g} with a second request in [follow]")
        return self

    @model_validator(mode="after")
    def _shares_whole_ids(self) -> Self:
        if self.bulk is not None and self.request.id:
            raise ValueError("bulk: a query about several tasks has no place for ids of several parts")
        if self.bulk is not None and self.follow is not None:
            raise ValueError("bulk: the second request in [follow] needs the answer about one task")
        return self

    @property
    def needs_key(self) -> bool:
        """Return whether no query is answered without an API key.

        A file without an address is for gateways that people run themselves, some of which need none; but none of these
        has tokens or signatures.
        """
        return self.uses_key and (self.own_address or (self.auth is not None and self.auth.kind != "basic"))

    @property
    def uses_key(self) -> bool:
        """Return whether a query carries the API key, or what is made of it."""
        return self.request.carries_key or (self.auth is not None and self.auth.kind == "sigv4")

    @model_validator(mode="after")
    def _has_a_place_for_the_credential(self) -> Self:
        if self.auth is not None and not self.uses_key:
            raise ValueError("auth: what it makes needs a header with {key} in [request]")
        return self


def load_definition(file: File, environ: Mapping[str, str] = os.environ) -> Definition:
    """Return the definition in `file`, its `extends` resolved, its address from `NAME_BASE_URL` where that is set.

    Raises:
        ConfigError: one line with the file and the table, or the variable, and what is wrong.
    """
    definition, wrong = checked(file, environ)
    if definition is not None:
        return definition
    more = f"; {len(wrong) - 1} more: 'relay providers check {file}' shows all" if wrong[1:] else ""
    raise ConfigError(f"{file}: {wrong[0]}{more}")


def checked(file: File, environ: Mapping[str, str] = os.environ) -> tuple[Definition | None, list[str]]:
    """Return the definition in `file`, or else None and a line for each mistake in it.

    Raises:
        ConfigError: the file cannot be read, or its address from `NAME_BASE_URL` is wrong.
    """
    raw = _raw(file)
    name = file.stem
    own_address = bool(isinstance(request := raw.get("request"), dict) and request.get("base_url"))
    base_url = from_environment(variable(name, "BASE_URL"), environ)
    if base_url:
        raw = _merged(raw, {"request": {"base_url": base_url}})
    token_url = from_environment(variable(name, "TOKEN_URL"), environ)
    if token_url and isinstance(auth := raw.get("auth"), dict) and auth.get("kind") == "oauth":
        raw = _merged(raw, {"auth": {"token_url": token_url}})
    try:
        return Definition.model_validate({**raw, "name": name, "own_address": own_address}), []
    except ValidationError as error:
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        if base_url and why.startswith(base_url.rstrip("/")):
            raise ConfigError(f"{variable(name, 'BASE_URL')}: {why}") from None
        if base_url and first["loc"] == ("request", "base_url"):
            # What is no address may be a key that was pasted here, and an address may hold one.
            read = f", not {base_url!r}" if re.fullmatch(r"\w+://[^@?]*", base_url) else ""
            raise ConfigError(f"{variable(name, 'BASE_URL')}: {why}{read}") from None
        if token_url and first["loc"] == ("auth", "oauth", "token_url"):
            raise ConfigError(f"{variable(name, 'TOKEN_URL')}: {why}") from None
        return None, mistakes(error.errors(), Definition, _family(file))


def _family(file: File) -> list[File]:
    """Return a file and those that it extends, nearest first."""
    parent = toml_of(file).get("extends")
    return [file] if parent is None else [file, *_family(file.parent / f"{parent}.toml")]


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
