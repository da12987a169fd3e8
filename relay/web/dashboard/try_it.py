"""Try it: a task of the sandbox, registered by a button, so that a newcomer sees an event arrive before any code."""

from __future__ import annotations

import secrets

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.channels.watch_request import WatchRequest
from relay.errors import Conflict, Invalid, RelayError
from relay.store import apps
from relay.store.apps import App
from relay.web.api.schemas import TestIn
from relay.web.bodies import parse
from relay.web.dashboard.frame import Frame
from relay.web.dashboard.sessions import Session

log = structlog.stdlib.get_logger(__name__)

SANDBOX = "sandbox"
"""The provider that plays an upstream."""

TASKS = {
    "complete-in-5s": "completes in 5 s",
    "complete-in-60s": "completes in 1 min, with progress",
    "fail-in-5s": "fails in 5 s",
}
"""Tasks of the sandbox that are offered."""


class TryIt:
    """The page `/try`.

    Args:
        frame: of the pages.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._context = frame.context

    async def page(self, request: Request, session: Session) -> Response:
        """Offer a task of the sandbox, `GET /try`; register it: `POST`."""
        form = await self._frame.form(request, session)
        names = [app.name for app in await self._enabled()]
        problem = ""
        if form is not None:
            try:
                watch_id = await self._register(form.get("task", ""), form.get("url", ""), form.get("app", ""))
                return RedirectResponse(f"/watches/{watch_id}", 303)
            except Invalid as error:
                problem = "; ".join(field.detail for field in error.errors) or error.detail
            except RelayError as error:
                problem = error.detail
        return self._frame.page(
            request,
            session,
            "try.html",
            None,
            problem=problem,
            tasks=TASKS,
            apps=names,
            inbox=self._context.inbox,
            own_inbox=self._context.inbox_tokens.url("") is not None,
            sandbox=SANDBOX in self._context.upstreams,
            given=form or {},
        )

    async def _register(self, task: str, url: str, name: str) -> str:
        """Register a task of the sandbox for an app; return the id of its watch.

        Args:
            url: where its event goes; empty for the test inbox.
        """
        if task not in TASKS:
            raise Invalid("there is no such task")
        app = next((app for app in await self._enabled() if app.name == name), None)
        if app is None:
            raise Conflict("there is no such app: 'relay apps create NAME' makes one")
        url = url.strip() or self._context.inbox_tokens.url(app.id) or ""
        target = parse(TestIn, {"target": {"type": "webhook", "url": url}}, below="/target").target
        wanted = WatchRequest(f"sandbox:{task}#{secrets.token_hex(4)}", [target], SANDBOX)
        registered = await self._context.actions.register(app.id, wanted)
        watch_id = str(registered.watch.row.id)
        log.info("sandbox task registered by the operator", watch_id=watch_id)
        return watch_id

    async def _enabled(self) -> list[App]:
        every = await self._context.db.read(apps.every)
        return [app for app in every if app.disabled_at is None and app.name != apps.ALERTS_APP]
