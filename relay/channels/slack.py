"""Slack: one message that lives with the task, by the bot's token; or its end alone, to an incoming webhook.

What lives is the business of `slack_living`; here the end of a task is told to whoever has no such message.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import orjson

from relay.channels.base import DEADLINE, Message
from relay.channels.slack_api import Answer, SlackApi, attempted, outcome_of
from relay.channels.slack_living import LivingMessages
from relay.channels.slack_message import SlackMessage, terminal_message
from relay.model import Outcome, Verdict


class SlackChannel:
    """Tells events to channels, and to incoming webhooks.

    Args:
        api: how Slack is called.
        living: the messages that live with their tasks; None where there are none.
        base_url: where people reach relay, for links; empty if they cannot.
    """

    def __init__(self, api: SlackApi, living: LivingMessages | None = None, base_url: str = "") -> None:
        self._api, self._living, self._base_url = api, living, base_url
        self._turns: dict[str, float] = {}

    async def send(self, message: Message) -> Outcome:
        """Delivered is what Slack calls ok. If it does not take the picture, the message goes without, at once.

        Its rate limit is a free retry. What only a person can mend is given up, with a note that says how.
        """
        address: dict[str, str] = message.address
        hook = "webhook_url" in address
        if not hook and not self._api.has_bot:
            note = "this deployment has no bot: set SLACK_BOT_TOKEN, or register an incoming webhook"
            return Outcome(Verdict.RETRY, "not_configured", note=note)
        event = _event(message)
        if not hook and self._living is not None and message.target_id is not None:
            told = await self._living.tell(message.target_id, address["channel"], message.type)
            if told is not None:
                return told
        content = terminal_message(event, self._base_url)
        bare = content.without_images()
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await attempted(self._post(address, content))
                again = isinstance(answer, Answer) and answer.code == "invalid_blocks" and bare != content
                if again:
                    answer = await attempted(self._post(address, bare))
        except TimeoutError:
            return Outcome(Verdict.RETRY, "timeout", note=f"no complete answer within {DEADLINE:g} s")
        outcome = outcome_of(answer, hook=hook) if isinstance(answer, Answer) else answer
        if not outcome.free:
            return outcome
        turn = self._turn(address["webhook_url" if hook else "channel"], outcome.retry_after or 0.0)
        # Free only if one post was refused: where there is never room for two, this would go on for ever.
        return replace(outcome, retry_after=turn, free=not again)

    async def _post(self, address: dict[str, str], content: SlackMessage) -> Answer:
        """Posts once. Raises what the SDK raises, except its own error for an answer that is not ok."""
        if url := address.get("webhook_url"):
            return await self._api.hook(url, content.post())
        body = {**content.post(), "channel": address["channel"]}
        if content.metadata:
            body["metadata"] = content.metadata
        return await self._api.call("chat.postMessage", body)

    def _turn(self, destination: str, seconds: float) -> float:
        """Seconds until a message that came too fast has its turn, so that many do not all come back at once.

        One message a second is what Slack grants a channel.
        """
        now = time.monotonic()
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
