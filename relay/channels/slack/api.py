"""Slack's Web API and its incoming webhooks, called through the SDK.

The SDK fails on many unexpected answers, may send again what Slack has already taken, and would log the URL of a
webhook, which is a credential. Here every call ends as a `SlackAnswer` or an `Outcome`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from relay.channels.base import KEPT_ANSWER, failed
from relay.channels.slack.errors import GIVEN_UP, Refusal, meaning
from relay.channels.slack.hooks import read_answer
from relay.model.delivery import Outcome, Verdict
from relay.model.retry import parse_retry_after
from relay.outbound.descriptors import NoRoom, none_left
from relay.security.guard import Guard
from relay.security.redaction import encoded_forms, redact, url_secrets

if TYPE_CHECKING:
    from relay.channels.slack.sdk import SlackSdk

SLOW_RETRY = 3600.0
"""Seconds before the next try, when only time or an administrator changes the answer."""

BUSY_RETRY = 30.0
"""Seconds before the next call, when Slack says "too fast" without a `Retry-After`."""

CODE = re.compile("[a-z][a-z0-9_]{2,63}")


@dataclass(frozen=True, slots=True)
class SlackAnswer:
    """What Slack answered.

    Attributes:
        taken: whether Slack did what it was asked to do.
        code: Slack's code for why not, if there is one.
        text: the whole answer, without the secrets that it may repeat.
        data: the answer as an object; empty if it is none.
    """

    status: int
    taken: bool
    code: str | None
    text: str
    retry_after: str | None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class SlackApi:
    """Calls Slack.

    Args:
        guard: decides to which addresses it may connect.
        token: the token of the bot; None where only incoming webhooks are used.
        api_url: the URL of the Web API.
        proxy: the URL of an HTTP proxy for every request.
    """

    def __init__(self, guard: Guard, token: str | None, api_url: str, proxy: str | None = None) -> None:
        self._guard = guard
        self._token = token
        self._api_url = api_url
        self._proxy = proxy
        self._opened: SlackSdk | None = None

    @property
    def has_bot(self) -> bool:
        """Return whether there is a token for the Web API."""
        return self._token is not None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._opened is not None:
            await self._opened.aclose()

    async def _sdk(self) -> SlackSdk:
        # In a thread: the event loop must not stand still while the modules are read.
        if self._opened is None:
            try:
                opened = await asyncio.to_thread(self._open)
            except (ImportError, OSError) as error:
                if none_left():  # the files of the modules cannot be opened either
                    raise NoRoom("no descriptor is left to connect") from error
                raise
            self._opened = self._opened or opened  # another call may have been first
        return self._opened

    def _open(self) -> SlackSdk:
        from relay.channels.slack.sdk import SlackSdk  # only here, because it is large: see there

        return SlackSdk(self._guard, self._token, self._api_url, self._proxy)

    async def hook(self, url: str, body: dict[str, Any]) -> SlackAnswer:
        """Post to an incoming webhook or a response URL. An error of the SDK is passed on."""
        answer = await (await self._sdk()).hook(url, body)
        return _answer(answer.status, answer.headers, answer.data, (self._token, *url_secrets(url)))

    async def call(self, method: str, body: Mapping[str, Any]) -> SlackAnswer:
        """Call a method of the Web API. An error of the SDK is passed on, but a refusal is an answer."""
        sent = await (await self._sdk()).call(method, body)
        answer = _answer(sent.status, sent.headers, sent.data, (self._token,))
        return answer if answer.data else replace(answer, taken=False)


async def attempted(call: Awaitable[SlackAnswer]) -> SlackAnswer | Outcome:
    """Return the answer to a call, or the outcome of its failure. Only the deadline around the call is passed on."""
    try:
        return await call
    except TimeoutError:
        raise
    except NoRoom as error:
        return failed(error)
    except Exception as error:
        from relay.channels.slack.sdk import outcome_of_error  # the call has imported it already

        return outcome_of_error(error)


def _answer(status: int, headers: Mapping[str, str], body: Any, secrets: Sequence[str | None]) -> SlackAnswer:
    """Read an answer, without the secrets that it may repeat.

    Args:
        body: an object of the Web API, or the text of a webhook.
    """
    if isinstance(body, dict):
        data = body
        text = json.dumps(body, ensure_ascii=False)
        taken = status == 200 and body.get("ok") is True
        word = str(body.get("error"))
    else:
        data = {}
        text = str(body or "")
        refused, word = read_answer(text)
        taken = 200 <= status < 300 and not refused
    secret_forms = encoded_forms(filter(None, secrets))
    text = redact(text.encode(errors="replace"), secret_forms).decode()
    word = redact(word.encode(errors="replace"), secret_forms).decode()
    code = word if CODE.fullmatch(word) else None
    return SlackAnswer(status, taken, code, text, headers.get("Retry-After"), data, headers)


def outcome_of(answer: SlackAnswer, *, hook: bool = False) -> Outcome:
    """Return what an answer means for a delivery.

    Args:
        hook: whether an incoming webhook gave the answer.
    """
    text = answer.text.encode(errors="replace")
    delivered = Outcome(
        Verdict.DELIVERED, status=answer.status, answer=text[:KEPT_ANSWER], truncated=len(text) > KEPT_ANSWER
    )
    if answer.taken:
        return delivered
    refusal, note = meaning(answer.code, answer.status, hook=hook)
    error = answer.code or ("protocol" if 200 <= answer.status < 300 else f"http_{answer.status}")
    refused = replace(delivered, verdict=Verdict.RETRY, error=error, note=note)
    asked = parse_retry_after(answer.retry_after, round(time.time() * 1000))
    match refusal:
        case Refusal.RATE_LIMIT:
            return replace(refused, retry_after=min(BUSY_RETRY if asked is None else asked, SLOW_RETRY), free=True)
        case Refusal.SLOW:
            return replace(refused, retry_after=max(SLOW_RETRY, asked or 0.0))
    if refusal in GIVEN_UP:
        return replace(refused, verdict=Verdict.GIVE_UP, ends_target=refusal is Refusal.HOOK_ENDED)
    return replace(refused, retry_after=asked)
