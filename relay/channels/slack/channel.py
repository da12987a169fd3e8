"""Slack: one message that lives with the task, posted by the bot; or the end alone, sent to an incoming webhook.

`living` has the messages that live; this module sends the end of a task to every target that has no such message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from relay.channels.base import DEADLINE, Address, Channel, Message, Refused, Resources
from relay.channels.slack.api import SlackAnswer, SlackApi, attempted, outcome_of
from relay.channels.slack.erased import ErasedMessages
from relay.channels.slack.errors import Refusal, meaning
from relay.channels.slack.face import Look
from relay.channels.slack.living import LivingMessages
from relay.channels.slack.message import Layout, SlackMessage, terminal_message
from relay.channels.slack.target import SlackTarget
from relay.channels.slack.text import table
from relay.channels.urls import host_of, split_url
from relay.model.delivery import Outcome, Verdict
from relay.outbound.deadline import Deadline
from relay.security.redaction import MASK
from relay.store import apps
from relay.store.apps import ALERTS_APP

OF_SLACK = ("hooks.slack.com", "hooks.slack-gov.com")
"""Slack's own hosts of webhooks. What stands at other hosts may have any path."""

LOOK_EVERY = 1.0
"""Seconds for which the names of the apps are remembered."""

INCOMING = re.compile(r"/services(?:/[^/]+){3}")

NOT_INCOMING = (
    "is no incoming webhook: add one under 'Incoming Webhooks' of your Slack app, and give its URL"
    " (https://hooks.slack.com/services/T…/B…/…). The URLs of workflows, triggers and commands take no messages"
)


