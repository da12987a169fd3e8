"""Slack's Web API and its incoming webhooks, through the SDK: one call, one answer, whatever comes back.

The SDK has many ways to trip over an answer, may send again what Slack has taken already, and would log the URL of a
webhook, which is a credential. Here all of it becomes an `Answer` or an `Outcome`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from relay import __version__
from relay.channels.base import KEPT_ANSWER
from relay.channels.slack_errors import Refusal, meaning
from relay.guard import Guard
from relay.masking import secret_parts, spellings, without
from relay.model import Outcome, Verdict
from relay.outbound import failure_class
from relay.retry import parse_retry_after
from relay.sdk import as_httpx, guarded_session

SLOW_RETRY = 3600.0
"""Seconds until it makes sense to ask again what only time or an administrator changes."""

BUSY_RETRY = 30.0
"""Seconds to leave Slack alone when it says "too fast" and not for how long."""

CODE = re.compile("[a-z][a-z0-9_]{2,63}")

# A debug line of the SDK holds the whole webhook URL, and it looks at the level of the logger itself.
SDK_LOG = logging.getLogger(f"{__name__}.sdk")
SDK_LOG.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Answer:
    """What Slack said.

    Attributes:
        taken: whether it did what it was asked to.
        code: its word for why not, if it said one.
        said: all of it, without the secrets that it may repeat.
        data: the same as an object, for who looks something up; empty if it is none.
    """

    status: int
    taken: bool
    code: str | None
    said: str
    retry_after: str | None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class SlackApi:
    """Calls Slack.

    Args:
        guard: to which addresses it may connect.
        token: the bot's; None where only incoming webhooks are used.
        api_url: of the Web API.
    """

    def __init__(self, guard: Guard, token: str | None, api_url: str, proxy: str | None = None) -> None:
        self._guard, self._token, self._api_url, self._proxy = guard, token, api_url, proxy
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @property
    def has_bot(self) -> bool:
        """Whether there is a token for the Web API."""
        return self._token is not None

    async def aclose(self) -> None:
        """Closes every connection."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    def _options(self, url: str | None) -> dict[str, Any]:
        """What the SDK is told; the way out of a webhook without TLS leads to allowed networks alone."""
        plain = url is not None and url[:5].lower() == "http:"
        if plain not in self._sessions:
            self._sessions[plain] = guarded_session(self._guard.plain() if plain else self._guard, self._proxy)
        return {
            "session": self._sessions[plain],
            "user_agent_suffix": f"relay/{__version__}",
            "logger": SDK_LOG,
            "retry_handlers": [],
        }

    async def hook(self, url: str, body: dict[str, Any]) -> Answer:
        """Posts to an incoming webhook or a response URL. Raises what the SDK raises."""
        hook = AsyncWebhookClient(url, **self._options(url))
        hook.proxy = None  # The SDK would take the environment's, and lead around the guard.
        said = await hook.send_dict(body)
        return _answer(said.status_code, said.headers, said.body, (self._token, *secret_parts(url)))

    async def call(self, method: str, body: Mapping[str, Any]) -> Answer:
        """Calls a method of the Web API. Raises what the SDK raises, except its own error for a refusal."""
        bot = AsyncWebClient(self._token, self._api_url, **self._options(None))
        bot.proxy = None
        given: dict[str, Any] = {"json" if method.startswith("chat.") else "data": dict(body)}
        try:
            response: Any = await bot.api_call(method, **given)
        except SlackApiError as error:
            response = error.response
        if isinstance(response, aiohttp.ClientResponse):  # It says it is JSON, and is not.
            return _answer(response.status, response.headers, await response.text(), (self._token,))
        return _answer(response.status_code, response.headers, response.data, (self._token,))


async def attempted(call: Awaitable[Answer]) -> Answer | Outcome:
    """The answer to a call, or what its failure comes to. Only a deadline around it is passed on."""
    try:
        return await call
    except TimeoutError:
        raise
    except aiohttp.TooManyRedirects as error:
        note = "redirects are not followed: check the webhook's URL, or SLACK_API_URL"
        return Outcome(Verdict.RETRY, f"http_{error.status}", error.status, note=note)
    except aiohttp.ClientError as error:
        failure = as_httpx(error)
        return Outcome(Verdict.RETRY, failure_class(failure), note=str(failure))
    except Exception as error:
        # The SDK trips over what it does not expect, each time in another way: AttributeError for plain text,
        # ValueError for bytes and for what is not UTF-8, LookupError for an odd charset, RecursionError …
        return Outcome(Verdict.RETRY, "protocol", note=f"Slack's answer makes no sense ({type(error).__name__})")


def _answer(status: int, headers: Mapping[str, str], said: Any, secrets: Sequence[str | None]) -> Answer:
    """An answer of either kind, an object of the Web API or a webhook's text, without the secrets it may repeat."""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False) if said else ""
    word = str(said.get("error")) if isinstance(said, dict) else text.strip()
    spelt = spellings(filter(None, secrets))
    text, word = (without(one.encode(errors="replace"), spelt).decode() for one in (text, word))
    taken = said.get("ok") is True if isinstance(said, dict) else word == "ok"
    code = word if CODE.fullmatch(word) else None
    data = said if isinstance(said, dict) else {}
    return Answer(status, status == 200 and taken, code, text, headers.get("Retry-After"), data, headers)


def outcome_of(answer: Answer, *, hook: bool = False) -> Outcome:
    """What an answer comes to, for a delivery."""
    said = answer.said.encode(errors="replace")
    delivered = Outcome(
        Verdict.DELIVERED, status=answer.status, answer=said[:KEPT_ANSWER], truncated=len(said) > KEPT_ANSWER
    )
    if answer.taken:
        return delivered
    refusal, note = meaning(answer.code, answer.status, hook=hook)
    error = answer.code or ("protocol" if answer.status == 200 else f"http_{answer.status}")
    refused = replace(delivered, verdict=Verdict.RETRY, error=error, note=note)
    asked = parse_retry_after(answer.retry_after, round(time.time() * 1000))
    match refusal:
        case Refusal.RATE_LIMIT:
            return replace(refused, retry_after=min(BUSY_RETRY if asked is None else asked, SLOW_RETRY), free=True)
        case Refusal.SLOW:
            return replace(refused, retry_after=max(SLOW_RETRY, asked or 0.0))
        case Refusal.CREDENTIALS | Refusal.DESTINATION | Refusal.PAYLOAD | Refusal.HOOK_ENDED:
            return replace(refused, verdict=Verdict.GIVE_UP, ends_target=refusal is Refusal.HOOK_ENDED)
        case Refusal.SAFE | Refusal.AMBIGUOUS | Refusal.UNKNOWN | Refusal.GONE | Refusal.FROZEN:
            return replace(refused, retry_after=asked)
