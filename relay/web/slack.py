"""What people do in Slack: `/relay …`, and the buttons below a living message.

Slack signs each request; who may act for which app is configured (`RELAY_SLACK_TEAMS`), by default nobody. A request is
answered at once, and what came of it is told afterwards: to the person alone, or by the message itself.

https://docs.slack.dev/authentication/verifying-requests-from-slack
https://docs.slack.dev/interactivity/handling-user-interaction
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson
import structlog
from slack_sdk.signature import SignatureVerifier
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.channels.base import DEADLINE
from relay.channels.slack_api import Answer, attempted
from relay.channels.slack_face import AGAIN, STOP
from relay.errors import BadSignature, MalformedRequest, NotFound, RelayError, StoreUnavailable
from relay.model import State
from relay.store import apps, replay, watches
from relay.web.api import Api
from relay.web.context import Context
from relay.web.problems import parse, read_body
from relay.web.schemas import WatchIn, split_url
from relay.web.slack_words import HELP, listed, not_allowed, status_of, watching

log = structlog.stdlib.get_logger(__name__)

MAX_BODY = 256 * 1024
"""Bytes of a request: a press repeats the whole message that it belongs to."""

MAX_FIELDS = 100
LISTED, MATCHES = 10, 5
"""Watches that `/relay list` and `/relay status` show."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who did something in Slack, and where to tell him what came of it."""

    team: str
    user: str
    response_url: str

    @property
    def mention(self) -> str:
        """The person in Slack's markup."""
        return f"<@{self.user}>" if re.fullmatch("[UW][A-Z0-9]{1,30}", self.user) else "somebody"


