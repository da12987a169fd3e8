"""`[auth]` of a provider file: of which parts the API key consists, and what is made of it to be let in.

Most upstreams take the key as it is, and need none of this. The tables are here, what makes credentials by them is in
`relay.providers.credentials`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import httpx
import orjson
from pydantic import Field, field_validator, model_validator

from relay.providers.paths import Table
from relay.settings.types import fits_in_a_header

_PART = "[a-z][a-z0-9_]*"

NOW, END, ASSERTION = "now", "end", "assertion"
"""The placeholders beside the parts of the key: when a JWT begins and ends, and the JWT that is given for a token."""


class Key(Table):
    """What all kinds have: `key` names the parts of the API key, in their order."""

    key: str = Field(pattern=rf"^{_PART}(:{_PART})+$")

    @property
    def shape(self) -> str:
        """Return what an API key has to look like, in words for people."""
        return self.key.upper()

    def parts_of(self, key: str) -> dict[str, str]:
        """Return the parts of an API key by name. It is these joined by colons, or a JSON object that has them.

        Raises:
            ValueError: it is something else. The text says what it must be, and holds nothing of it.
        """
        names = self.key.split(":")
        if key.startswith("{"):
            parts = _members(key, names)
        else:
            parts = dict(zip(names, key.split(":", len(names) - 1), strict=False))
        if len(parts) < len(names) or not all(parts.values()):
            raise ValueError(f"must be {self.shape}, or a JSON object with {' and '.join(names)}")
        return parts

    @property
    def set_headers(self) -> tuple[str, ...]:
        """Return the headers that are made of a key, beside those in which the file has `{key}`."""
        return ()

    def names_of(self, *more: str) -> tuple[str, ...]:
        """Return the names that may stand in braces."""
        return (*self.key.split(":"), *more)


def _members(key: str, names: list[str]) -> dict[str, str]:
    try:
        given = orjson.loads(key)
    except orjson.JSONDecodeError:
        return {}
    return {name: value for name in names if isinstance(value := given.get(name), str)}


class Basic(Key):
    """`kind = "basic"`: user and password, encoded as HTTP's basic authentication wants them."""

    kind: Literal["basic"]
    key: str = Field("user:password", pattern=rf"^{_PART}:{_PART}$")

    def parts_of(self, key: str) -> dict[str, str]:
        """Return user and password. A key without a colon is both, encoded already.

        Raises:
            ValueError: it is neither.
        """
        names = self.key.split(":")
        pair = key if ":" in key else _decoded(key)
        if ":" not in pair or pair.startswith(":"):
            raise ValueError(f"must be {self.shape}, or that in Base64")
        return dict(zip(names, pair.split(":", 1), strict=True))

    def encoded(self, key: str) -> str:
        """Return what follows the word "Basic"."""
        return b64encode(":".join(self.parts_of(key).values()).encode()).decode()


def _decoded(text: str) -> str:
    try:
        return b64decode(text, validate=True).decode()
    except ValueError:
        return ""


class Signed(Table):
    """How a JWT is made: `[auth]` of `kind = "jwt"`, and `[auth.assertion]`.

    Attributes:
        secret: the part of the key that it is signed with.
        claims, headers: in texts, parts of the key may stand in braces; `{now}` and `{end}` are its times.
        lifetime: seconds from the one to the other.
    """

    algorithm: Literal["HS256", "ES256", "RS256"]
    secret: str
    claims: dict[str, Any]
    headers: dict[str, str] = Field({})
    lifetime: float = Field(gt=0, le=86400)


class Jwt(Key, Signed):
    """`kind = "jwt"`: a JSON Web Token that the key signs."""

    kind: Literal["jwt"]

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        _check_signed(self, self.names_of())
        return self


