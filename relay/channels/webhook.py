"""Webhooks: a signed POST, as Standard Webhooks 1.0.0 has it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import httpx
from pydantic import AfterValidator, Field

from relay import __version__
from relay.channels.base import (
    ALL_ENDS,
    KEPT_ANSWER,
    Address,
    Channel,
    Events,
    Message,
    Preview,
    Refused,
    Resources,
    Target,
    default,
    failed,
)
from relay.channels.urls import Url, host_of
from relay.model.delivery import Outcome, Verdict
from relay.model.retry import parse_retry_after
from relay.outbound.codings import READABLE
from relay.outbound.prepared import DecodedResponse, PreparedRequest
from relay.security import signing
from relay.security.redaction import MASK, encoded_forms, redact, url_secrets

MAX_PREPARED = 1000
"""Targets whose prepared requests are remembered."""

MAX_HEADERS = 10
HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"
HEADER_VALUE = r"^[ -~]{1,4096}$"
FORBIDDEN_HEADERS = re.compile(
    "webhook-.*|content-.*|host|user-agent|traceparent|date|expect|te|trailer|transfer-encoding"
    "|connection|keep-alive|upgrade|proxy-authorization"
)


def _headers(value: dict[str, str]) -> dict[str, str]:
    if len({name.lower() for name in value}) != len(value):
        raise ValueError("must not name a header twice")
    for name, text in value.items():
        if not re.fullmatch(HEADER_NAME, name):
            raise ValueError(f"'{name[:40]}' is not a header name")
        if FORBIDDEN_HEADERS.fullmatch(name.lower()):
            raise ValueError(f"'{name}' is relay's own to set")
        if not re.fullmatch(HEADER_VALUE, text):
            raise ValueError(f"the value of '{name}' must be 1 to 4096 printable ASCII characters")
    return value


class WebhookTarget(Target):
    """A URL that gets a signed POST (Standard Webhooks)."""

    type: Literal["webhook"]
    url: Url = Field(description="https://; http:// only where RELAY_ALLOWED_NETWORKS allows the address", repr=False)
    events: Events = ALL_ENDS
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = default(
        {},
        max_length=MAX_HEADERS,
        description="Static headers to send along; kept sealed, shown masked. None that relay sets (`webhook-*`, "
        "`content-*`, `Host`, `User-Agent`, `Traceparent`, `Date`) or that belong to the connection.",
        repr=False,
        json_schema_extra={
            "propertyNames": {"pattern": HEADER_NAME},
            "additionalProperties": {"type": "string", "pattern": HEADER_VALUE},
        },
    )


class WebhookChannel(Channel[WebhookTarget]):
    """Posts events to URLs."""

    schema = WebhookTarget

    def __init__(self, resources: Resources) -> None:
        self._transport = resources.transport
        self._urls = resources.urls
        self._requests: dict[tuple[object, ...], tuple[PreparedRequest, bytes]] = {}

    async def check(self, target: WebhookTarget) -> None:
        """Refuse a URL that relay may not call."""
        if problem := await self._urls.problem(target.url):
            raise Refused("url", problem)

    def address(self, target: WebhookTarget) -> Address:
        """Return the URL and the headers to send along."""
        return Address({"url": target.url, "headers": target.headers}, host_of(target.url), target.url)

    def show(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the URL and the names of the headers."""
        return {"url": content["url"], "headers": dict.fromkeys(content["headers"], MASK)}

    def preview(self, message: Message) -> Preview:
        """Return URL and headers of an event, with the values of static headers masked."""
        shown = self.show(message.address)
        return Preview(shown["url"], {**_OF_ALL, **_signed(message), **shown["headers"]})

    async def send(self, message: Message) -> Outcome:
        """Post an event. Only 2xx is success; 410 ends the target; anything else is tried again."""
        url: str = message.address["url"]
        static: dict[str, str] = message.address.get("headers", {})
        try:
            request, target = self._prepared(url, static, message)
            answer = await self._transport.exchange(request, target, message.body, _signed(message))
        except (httpx.InvalidURL, UnicodeError):
            return Outcome(Verdict.RETRY, "protocol", note="the URL cannot be called: register another")
        except httpx.HTTPError as error:
            return failed(error)
        return _outcome(answer, _secret_forms(tuple(message.secrets), url, tuple(static.values())))

    def _prepared(self, url: str, static: Mapping[str, str], message: Message) -> tuple[PreparedRequest, bytes]:
        """Return what all messages to a target have in common, and path and query: to make these takes longest."""
        key = (url, tuple(static.items()), message.again, message.traceparent is None)
        known = self._requests.get(key)
        if known is None:
            # The receiver knows by the webhook-id that an event came twice. A retry uses no kept connection: the
            # attempt before may have died on one. A receiver that has sent its status has the event, even if the rest
            # is broken.
            extensions = {"reuse": not message.again, "partial": True}
            of_relay = _OF_ALL.keys() | _OF_MESSAGE | (set() if message.traceparent is None else {"traceparent"})
            own = {name: value for name, value in static.items() if name.lower() not in of_relay}
            headers = httpx.Headers({**_OF_ALL, **own})
            headers.setdefault("accept-encoding", READABLE)
            # Given as a stream, the body spares httpx making headers for it: each message has its own.
            stream = httpx.ByteStream(b"")
            request = httpx.Request("POST", httpx.URL(url), headers=headers, stream=stream, extensions=extensions)
            if len(self._requests) >= MAX_PREPARED:
                self._requests.clear()
            known = self._requests[key] = self._transport.prepare(request), request.url.raw_path
        return known