class Desk:
    """The handlers of both routes.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._api = context, Api(context)
        secret = context.settings.slack_signing_secret
        self._verifier = None if secret is None else SignatureVerifier(secret)
        grants = (grant.partition("=") for grant in context.settings.slack_teams)
        self._grants = {who: app for who, _, app in grants}

    # Requests

    async def command(self, request: Request) -> Response:
        """`POST /slack/commands`"""
        fields = await self._fields(request)
        person = Person(fields.get("team_id", ""), fields.get("user_id", ""), fields.get("response_url", ""))
        self._context.errands.run(self._answered(person, fields.get("text", ""), fields.get("channel_id", "")))
        return Response()

    async def interaction(self, request: Request) -> Response:
        """`POST /slack/interactions`"""
        fields = await self._fields(request)
        try:
            payload = orjson.loads(fields.get("payload", ""))
        except orjson.JSONDecodeError:
            raise MalformedRequest("'payload' must be JSON") from None
        user, team = _table(payload, "user"), _table(payload, "team")
        # Somebody of another workspace, in a shared channel, counts as of his own.
        person = Person(_text(user, "team_id") or _text(team, "id"), _text(user, "id"), _text(payload, "response_url"))
        actions = payload.get("actions") if isinstance(payload, dict) else None
        for action in actions if isinstance(actions, list) else []:
            pressed, watch_id = _text(action, "action_id"), _text(action, "value")
            if pressed in (STOP, AGAIN):
                self._context.errands.run(self._pressed(person, pressed, watch_id))
        return Response()

    async def _fields(self, request: Request) -> dict[str, str]:
        """The form that Slack sent.

        Raises:
            NotFound: this deployment does not listen to Slack.
            BadSignature: it is not from Slack, or more than five minutes old.
        """
        if self._verifier is None:
            raise NotFound("this deployment does not listen to Slack: set SLACK_SIGNING_SECRET")
        body = await read_body(request, MAX_BODY)
        headers = request.headers
        try:
            genuine = self._verifier.is_valid(
                body, headers.get("x-slack-request-timestamp"), headers.get("x-slack-signature")
            )
        except (ValueError, TypeError, OverflowError):  # no number, not UTF-8, not ASCII: it never is Slack
            genuine = False
        if not genuine:
            raise BadSignature("this is not signed with SLACK_SIGNING_SECRET within the last five minutes")
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError:
            raise MalformedRequest("the body must be a form") from None

    # What is done afterwards

    async def _app_of(self, person: Person) -> apps.App | None:
        """The app that a person may act for: his own grant before his workspace's."""
        name = self._grants.get(f"{person.team}/{person.user}") or self._grants.get(person.team)
        app = None if name is None else await self._context.db.read(apps.by_name, name)
        return None if app is None or app.disabled_at is not None else app

    async def _answered(self, person: Person, text: str, channel: str) -> None:
        verb, _, rest = text.strip().partition(" ")
        try:
            if verb.lower() in ("", "help"):
                said = HELP
            elif (app := await self._app_of(person)) is None:
                said = not_allowed(person.team, person.user)
            else:
                said = await self._command(app, verb.lower(), rest.strip(" `<>\"'"), channel)
        except RelayError as error:
            said = f":warning: {_words(error)}"
        await self._tell(person, said)

    async def _command(self, app: apps.App, verb: str, about: str, channel: str) -> str:
        db, page = self._context.db, self._context.settings.base_url
        if verb == "list":
            found = await db.read(watches.newest, app.id, LISTED + 1, None, State.WATCHING)
            return listed(found[:LISTED], len(found) > LISTED, page)
        if verb not in ("watch", "status") or not about:
            return HELP
        if verb == "watch":
            wanted = parse(WatchIn, {"task_id": about, "targets": [{"type": "slack", "channel": channel}]})
            return watching(await self._api.add(app, wanted), page)
        if about.startswith("wch_"):
            return status_of([await db.read(watches.read, app.id, about)], page)
        found = await db.read(watches.newest, app.id, MATCHES, None, None, None, about)
        return status_of(found, page) if found else f":warning: No task `{about[:64]}` is watched here."

    async def _pressed(self, person: Person, pressed: str, watch_id: str) -> None:
        try:
            app = await self._app_of(person)
            if app is None:
                said = not_allowed(person.team, person.user)
            else:
                said = await (self._stop if pressed == STOP else self._send_again)(app, person, watch_id)
        except RelayError as error:
            said = f":warning: {_words(error)}"
        if said:
            await self._tell(person, said)

    async def _stop(self, app: apps.App, person: Person, watch_id: str) -> str:
        now = self._context.clock()
        stopped = await self._context.db.run(watches.cancel, app.id, watch_id, now, f"Stopped by {person.mention}.")
        self._context.changes.announce([watch_id])
        log.info("stopped in Slack", watch_id=watch_id, team=person.team, user=person.user)
        return "" if stopped else "The task has ended already; there is nothing to stop."

    async def _send_again(self, app: apps.App, person: Person, watch_id: str) -> str:
        now = self._context.clock()
        when = f"<!date^{now // 1000}^{{date_short_pretty}} {{time}}|just now>"
        said = f"Sent again by {person.mention}, {when}."
        count = await self._context.db.run(replay.send_again, app.id, watch_id, now, said)
        self._context.told()
        log.info("sent again in Slack", watch_id=watch_id, deliveries=count, team=person.team, user=person.user)
        return "" if count else "Nothing is left to be sent again: everybody has been told, or is being told."

    async def _tell(self, person: Person, said: str) -> None:
        """Says something to one person, where he acted."""
        url = person.response_url
        try:
            parts = split_url(url)
        except ValueError:
            return
        if not {parts.hostname, parts.netloc} & set(self._context.settings.slack_hook_hosts):
            log.warning("a response URL leads elsewhere", host=parts.hostname)
            return
        body = {"response_type": "ephemeral", "replace_original": False, "text": said}
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await attempted(self._context.slack.hook(url, body))
        except TimeoutError:
            log.warning("somebody in Slack was not answered", error="timeout")
            return
        if not isinstance(answer, Answer) or not answer.taken:
            error = answer.code if isinstance(answer, Answer) else answer.error
            log.warning("somebody in Slack was not answered", error=error)


def _words(error: RelayError) -> str:
    """What went wrong, for a person in Slack."""
    if isinstance(error, StoreUnavailable):
        return "relay's database does not answer; try again in a moment."
    return error.detail.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(value: Any, name: str) -> Mapping[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and "\0" not in found else ""


def routes(context: Context) -> list[Route]:
    """Slack's two routes."""
    desk = Desk(context)
    return [
        Route("/slack/commands", desk.command, methods=["POST"]),
        Route("/slack/interactions", desk.interaction, methods=["POST"]),
    ]
