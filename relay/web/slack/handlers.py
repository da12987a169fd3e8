"""What people do in Slack: `/relay …`, and the buttons below a living message.

Slack signs each request. Who may act for which app is configured (`RELAY_SLACK_TEAMS`); by default, no one may. A
request is answered at once, because Slack waits for three seconds only. The work is done after that, and its outcome is
shown to the person alone, or by the message itself.

https://docs.slack.dev/authentication/verifying-requests-from-slack
https://docs.slack.dev/interactivity/handling-user-interaction
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson
import sqlalchemy as sa
import structlog
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.channels.base import DEADLINE
from relay.channels.slack.api import SlackAnswer, attempted
from relay.channels.slack.face import AGAIN, STOP
from relay.channels.urls import split_url
from relay.errors import BadSignature, Invalid, MalformedRequest, NotFound, RelayError
from relay.model.delivery import DeliveryState
from relay.model.watch import State
from relay.outbound.deadline import Deadline
from relay.store import apps, finding, watches
from relay.store.schema import AnyRow
from relay.web.api.schemas import WatchIn
from relay.web.bodies import parse, read_body
from relay.web.context import Context
from relay.web.slack import replies
from relay.web.slack.pasted import command_of, readings

if TYPE_CHECKING:
    from slack_sdk.signature import SignatureVerifier

log = structlog.stdlib.get_logger(__name__)

MAX_BODY = 256 * 1024
"""Bytes of a request: a press of a button repeats the whole message that the button belongs to."""

MAX_FIELDS = 100

MAX_AGE = 300
"""Seconds for which a signature holds."""

TIMESTAMP = re.compile("[0-9]{1,12}", re.ASCII)
SIGNATURE = re.compile("v0=[0-9a-f]{64}")
NOT_SIGNED = "this is not signed with SLACK_SIGNING_SECRET within the last five minutes"

LISTED = 10
"""Watches that `/relay list` shows."""

MATCHES = 5
"""Watches that `/relay status` shows."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who did something in Slack, and where to answer."""

    team: str
    user: str
    response_url: str

    @property
    def mention(self) -> str:
        """Return the person in Slack's markup."""
        return f"<@{self.user}>" if re.fullmatch("[UW][A-Z0-9]{1,30}", self.user) else "someone"


@dataclass(frozen=True, slots=True)
class Command:
    """What stands behind `/relay`, and in which channel."""

    verb: str
    subject: str
    channel: str


Action = Callable[[apps.App], Awaitable[str]]
"""Does something for an app; returns the reply, empty if the message itself shows what came of it."""


