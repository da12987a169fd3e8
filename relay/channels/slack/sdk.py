"""Slack's SDK, and the HTTP client that it brings, behind the two calls that relay makes.

`SlackApi` imports this module with its first call: it is a fifth of all that a process would import at its start, and
most of them are not asked for Slack in their first second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from relay import __version__
from relay.channels.base import failed
from relay.model.delivery import Outcome, Verdict
from relay.outbound.aiohttp_session import as_httpx, guarded_session
from relay.outbound.descriptors import limit, parts
from relay.outbound.lookups import Lookups
from relay.security.guard import Guard

LOOKUPS = 8
"""Names that are looked up at once: those of Slack's Web API and of `SLACK_HOOK_HOSTS`."""

# A debug line of the SDK holds the whole webhook URL, and it looks at the level of the logger itself.
SDK_LOG = logging.getLogger(__name__)
SDK_LOG.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class SdkAnswer:
    """What the SDK returned: `data` is an object of the Web API, or a text."""

    status: int
    headers: Mapping[str, str]
    data: Any


class SlackSdk:
    """The SDK's clients, on guarded sessions. An error of the SDK is passed on.

    Args:
        guard: decides to which addresses it may connect.
        token: the token of the bot; None where only incoming webhooks are used.
        api_url: the URL of the Web API.
        proxy: the URL of an HTTP proxy for every request.
    """

    def __init__(self, guard: Guard, token: str | None, api_url: str, proxy: str | None) -> None:
        self._guard = guard
        self._token = token
        self._api_url = api_url
        self._proxy = proxy
        self._lookups = Lookups("slack", LOOKUPS)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    def _options(self, url: str | None) -> dict[str, Any]:
        """Return the options of an SDK client.

        Args:
            url: of a webhook. One without TLS gets a session that connects to the allowed networks only.
        """
        plain = url is not None and url[:5].lower() == "http:"
        if plain not in self._sessions:
            guard = self._guard.plain() if plain else self._guard
            self._sessions[plain] = guarded_session(guard, self._lookups, self._proxy, parts(limit()).slack)
        return {
            "session": self._sessions[plain],
            "user_agent_suffix": f"relay/{__version__}",
            "logger": SDK_LOG,
            "retry_handlers": [],
        }

    async def hook(self, url: str, body: dict[str, Any]) -> SdkAnswer:
        """Post to an incoming webhook or a response URL."""
        hook = AsyncWebhookClient(url, **self._options(url))
        hook.proxy = None  # The SDK would use the proxy of the environment, and so avoid the guard.
        response = await hook.send_dict(body)
        return SdkAnswer(response.status_code, response.headers, response.body)

    async def call(self, method: str, body: Mapping[str, Any]) -> SdkAnswer:
        """Call a method of the Web API. A refusal is an answer."""
        bot = AsyncWebClient(self._token, self._api_url, **self._options(None))
        bot.proxy = None
        given: dict[str, Any] = {"json" if method.startswith("chat.") else "data": dict(body)}
        try:
            response: Any = await bot.api_call(method, **given)
        except SlackApiError as error:
            response = error.response
        if isinstance(response, aiohttp.ClientResponse):  # Its content type is JSON, its body is not.
            return SdkAnswer(response.status, response.headers, await response.text())
        return SdkAnswer(response.status_code, response.headers, response.data)


def outcome_of_error(error: Exception) -> Outcome:
    """Return what an error of the SDK means for a delivery."""
    match error:
        case aiohttp.TooManyRedirects():
            note = "redirects are not followed: check the webhook's URL, or SLACK_API_URL"
            return Outcome(Verdict.RETRY, f"http_{error.status}", error.status, note=note)
        case aiohttp.ClientError():
            return failed(as_httpx(error))
    # The SDK fails on unexpected answers in many ways: AttributeError for plain text, ValueError for bytes and for
    # what is not UTF-8, LookupError for an odd charset, RecursionError …
    return Outcome(Verdict.RETRY, "protocol", note=f"Slack's answer makes no sense ({type(error).__name__})")
