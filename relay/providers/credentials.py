"""What a query is let in with, made of an API key and kept: a token of the upstream, or a signature of each query.

All polls with a key share a token. It is made once for all that wait for it, and again shortly before it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from relay.model.reading import Kind, Problem, Reading
from relay.model.times import Millis
from relay.outbound.prepared import Exchanger, PreparedRequest
from relay.providers.auth import Auth, Basic, Jwt, OAuth, Signed, SigV4
from relay.providers.definition import RequestTable
from relay.providers.jwts import signed
from relay.providers.sigv4 import signature
from relay.providers.token_endpoint import TokenEndpoint
from relay.security.redaction import encoded_forms
from relay.settings.types import fits_in_a_header

MARGIN = 60.0
"""Seconds before its end from which a token is made anew; a quarter of its life, where that is less."""

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds until a failed attempt to make a token is repeated: from the one to the other, each time twice as long."""

LONGEST_ASKED = 600.0
"""Seconds that a token endpoint may ask to be left alone."""

ACCEPTED_KEPT, REFUSED_KEPT = 5.0, 60.0
"""Seconds that a token is kept, though refused, which was made instead of another: one that has let a query in, and one
that never has. Else an upstream that refuses a key, or some tasks, would be asked for tokens with every poll."""

MAX_KEYS = 5000
"""Keys of which the credential is remembered."""

NEVER: Millis = 2**62

UNUSABLE = "holds characters that no header can carry; it must be printable ASCII"


Heading = Callable[[PreparedRequest, bytes, bytes, Millis], Mapping[str, str]]
"""Returns the headers that let a message in: a prepared request with a target and a body, at this time."""


@dataclass(slots=True, eq=False)
class Credential:
    """What lets queries with one key in.

    Attributes:
        headers: makes the headers of a message.
        secret_forms: how the key and what is made of it may be written in an answer.
        made_at: when it was made.
        until: when another one has to be.
        accepted: whether it has let a query in.
    """

    headers: Heading = field(repr=False)
    secret_forms: tuple[bytes, ...] = field(repr=False)
    made_at: Millis
    until: Millis = NEVER
    accepted: bool = False


@dataclass(slots=True)
class _Kept:
    """What is known of one key: its credential, or why it has none, and until when that holds."""

    credential: Credential | None = None
    making: asyncio.Task[Credential | Reading] | None = None
    replaced: bool = False
    failure: Reading | None = None
    failures: int = 0
    retry_at: Millis = 0


class Credentials:
    """Makes the credentials of one provider, and keeps them.

    Args:
        auth: `[auth]` of its file.
        request: `[request]`, whose headers have `{key}` in the place of the credential.
        exchanger: asks the token endpoint.
    """

    def __init__(self, auth: Auth, request: RequestTable, exchanger: Exchanger) -> None:
        self._auth = auth
        self._templates = {name: value for name, value in request.headers.items() if "{key}" in value}
        self._base_url = request.base_url
        self._exchanger = exchanger
        self._kept: dict[str, _Kept] = {}

    async def of(self, key: str, now: Millis) -> Credential | Reading:
        """Return the credential of a key; where none can be had, what that makes of a query: one that tells nothing.

        Raises:
            NoRoom: no token was asked for, because relay itself had no connection to spare.
        """
        kept = self._kept.get(key) or self._new(key)
        if kept.credential is not None and now < kept.credential.until:
            return kept.credential
        if kept.failure is not None and now < kept.retry_at:
            return kept.failure
        if kept.making is None:
            kept.making = asyncio.create_task(self._made(kept, key, now))
            kept.making.add_done_callback(lambda task: task.cancelled() or task.exception())  # heard, if nobody waits
        return await asyncio.shield(kept.making)

    async def instead_of(self, refused: Credential, key: str, now: Millis) -> Credential | Reading | None:
        """Return what there is in place of a credential that the upstream refused; None if that would be no other."""
        return await self.of(key, now) if self.drop(refused, key, now) else None

    def drop(self, refused: Credential, key: str, now: Millis) -> bool:
        """Forget a credential that the upstream refused. Return whether the next one can be another."""
        if not isinstance(self._auth, Jwt | OAuth):
            return False
        kept = self._kept.get(key)
        if kept is not None and kept.credential is refused:
            age = (now - refused.made_at) / 1000
            if kept.replaced and age < (ACCEPTED_KEPT if refused.accepted else REFUSED_KEPT):
                return False
            kept.credential = None
            kept.replaced = True
        return True

    async def _made(self, kept: _Kept, key: str, now: Millis) -> Credential | Reading:
        try:
            made = await self._make(key, now)
        except ValueError as error:
            made = Reading(Kind.NOT_ANSWERED, error=Problem(code="unauthorized", message=f"the API key {error}"))
        finally:
            kept.making = None
        if isinstance(made, Credential):
            kept.credential = made
            kept.failure = None
            kept.failures = 0
        else:
            kept.failure = made
            kept.failures += 1
            wait = min(FIRST_RETRY * 2 ** min(kept.failures - 1, 10), LONGEST_RETRY)
            wait = max(wait, min(made.retry_after or 0.0, LONGEST_ASKED))
            kept.retry_at = now + round(wait * 1000)
        return made

    async def _make(self, key: str, now: Millis) -> Credential | Reading:
        parts = self._auth.parts_of(key)
        secrets = (key, *parts.values())
        if isinstance(self._auth, SigV4):
            return Credential(partial(signature, self._auth, parts), encoded_forms(secrets), now)
        if isinstance(self._auth, Basic):
            return self._constant(self._auth.encoded(key), secrets, now, NEVER)
        if isinstance(self._auth, Jwt):
            token, end = signed(self._auth, parts, now)
            return self._constant(token, secrets, now, end)
        given = await TokenEndpoint(self._auth, self._base_url, self._exchanger).token(parts, now)
        if isinstance(given, Reading):
            return given
        return self._constant(given.token, secrets, now, now + round(given.lifetime * 1000))

    def _constant(self, credential: str, secrets: tuple[str, ...], now: Millis, end: Millis) -> Credential:
        """Return a credential that stands in the same headers of all messages, until shortly before its end."""
        headers = {name: template.replace("{key}", credential) for name, template in self._templates.items()}
        margin = min(MARGIN * 1000, (end - now) / 4)
        return Credential(lambda *_: headers, encoded_forms((*secrets, credential)), now, end - round(margin))

    def _new(self, key: str) -> _Kept:
        if len(self._kept) >= MAX_KEYS:
            self._kept.pop(next(iter(self._kept)))
        kept = self._kept[key] = _Kept()
        return kept


def flaw_of(auth: Auth | None, key: str) -> str:
    """Return what is wrong with an API key, in words that do not repeat it; empty if it can be used.

    Args:
        auth: what is made of it; None where it is sent as it is.
    """
    if auth is None:
        return "" if fits_in_a_header(key) else UNUSABLE
    try:
        parts = auth.parts_of(key)
        table = auth.assertion if isinstance(auth, OAuth) else auth
        if isinstance(table, Signed):
            signed(table, parts, 0)
    except ValueError as error:
        return str(error)
    return ""