class SlackChannel(Channel[SlackTarget]):
    """Sends events to channels of a workspace, and to incoming webhooks.

    Attributes:
        api: calls Slack.
        living: the messages that live with their tasks.
        erased: the messages of tasks that were erased.
    """

    schema = SlackTarget

    def __init__(self, resources: Resources) -> None:
        settings = resources.settings
        self._urls = resources.urls
        self._hook_hosts = settings.slack_hook_hosts
        self._base_url = settings.base_url
        self._noun_of = resources.noun_of
        # '#renders' and 'renders' are the same channel.
        self._grants = {grant.replace("=#", "=") for grant in settings.slack_channels}
        self._db = resources.db
        self._names: dict[str, str] = {}
        self._named_at = float("-inf")
        self._turns: dict[str, float] = {}
        self.api = SlackApi(resources.guard, settings.slack_bot_token, settings.slack_api_url, settings.egress_proxy)
        look = Look(settings.base_url, settings.slack_signing_secret is not None, resources.noun_of)
        self.living = LivingMessages(resources.db, self.api, resources.process, resources.clock, look)
        self.erased = ErasedMessages(resources.db, self.api, resources.clock)

    async def aclose(self) -> None:
        """Close every connection to Slack."""
        await self.api.aclose()

    # Targets

    async def check(self, target: SlackTarget) -> None:
        """Refuse a channel where there is no bot, and a webhook that is not Slack's."""
        if target.webhook_url is None:
            if not self.api.has_bot:
                why = "this deployment has no SLACK_BOT_TOKEN: use a 'webhook_url', or set the token"
                raise Refused("channel", why)
            return
        parts = split_url(target.webhook_url)
        if parts.hostname not in self._hook_hosts and parts.netloc not in self._hook_hosts:
            hosts = " or ".join(self._hook_hosts)
            raise Refused("webhook_url", f"must be at {hosts}: SLACK_HOOK_HOSTS can allow others")
        if str(parts.hostname).rstrip(".") in OF_SLACK and not INCOMING.fullmatch(parts.path):
            raise Refused("webhook_url", NOT_INCOMING)
        if problem := await self._urls.problem(target.webhook_url):
            raise Refused("webhook_url", problem)

    async def permit(self, target: SlackTarget, app_id: str) -> None:
        """Refuse a channel to which RELAY_SLACK_CHANNELS does not let this app post. Without it, one app may do all.

        The bot is in channels of many teams: an app that could post to all of them could write anything anywhere.
        """
        if target.channel is None:
            return
        names = await self._names_of_apps()
        name = names.get(app_id, "")
        channel = target.channel.removeprefix("#")
        permitted = {f"{app}={place}" for app in (name, "*") for place in (channel, "*")}
        if self._grants & permitted or (not self._grants and len(names) <= 1):
            return
        if self._grants:
            why = f"the app '{name}' may not post to this channel: ask the operator to add it to RELAY_SLACK_CHANNELS"
        else:
            why = (
                "several apps share this deployment: ask its operator to set RELAY_SLACK_CHANNELS, which says which of"
                f" them may post where, for instance to {name}={target.channel}"
            )
        raise Refused("channel", why)

    async def _names_of_apps(self) -> Mapping[str, str]:
        """Return the name of each app that calls, by its id, as they were lately."""
        if time.monotonic() - self._named_at > LOOK_EVERY:
            known = await self._db.read(apps.every)
            callers = [app for app in known if app.disabled_at is None and app.name != ALERTS_APP]
            self._names = {app.id: app.name for app in callers}
            self._named_at = time.monotonic()
        return self._names

    def address(self, target: SlackTarget) -> Address:
        """Return the channel, in which a message lives, or the webhook."""
        if target.channel is not None:
            place = target.channel.lstrip("#")
            return Address({"channel": target.channel}, "slack", place, living=self.api.has_bot)
        url = str(target.webhook_url)
        return Address({"webhook_url": url}, host_of(url), url)

    def show(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the channel, or the webhook without its path, which is a secret."""
        if "webhook_url" in content:
            parts = split_url(content["webhook_url"])
            return {"webhook_url": f"{parts.scheme}://{parts.netloc}/{MASK}"}
        return {"channel": content["channel"]}

    # Messages

    async def send(self, message: Message) -> Outcome:
        """Post the end of a task; success is what Slack calls ok.

        What Slack does not take for its layout goes plainer at once. A rate limit is a free retry. What only a person
        can mend is given up, with a note that says how.
        """
        address: dict[str, str] = message.address
        hook = "webhook_url" in address
        if not hook and not self.api.has_bot:
            note = "this deployment has no bot: set SLACK_BOT_TOKEN, or register an incoming webhook"
            return Outcome(Verdict.RETRY, "not_configured", note=note)
        event = _event(message)
        if not hook and message.target_id is not None:
            outcome = await self.living.tell(message.target_id, address["channel"], message.type)
            if outcome is not None:
                return outcome
        noun = self._noun_of(str(table(event.get("data")).get("provider")))
        content = terminal_message(event, self._base_url, noun)
        try:
            with Deadline(DEADLINE):
                outcome, layout = await self._post_as_taken(address, content)
        except TimeoutError:
            return Outcome(Verdict.RETRY, "timeout", note=f"no complete answer within {DEADLINE:g} s")
        if not outcome.free:
            return outcome
        turn = self._turn(address["webhook_url" if hook else "channel"], outcome.retry_after or 0.0)
        # Free only if one post was refused: where there is never room for two, this would go on for ever.
        return replace(outcome, retry_after=turn, free=layout is Layout.FULL)

    async def _post_as_taken(self, address: dict[str, str], content: SlackMessage) -> tuple[Outcome, Layout]:
        """Post, ever plainer as long as Slack refuses the layout; return the last outcome, and the layout it is for."""
        hook = "webhook_url" in address
        layout = Layout.FULL
        while True:
            answer = await attempted(self._post(address, content.laid_out(layout)))
            if isinstance(answer, Outcome):
                return answer, layout
            outcome = outcome_of(answer, hook=hook)
            refused = not answer.taken and meaning(answer.code, answer.status, hook=hook)[0] is Refusal.LAYOUT
            plainer = content.plainer(layout, answer.code) if refused else None
            if plainer is None:
                return outcome, layout
            layout = plainer

    async def _post(self, address: dict[str, str], content: SlackMessage) -> SlackAnswer:
        """Post once. An error of the SDK is passed on, but an answer that is not ok is an answer."""
        if url := address.get("webhook_url"):
            return await self.api.hook(url, content.post())
        body = {**content.post(), "channel": address["channel"]}
        if content.metadata:
            body["metadata"] = content.metadata
        return await self.api.call("chat.postMessage", body)

    def _turn(self, destination: str, seconds: float) -> float:
        """Return the seconds until the turn of a message that came too fast, so that many do not come back together.

        Slack allows a channel one message a second.
        """
        now = time.monotonic()
        self._turns = {where: turn for where, turn in self._turns.items() if turn > now - 1}
        self._turns[destination] = max(now + seconds, self._turns.get(destination, 0.0) + 1)
        return self._turns[destination] - now


def _event(message: Message) -> dict[str, Any]:
    """Read the event; if it is nested too deeply to be read, return only its type."""
    try:
        event: dict[str, Any] = orjson.loads(message.body)
    except orjson.JSONDecodeError:
        return {"type": message.type}
    return event