class OAuth(Key):
    """`kind = "oauth"`: a token that a token endpoint gives for the key, as OAuth 2.0 has it.

    Attributes:
        token_url: where it is asked for; `{base_url}` stands for the address of the upstream.
        form, json_body: what is asked with; parts of the key stand in braces, and so does `{assertion}`.
        assertion: makes the JWT that is given for a token.
        lifetime: seconds that a token holds where the answer does not say.
    """

    kind: Literal["oauth"]
    token_url: str
    form: dict[str, str] = Field({})
    json_body: dict[str, str] = Field({}, alias="json")
    assertion: Signed | None = None
    lifetime: float = Field(900.0, gt=0, le=86400)

    @field_validator("token_url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        good = re.fullmatch(r"(\{base_url\}|https?://[^\s/?#@{]+)(/[!-z|~]*)?", url)
        try:
            httpx.URL(url.replace("{base_url}", "https://upstream"))
        except httpx.InvalidURL:
            good = None
        if not good:
            raise ValueError("must be an address with https:// or http://, or begin with {base_url}")
        return url

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        if bool(self.form) == bool(self.json_body):
            raise ValueError("needs either 'form' or 'json', with which the token is asked for")
        more = () if self.assertion is None else (ASSERTION,)
        _check_names([self.form, self.json_body], self.names_of(*more))
        if self.assertion is not None:
            _check_signed(self.assertion, self.names_of())
        return self


SESSION_TOKEN = "session_token"  # noqa: S105
"""The third part of a key of AWS, where its credentials are temporary."""


class SigV4(Key):
    """`kind = "sigv4"`: a signature of every query, as AWS wants it.

    Attributes:
        service: the name that AWS signs for, often the first word of the address.
        region: where the address names none.
    """

    kind: Literal["sigv4"]
    key: Literal["access_key_id:secret_access_key"] = "access_key_id:secret_access_key"
    service: str = Field(pattern="^[a-z0-9-]+$")
    region: str = Field("us-east-1", pattern="^[a-z0-9-]+$")

    @property
    def set_headers(self) -> tuple[str, ...]:
        """Return the headers that are made of a key, beside those in which the file has `{key}`."""
        return ("X-Amz-Date", "X-Amz-Security-Token")

    @property
    def shape(self) -> str:
        """Return what an API key has to look like, in words for people."""
        return f"{self.key.upper()}, with :{SESSION_TOKEN.upper()} behind it where it is temporary"

    def parts_of(self, key: str) -> dict[str, str]:
        """Return the parts of an API key by name; all of them go into headers.

        Raises:
            ValueError: it is something else.
        """
        parts = super().parts_of(key)
        if key.startswith("{"):
            parts |= _members(key, [SESSION_TOKEN])
        else:
            secret, _, session_token = parts["secret_access_key"].partition(":")
            parts |= {"secret_access_key": secret} | ({SESSION_TOKEN: session_token} if session_token else {})
        if not fits_in_a_header("".join(parts.values())):
            raise ValueError(f"must be {self.shape}, in printable ASCII")
        return parts

    def region_of(self, host: str) -> str:
        """Return the region that the name of a host says, as `transcribe.eu-central-1.amazonaws.com` does."""
        return next((word for word in host.split(".") if re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", word)), self.region)


Auth = Annotated[Basic | Jwt | OAuth | SigV4, Field(discriminator="kind")]

KINDS = ("basic", "jwt", "oauth", "sigv4")


def _check_signed(table: Signed, names: tuple[str, ...]) -> None:
    if table.secret not in names:
        raise ValueError(f"secret: '{table.secret}' is no part of 'key'")
    _check_names([table.claims, table.headers], (*names, NOW, END))
    if f"{{{END}}}" not in table.claims.values():
        raise ValueError("claims: one must be {end}, such as exp")


def _check_names(template: Any, names: tuple[str, ...]) -> None:
    for name in _placeholders(template):
        if name not in names:
            raise ValueError(
                f"'{{{name}}}' is no placeholder; {', '.join(f'{{{each}}}' for each in names)} can stand here"
            )


def _placeholders(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield from re.findall(r"\{(\w+)\}", template)
    elif isinstance(template, dict | list):
        for part in template.values() if isinstance(template, dict) else template:
            yield from _placeholders(part)