class SlackRequests:
    """Handles the requests of both routes.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        secret = context.settings.slack_signing_secret
        self._verifier = None if secret is None else _verifier(secret)
        grants = (grant.partition("=") for grant in context.settings.slack_teams)
        self._grants = {who: app for who, _, app in grants}

    # Requests

    async def command(self, request: Request) -> Response:
        """Accept a command: `POST /slack/commands`."""
        fields = await self._fields(request)
        person = Person(fields.get("team_id", ""), fields.get("user_id", ""), fields.get("response_url", ""))
        verb, subject = command_of(fields.get("text", ""))
        if verb in ("", "help"):
            return Response(background=BackgroundTask(self._tell, person, replies.HELP))
        command = Command(verb, subject, fields.get("channel_id", ""))
        return Response(background=BackgroundTask(self._answer, person, partial(self._run, command)))

    async def interaction(self, request: Request) -> Response:
        """Accept the press of a button: `POST /slack/interactions`."""
        fields = await self._fields(request)
        try:
            payload = orjson.loads(fields.get("payload", ""))
        except orjson.JSONDecodeError:
            raise MalformedRequest("'payload' must be JSON") from None
        user = _object(payload, "user")
        # A member of another workspace, in a shared channel, counts as a member of that workspace.
        team_id = _text(user, "team_id") or _text(_object(payload, "team"), "id")
        person = Person(team_id, _text(user, "id"), _text(payload, "response_url"))
        actions = payload.get("actions") if isinstance(payload, dict) else None
        presses = BackgroundTasks()
        for action in actions if isinstance(actions, list) else []:
            press = {STOP: self._stop, AGAIN: self._send_again}.get(_text(action, "action_id"))
            if press is not None:
                presses.add_task(self._answer, person, partial(press, person, _text(action, "value")))
        return Response(background=presses)

    async def _fields(self, request: Request) -> dict[str, str]:
        """Return the form that Slack sent.

        Raises:
            NotFound: this deployment does not listen to Slack.
            BadSignature: it is not from Slack, or more than five minutes old.
        """
        if self._verifier is None:
            raise NotFound("this deployment does not listen to Slack: set SLACK_SIGNING_SECRET")
        timestamp, signature = _signed(request)
        body = bytes(await read_body(request, MAX_BODY))
        try:
            genuine = self._verifier.is_valid(body, timestamp, signature)
        except (ValueError, TypeError, OverflowError):  # no number, not UTF-8, not ASCII: it is not from Slack
            genuine = False
        if not genuine:
            raise BadSignature(NOT_SIGNED)
        try:
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError:
            raise MalformedRequest("the body must be a form") from None

    # The work after the answer

    async def _answer(self, person: Person, action: Action) -> None:
        """Do what a person asks for, if the person may, and tell the person the outcome."""
        try:
            app = await self._app_of(person)
            reply = replies.not_allowed(person.team, person.user) if app is None else await action(app)
        except RelayError as error:
            reply = replies.failure(error)
        if reply:
            await self._tell(person, reply)

    async def _app_of(self, person: Person) -> apps.App | None:
        """Return the app that a person may act for: the person's own grant goes before that of the workspace."""
        name = self._grants.get(f"{person.team}/{person.user}") or self._grants.get(person.team)
        app = None if name is None else await self._context.db.read(apps.by_name, name)
        return None if app is None or app.disabled_at is not None else app

    async def _run(self, command: Command, app: apps.App) -> str:
        """Run a command; return the reply."""
        db = self._context.db
        base_url = self._context.settings.base_url
        if "\0" in command.subject:  # PostgreSQL has no way to look for it
            raise Invalid.at("/task_id", "an id cannot hold the character NUL")
        match command.verb:
            case "list":
                watching = watches.WatchFilter(state=State.WATCHING)
                newest = await db.read(watches.newest, app.id, LISTED + 1, None, watching)
                return replies.listed(newest[:LISTED], len(newest) > LISTED, base_url)
            case "dead":
                newest_dead = await db.read(_dead, app.id)
                return replies.dead(newest_dead[:LISTED], len(newest_dead) > LISTED, base_url)
            case "watch" if command.subject:
                return await self._watch(command, app)
            case "status" if command.subject:
                name, matches = await self._named(command.subject, app)
                if not matches and name.startswith("wch_"):
                    matches = [await db.read(watches.read, app.id, name)]
                return replies.status_of(matches, base_url) or replies.not_watched(name)
            case "watch" | "status":
                return replies.HELP
        return replies.unknown_command(command.verb)

    async def _watch(self, command: Command, app: apps.App) -> str:
        """Watch a task, of the provider that stands before its id or else of the usual one."""
        provider, rest = self._provider_before(command.subject)
        task_id, _ = await self._named(rest if provider else command.subject, app)
        targets = [{"type": "slack", "channel": command.channel}]
        of_provider = {"provider": provider} if provider else {}
        wanted = parse(WatchIn, {"task_id": task_id, "targets": targets, **of_provider})
        # RELAY_SLACK_TEAMS lets this person act for the app, here in the channel: that is permission enough.
        here = replace(wanted.request(), permitted=True)
        registered = await self._context.actions.register(app.id, here)
        return replies.watching(registered, self._context.settings.base_url)

    def _provider_before(self, subject: str) -> tuple[str | None, str]:
        """Split a provider's name off the id behind it. Without one, all of it is the id.

        Raises:
            Invalid: the id is missing, or the name is not quite a provider's.
        """
        first, _, rest = subject.partition(" ")
        names = list(self._context.upstreams)
        name = first.lower()
        if name in names:
            if not rest.strip():
                raise Invalid(f"which task of '{name}'? Its id comes after it: '/relay watch {name} ID'")
            return name, rest
        if rest.strip() and (near := get_close_matches(name, names, n=1)):
            raise Invalid(f"there is no provider '{first}'; did you mean '{near[0]}'?")
        return None, subject

    async def _named(self, text: str, app: apps.App) -> tuple[str, list[watches.StoredWatch]]:
        """Return the id that a text names, and its watches: the first reading of the text that is watched.

        If none is, return the last reading, which has nothing left around the id.
        """
        ids = readings(text)
        for task_id in ids:
            of_task = watches.WatchFilter(task_id=task_id)
            if matches := await self._context.db.read(watches.newest, app.id, MATCHES, None, of_task):
                return task_id, matches
        return ids[-1], []

    async def _stop(self, person: Person, watch_id: str, app: apps.App) -> str:
        stopped = await self._context.actions.stop(app.id, watch_id, f"Stopped by {person.mention}.")
        log.info("stopped in Slack", watch_id=watch_id, team=person.team, user=person.user)
        return "" if stopped else replies.already_ended(await self._task_of(app, watch_id))

    async def _send_again(self, person: Person, watch_id: str, app: apps.App) -> str:
        time = f"<!date^{self._context.clock() // 1000}^{{date_short_pretty}} {{time}}|just now>"
        count = await self._context.actions.send_end_again(app.id, watch_id, f"Sent again by {person.mention}, {time}.")
        log.info("sent again in Slack", watch_id=watch_id, deliveries=count, team=person.team, user=person.user)
        return "" if count else replies.nothing_to_send(await self._task_of(app, watch_id))

    async def _task_of(self, app: apps.App, watch_id: str) -> str:
        """Return the id of the task of a watch."""
        return str((await self._context.db.read(watches.read, app.id, watch_id)).row.task_id)

    async def _tell(self, person: Person, reply: str) -> None:
        """Show a reply to one person, where the person acted."""
        url = person.response_url
        try:
            parts = split_url(url)
        except ValueError:
            return
        if not {parts.hostname, parts.netloc} & set(self._context.settings.slack_hook_hosts):
            log.warning("a response URL leads elsewhere", host=parts.hostname)
            return
        body = {"response_type": "ephemeral", "replace_original": False, "text": reply}
        try:
            with Deadline(DEADLINE):
                answer = await attempted(self._context.slack.hook(url, body))
        except TimeoutError:
            log.warning("somebody in Slack was not answered", error="timeout")
            return
        if not isinstance(answer, SlackAnswer) or not answer.taken:
            error = answer.code if isinstance(answer, SlackAnswer) else answer.error
            log.warning("somebody in Slack was not answered", error=error)


