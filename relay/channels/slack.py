"""Slack: one message per event, by the bot's token or to an incoming webhook, and what each of Slack's refusals means.

Slack says no in a hundred words, some of which end a target, some a delivery, and some nothing at all; and its SDK has
many ways to trip over an answer. Here both become outcomes.

https://docs.slack.dev/reference/methods/chat.postMessage#errors
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

import aiohttp
import orjson
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from relay import __version__
from relay.channels.base import DEADLINE, KEPT_ANSWER, Message
from relay.channels.slack_message import SlackMessage, terminal_message
from relay.model import Outcome, Verdict
from relay.outbound import (
    Guard,
    as_httpx,
    failure_class,
    guarded_session,
    secret_parts,
    spellings,
    without,
)
from relay.retry import parse_retry_after

SLOW_RETRY = 3600.0
"""Seconds until it makes sense to ask again what only time or an administrator changes."""

BUSY_RETRY = 30.0
"""Seconds to leave Slack alone when it says "too fast" and not for how long."""

CODE = re.compile("[a-z][a-z0-9_]{2,63}")

# A debug line of the SDK holds the whole webhook URL, and it looks at the level of the logger itself.
SDK_LOG = logging.getLogger(f"{__name__}.sdk")
SDK_LOG.setLevel(logging.WARNING)


class Refusal(StrEnum):
    """What a refusal means; the whole set.

    After a safe one nothing was posted, after an ambiguous one perhaps. Credentials, destination, payload and an ended
    hook need a person, the slow ones time.
    """

    RATE_LIMIT = "rate_limit"
    SAFE = "safe"
    AMBIGUOUS = "ambiguous"
    SLOW = "slow"
    CREDENTIALS = "credentials"
    DESTINATION = "destination"
    PAYLOAD = "payload"
    HOOK_ENDED = "hook_ended"
    UNKNOWN = "unknown"


TOKEN = "set SLACK_BOT_TOKEN to the bot token (xoxb-…) from 'OAuth & Permissions' of the app"  # noqa: S105
REINSTALL = f"install the app in the workspace again and {TOKEN}"
ADMIN = "ask an administrator of the workspace to let the app post there, or choose another channel"
NEW_HOOK = "create a new webhook in Slack and register it"
OUR_BUG = "Slack does not take the message as relay builds it: please report this as a bug of relay"

# The codes of https://docs.slack.dev/reference/methods/chat.postMessage and of incoming webhooks, each with what mends
# it where somebody has to. A code that ends in * stands for all that begin so.
REFUSALS: dict[Refusal, dict[str, str | None]] = {
    Refusal.RATE_LIMIT: {"ratelimited": None, "rate_limited": None},
    Refusal.SAFE: {"request_timeout": None, "update_failed": None},
    Refusal.AMBIGUOUS: {
        "internal_error": None,
        "fatal_error": None,
        "service_unavailable": None,
        "rollup_error": None,
    },
    Refusal.SLOW: {
        "message_limit_exceeded": "the workspace has sent as many messages as its plan allows",
        "team_added_to_org": "the workspace is being moved into an organization",
        "org_login_required": "the workspace is being moved into an organization",
    },
    Refusal.CREDENTIALS: {
        "invalid_auth": TOKEN,
        "not_authed": TOKEN,
        "not_allowed_token_type": TOKEN,
        "account_inactive": REINSTALL,
        "token_revoked": REINSTALL,
        "token_expired": f"switch off token rotation for the app, {REINSTALL}",
        "missing_scope": "give the app the scope chat:write under 'OAuth & Permissions' and install it again",
        "access_denied": "ask an administrator of the workspace to approve the app",
        "team_access_not_granted": "ask an administrator of the organization to give the app this workspace",
    },
    Refusal.DESTINATION: {
        "channel_not_found": "check the channel's name; if it is private, invite the app: /invite @relay",
        "not_in_channel": "invite the app to the channel: /invite @relay",
        "is_archived": "unarchive the channel, or register another",
        "restricted_action*": ADMIN,
        "no_permission": ADMIN,
        "posting_to_channel_denied": ADMIN,
        "action_prohibited": ADMIN,
        "cannot_reply_to_message": "replies are not possible there: choose another channel",
    },
    Refusal.PAYLOAD: dict.fromkeys(
        (
            "invalid_blocks",
            "invalid_blocks_format",
            "msg_blocks_too_long",
            "msg_too_long",
            "no_text",
            "invalid_arguments",
            "metadata_too_large",
            "invalid_metadata_*",
            "invalid_payload",
        ),
        OUR_BUG,
    ),
}

HOOK_ENDED = {
    "invalid_token": f"the webhook was revoked: {NEW_HOOK}",
    "no_service": f"the webhook was removed or switched off: {NEW_HOOK}",
    "no_active_hooks": f"the webhook was switched off: {NEW_HOOK}",
    "no_team": f"the webhook's workspace is gone: {NEW_HOOK}",
    "team_disabled": f"the webhook's workspace is closed: {NEW_HOOK}",
    "channel_not_found": f"the webhook's channel is gone: {NEW_HOOK}",
    "channel_is_archived": f"the webhook's channel is archived: {NEW_HOOK}",
}
"""What ends an incoming webhook. It is bound to one channel, which cannot be changed."""

_SORTED = {code: (refusal, note) for refusal, codes in REFUSALS.items() for code, note in codes.items()}


def meaning(code: str | None, status: int, *, hook: bool) -> tuple[Refusal, str | None]:
    """What a refusal means, and what mends it if somebody has to.

    Args:
        code: Slack's word for it, if it said one.
        status: of HTTP; the Web API says most of its refusals with 200.
        hook: whether an incoming webhook said so.
    """
    if hook and code in HOOK_ENDED:
        return Refusal.HOOK_ENDED, HOOK_ENDED[code]
    if hook and status == 410:
        return Refusal.HOOK_ENDED, f"the webhook is gone: {NEW_HOOK}"
    if status == 429:
        return Refusal.RATE_LIMIT, None
    unknown = Refusal.AMBIGUOUS if status >= 500 else Refusal.UNKNOWN
    return next((found for known, found in _SORTED.items() if fnmatchcase(code or "", known)), (unknown, None))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What Slack said: whether it took the message, or else its code for why not, if it said one."""

    status: int
    taken: bool
    code: str | None
    said: str
    retry_after: str | None


