"""Webhooks: a signed POST, as Standard Webhooks 1.0.0 has it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx

from relay import __version__, signing
from relay.channels.base import DEADLINE, KEPT_ANSWER, MAX_ANSWER, Message
from relay.masking import secret_parts, spellings, without
from relay.model import Outcome, Verdict
from relay.outbound import failure_class
from relay.retry import parse_retry_after


class WebhookChannel:
    """Posts events to URLs.

    Args:
        transport: how requests go out.
        plain: how those without TLS do, whose guard lets fewer pass.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, plain: httpx.AsyncBaseTransport) -> None:
        self._transport, self._plain = transport, plain

    async def send(self, message: Message) -> Outcome:
        """Delivered is 2xx and nothing else; 410 ends the target; anything else is tried again."""
        static: dict[str, str] = message.address.get("headers", {})
        headers = {
            "content-type": "application/json",
            "user-agent": f"relay/{__version__}",
            "webhook-id": message.id,
            "webhook-timestamp": str(message.timestamp),
            "webhook-signature": signing.sign(message.secrets, message.id, message.timestamp, message.body),
        }
        if message.traceparent is not None:
            headers["traceparent"] = message.traceparent
        headers |= {name: value for name, value in static.items() if name.lower() not in headers}
        try:
            request = httpx.Request(
                "POST",
                message.address["url"],
                headers=headers,
                content=message.body,
                extensions={"timeout": DEADLINE, "max_bytes": MAX_ANSWER},
            )
            transport = self._transport if request.url.scheme == "https" else self._plain
            response = await transport.handle_async_request(request)
        except (httpx.InvalidURL, UnicodeError):
            return Outcome(Verdict.RETRY, "protocol", note="the URL cannot be called: register another")
        except httpx.HTTPError as error:
            return Outcome(Verdict.RETRY, failure_class(error), note=str(error) or None)
        credentials = (value.partition(" ")[2] for value in static.values())
        secrets = (*message.secrets, *static.values(), *credentials, *secret_parts(message.address["url"]))
        return await _outcome(response, secrets)


async def _outcome(response: httpx.Response, secrets: Sequence[str]) -> Outcome:
    spelt = spellings(secrets)
    status, body = response.status_code, without(await response.aread(), spelt)
    truncated = len(body) > KEPT_ANSWER or bool(response.extensions.get("truncated"))
    answer = body[:KEPT_ANSWER]
    if response.is_success:
        return Outcome(Verdict.DELIVERED, status=status, answer=answer, truncated=truncated)
    note = None
    if response.is_redirect and "location" in response.headers:
        where = without(response.headers["location"].encode(), spelt).decode()[:500]
        note = f"redirects are not followed: register the final URL ({where}) instead"
    elif response.is_redirect:
        note = f"{status} is no success: the receiver must answer 2xx"
    if status == 410:
        note = "the receiver answered 410 Gone: nothing more is sent to this target"
    return Outcome(
        Verdict.GIVE_UP if status == 410 else Verdict.RETRY,
        error=f"http_{status}",
        status=status,
        retry_after=parse_retry_after(response.headers.get("retry-after"), round(time.time() * 1000))
        if status in (429, 503)
        else None,
        ends_target=status == 410,
        note=note,
        answer=answer,
        truncated=truncated,
    )