_OF_ALL = {"content-type": "application/json", "user-agent": f"relay/{__version__}"}
"""The headers that all messages have."""

_OF_MESSAGE = {"webhook-id", "webhook-timestamp", "webhook-signature"}
"""The headers that each message has of its own."""


def _signed(message: Message) -> dict[str, str]:
    """Return the headers that a message has of its own."""
    timestamp = message.at // 1000
    headers = {
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signing.sign(message.secrets, message.id, timestamp, message.body),
    }
    if message.traceparent is not None:
        headers["traceparent"] = message.traceparent
    return headers


@lru_cache(maxsize=1000)
def _secret_forms(secrets: tuple[str, ...], url: str, static: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return what an answer may repeat: signing secrets, what is secret in the URL, and values of static headers."""
    credentials = (value.partition(" ")[2] for value in static)
    return encoded_forms((*secrets, *static, *credentials, *url_secrets(url)))


def _outcome(response: DecodedResponse, secret_forms: Sequence[bytes]) -> Outcome:
    """Return what an answer means, without the secrets that it may repeat."""
    status = response.status
    body = redact(response.body, secret_forms)
    received = Outcome(
        Verdict.DELIVERED,
        status=status,
        answer=body[:KEPT_ANSWER],
        truncated=len(body) > KEPT_ANSWER or response.truncated,
    )
    if 200 <= status < 300:
        return received
    refused = replace(received, verdict=Verdict.RETRY, error=f"http_{status}")
    if status == 410:
        gone = "the receiver answered 410 Gone: nothing more is sent to this target"
        return replace(refused, verdict=Verdict.GIVE_UP, ends_target=True, note=gone)
    headers = httpx.Headers(list(response.headers))
    if status in (429, 503):
        pause = parse_retry_after(headers.get("retry-after"), round(time.time() * 1000))
        return replace(refused, retry_after=pause)
    if 300 <= status < 400 and "location" in headers:
        location = redact(headers["location"].encode(), secret_forms).decode()[:500]
        return replace(refused, note=f"redirects are not followed: register the final URL ({location}) instead")
    if 300 <= status < 400:
        return replace(refused, note=f"{status} is no success: the receiver must answer 2xx")
    return refused