class SlackChannel:
    """Posts events to channels, and to incoming webhooks.

    Args:
        guard: to which addresses it may connect.
        token: the bot's; None where only incoming webhooks are used.
        api_url: of the Web API.
    """

    def __init__(self, guard: Guard, token: str | None, api_url: str, proxy: str | None = None) -> None:
        self._guard, self._token, self._api_url, self._proxy = guard, token, api_url, proxy
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._turns: dict[str, float] = {}

    async def aclose(self) -> None:
        """Closes every connection."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    def _session(self, url: str | None) -> aiohttp.ClientSession:
        """The way out; that of a webhook without TLS leads to allowed networks alone."""
        plain = url is not None and url[:5].lower() == "http:"
        if plain not in self._sessions:
            self._sessions[plain] = guarded_session(self._guard.plain() if plain else self._guard, self._proxy)
        return self._sessions[plain]

    async def send(self, message: Message) -> Outcome:
        """Delivered is what Slack calls ok. If it does not take the picture, the message goes without, at once.

        Its rate limit is a free retry. What only a person can mend is given up, with a note that says how.
        """
        address: dict[str, str] = message.address
        hook = "webhook_url" in address
        if not hook and self._token is None:
            note = "this deployment has no bot: set SLACK_BOT_TOKEN, or register an incoming webhook"
            return Outcome(Verdict.RETRY, "not_configured", note=note)
        content = terminal_message(_event(message))
        bare = content.without_images()
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await self._post(address, content)
                again = answer.code == "invalid_blocks" and bare != content
                if again:
                    answer = await self._post(address, bare)
        except TimeoutError:
            return Outcome(Verdict.RETRY, "timeout", note=f"no complete answer within {DEADLINE:g} s")
        except aiohttp.TooManyRedirects as error:
            note = "redirects are not followed: check the webhook's URL, or SLACK_API_URL"
            return Outcome(Verdict.RETRY, f"http_{error.status}", error.status, note=note)
        except aiohttp.ClientError as error:
            failure = as_httpx(error, "")
            return Outcome(Verdict.RETRY, failure_class(failure), note=str(failure))
        except Exception as error:
            # The SDK trips over what it does not expect, each time in another way: AttributeError for plain text,
            # ValueError for bytes and for what is not UTF-8, LookupError for an odd charset, RecursionError …
            return Outcome(Verdict.RETRY, "protocol", note=f"Slack's answer makes no sense ({type(error).__name__})")
        outcome = _outcome(answer, hook=hook)
        if not outcome.free:
            return outcome
        turn = self._turn(address["webhook_url" if hook else "channel"], outcome.retry_after or 0.0)
        # Free only if one post was refused: where there is never room for two, this would go on for ever.
        return replace(outcome, retry_after=turn, free=not again)

    async def _post(self, address: dict[str, str], content: SlackMessage) -> _Answer:
        """Posts once. Raises what the SDK raises, except its own error for an answer that is not ok."""
        url = address.get("webhook_url")
        options: dict[str, Any] = {
            "session": self._session(url),
            "user_agent_suffix": f"relay/{__version__}",
            "logger": SDK_LOG,
            "retry_handlers": [],
        }
        body: dict[str, Any] = {"text": content.text, "blocks": content.blocks}
        body |= {"unfurl_links": False, "unfurl_media": False, "parse": "none"}
        if url is not None:
            hook = AsyncWebhookClient(url, **options)
            hook.proxy = None  # The SDK would take the environment's, and lead around the guard.
            said = await hook.send_dict(body)
            return _answer(said.status_code, said.headers, said.body, (self._token, *secret_parts(url)))
        bot = AsyncWebClient(self._token, self._api_url, **options)
        bot.proxy = None
        try:
            response: Any = await bot.chat_postMessage(channel=address["channel"], metadata=content.metadata, **body)
        except SlackApiError as error:
            response = error.response
        if isinstance(response, aiohttp.ClientResponse):  # It says it is JSON, and is not.
            return _answer(response.status, response.headers, await response.text(), (self._token,))
        return _answer(response.status_code, response.headers, response.data, (self._token,))

    def _turn(self, destination: str, seconds: float) -> float:
        """Seconds until a message that came too fast has its turn, so that many do not all come back at once.

        One message a second is what Slack grants a channel. What it asks for is obeyed up to an hour.
        """
        now, seconds = time.monotonic(), min(seconds, SLOW_RETRY)
        self._turns = {where: turn for where, turn in self._turns.items() if turn > now - 1}
        self._turns[destination] = max(now + seconds, self._turns.get(destination, 0.0) + 1)
        return self._turns[destination] - now


def _event(message: Message) -> dict[str, Any]:
    """The event to tell; of one that is nested too deeply to be read, only what it is."""
    try:
        event: dict[str, Any] = orjson.loads(message.body)
    except orjson.JSONDecodeError:
        return {"type": message.type}
    return event


def _answer(status: int, headers: Mapping[str, str], said: Any, secrets: Sequence[str | None]) -> _Answer:
    """An answer of either kind, an object of the Web API or a webhook's text, without the secrets it may repeat."""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False) if said else ""
    word = str(said.get("error")) if isinstance(said, dict) else text.strip()
    spelt = spellings(filter(None, secrets))
    text, word = (without(one.encode(errors="replace"), spelt).decode() for one in (text, word))
    taken = said.get("ok") is True if isinstance(said, dict) else word == "ok"
    code = word if CODE.fullmatch(word) else None
    return _Answer(status, status == 200 and taken, code, text, headers.get("Retry-After"))


def _outcome(answer: _Answer, *, hook: bool) -> Outcome:
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
            return replace(refused, retry_after=BUSY_RETRY if asked is None else asked, free=True)
        case Refusal.SLOW:
            return replace(refused, retry_after=max(SLOW_RETRY, asked or 0.0))
        case Refusal.CREDENTIALS | Refusal.DESTINATION | Refusal.PAYLOAD | Refusal.HOOK_ENDED:
            return replace(refused, verdict=Verdict.GIVE_UP, ends_target=refusal is Refusal.HOOK_ENDED)
        case Refusal.SAFE | Refusal.AMBIGUOUS | Refusal.UNKNOWN:
            return replace(refused, retry_after=asked)
