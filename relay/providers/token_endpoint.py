"""The token endpoint of an upstream (OAuth 2.0, RFC 6749): gives tokens for an API key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

import httpx
import orjson

from relay import __version__
from relay.model.reading import Kind, Problem, Reading
from relay.model.retry import parse_retry_after
from relay.model.times import Millis
from relay.outbound.codings import READABLE
from relay.outbound.prepared import DecodedResponse, Exchanger
from relay.outbound.transport import failure_of
from relay.providers.answer_paths import ErrorPaths
from relay.providers.auth import ASSERTION, OAuth
from relay.providers.fields import number_of
from relay.providers.jwts import filled, signed
from relay.providers.paths import Path, Place
from relay.providers.reasons import Reasons
from relay.providers.statuses import Errors
from relay.security.redaction import encoded_forms, redact
from relay.settings.types import KIB, fits_in_a_header

TIMEOUT = 10.0
"""Seconds that a token endpoint has for its answer."""

MAX_BYTES = 64 * KIB
"""Bytes of its answer that are read."""

MAX_WORDS = 300
"""Characters that are repeated of its reason for giving no token."""

_REASONS = Reasons(
    ErrorPaths(
        code=Path(expressions=("error.code", "error.status", "error", "errorCode", "code")),
        message=Path(expressions=("error_description", "error.message", "message", "errorMessage", "detail")),
    ),
    Errors(),
    {},
)


class GivenToken(NamedTuple):
    """A token, and for how many seconds it holds."""

    token: str
    lifetime: float


class TokenEndpoint:
    """Asks for tokens.

    Args:
        table: `[auth]` of the provider.
        base_url: the address of the upstream.
        exchanger: sends the requests; like every call of an upstream they pass the guard.
    """

    def __init__(self, table: OAuth, base_url: str, exchanger: Exchanger) -> None:
        self._table = table
        self._exchanger = exchanger
        self._url = httpx.URL(table.token_url.replace("{base_url}", base_url))

    async def token(self, parts: Mapping[str, str], now: Millis) -> GivenToken | Reading:
        """Ask for a token. Where none is given, return what that makes of a query: one that tells nothing.

        Args:
            parts: the parts of the API key.

        Raises:
            ValueError: nothing can be asked with this key.
            NoRoom: nothing was sent, because relay itself had no connection to spare.
        """
        values = dict(parts)
        if self._table.assertion is not None:
            values[ASSERTION], _ = signed(self._table.assertion, parts, now)
        try:
            response = await self._asked(values)
        except httpx.HTTPError as error:
            failure = failure_of(error)
            return self._none(failure, str(error) or failure)
        if 200 <= response.status < 300 and (given := self._given(response.body)):
            return given
        return self._refused(response, encoded_forms(values.values()), now)

    async def _asked(self, values: Mapping[str, str]) -> DecodedResponse:
        table = self._table
        if table.form:
            content_type = "application/x-www-form-urlencoded"
            body = urlencode(filled(table.form, values)).encode()
        else:
            content_type = "application/json"
            body = orjson.dumps(filled(table.json_body, values))
        headers = {
            "User-Agent": f"relay/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": READABLE,
            "Content-Type": content_type,
        }
        extensions = {"timeout": TIMEOUT, "max_bytes": MAX_BYTES}
        stream = httpx.ByteStream(b"")  # the body is the message's, and so is its length
        request = httpx.Request("POST", self._url, headers=headers, stream=stream, extensions=extensions)
        return await self._exchanger.exchange(self._exchanger.prepare(request), self._url.raw_path, body)

    def _given(self, body: bytes) -> GivenToken | None:
        answer = _object(body)
        token = answer.get("access_token")
        if not isinstance(token, str) or not token or not fits_in_a_header(token):
            return None
        lifetime = number_of(answer.get("expires_in"))
        return GivenToken(token, lifetime if lifetime and 0 < lifetime < 1e9 else self._table.lifetime)

    def _refused(self, response: DecodedResponse, secret_forms: tuple[bytes, ...], now: Millis) -> Reading:
        """Return what an answer without a token comes to, with the endpoint's own words for it."""
        status = response.status
        answer = _object(redact(response.body, secret_forms))
        why = _REASONS.problem([Place("", (answer,))], "", "")
        told = why["code"] in why["message"]
        words = (why["message"] if told else f"{why['code']}: {why['message']}").strip()[:MAX_WORDS]
        code = f"http_{status}"
        if 200 <= status < 300:
            code, words = "no_token", words or "the answer holds no access_token"
        elif status in (400, 401, 403):
            code = "unauthorized"
        elif status == 429:
            code = "rate_limited"
        asked = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
        wait = parse_retry_after(asked.decode("latin-1"), now) if status in (429, 503) else None
        return self._none(code, f"HTTP {status} {words}".rstrip(), wait)

    def _none(self, code: str, why: str, retry_after: float | None = None) -> Reading:
        problem = Problem(code=code, message=f"no token from {self._url.host}: {why}")
        return Reading(Kind.NOT_ANSWERED, error=problem, retry_after=retry_after)


def _object(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