def _dead(tx: sa.Connection, app_id: str) -> list[AnyRow]:
    wanted = finding.Filter(app_id=app_id, state=DeliveryState.DEAD)
    return finding.delivery_rows(tx, finding.find_deliveries(tx, wanted, None, LISTED + 1).ids)


def _verifier(secret: str) -> SignatureVerifier:
    from slack_sdk.signature import SignatureVerifier  # the package imports the whole SDK: see relay.channels.slack.sdk

    return SignatureVerifier(secret)


def _signed(request: Request) -> tuple[str, str]:
    """Return the time and the signature that a request claims, before its body is read.

    Raises:
        BadSignature: they cannot be right, whatever the body.
    """
    timestamp = request.headers.get("x-slack-request-timestamp", "")
    signature = request.headers.get("x-slack-signature", "")
    if not TIMESTAMP.fullmatch(timestamp) or not SIGNATURE.fullmatch(signature):
        raise BadSignature(NOT_SIGNED)
    if abs(time.time() - int(timestamp)) > MAX_AGE:
        raise BadSignature(NOT_SIGNED)
    return timestamp, signature


def _object(value: Any, name: str) -> Mapping[str, Any]:
    """Return the object at `name`; an empty one if there is none."""
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, dict) else {}


def _text(value: Any, name: str) -> str:
    """Return the text at `name`; an empty one if there is none, or none that a database takes."""
    member = value.get(name) if isinstance(value, Mapping) else None
    return member if isinstance(member, str) and "\0" not in member else ""


def routes(context: Context) -> list[Route]:
    """Return Slack's two routes."""
    requests = SlackRequests(context)
    return [
        Route("/slack/commands", requests.command, methods=["POST"]),
        Route("/slack/interactions", requests.interaction, methods=["POST"]),
    ]
