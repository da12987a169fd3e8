"""The dashboard: pages for the operator, who sees every app's watches and can do what their apps can.

Reading works without JavaScript. With it, an open page learns from `/live` that something changed, asks for itself
again, and takes over what is new (htmx and idiomorph), so that nothing jumps and nothing that is open closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
import structlog
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from relay.errors import StoreUnavailable, TooManyRequests
from relay.model.task_ids import trimmed
from relay.settings.options import Settings
from relay.store import reports
from relay.web.context import Context
from relay.web.dashboard import rendering, words
from relay.web.dashboard.buttons import Buttons, usable_id
from relay.web.dashboard.delivery_page import SentPages
from relay.web.dashboard.fleet import Fleet
from relay.web.dashboard.frame import OURS, Frame, PageHandler
from relay.web.dashboard.front_page import ADDRESS, TOKEN, FrontPage
from relay.web.dashboard.lists import Lists
from relay.web.dashboard.sessions import LIFETIME, Session
from relay.web.dashboard.shared_read import SharedRead
from relay.web.dashboard.timeline import timeline
from relay.web.dashboard.try_it import TryIt
from relay.web.dashboard.window import WINDOWS, name_of_window
from relay.web.sse import BEGIN, COMMENT, HEARTBEAT, event_stream

log = structlog.stdlib.get_logger(__name__)

REST = 1.0
"""Seconds between two calls of a page to look again. The front page is not read more often from the database either."""

RECENT = 2.0
"""Seconds that the front page may be old when it is opened."""

MATCHES = 50
"""Watches that a search shows."""

STOP = {
    "title": "Stop watching?",
    "text": "Nobody will be told how the task ends.",
    "label": "Stop watching",
    "fields": {"do": "stop", "sure": "1"},
    "back": "Go on watching",
}
"""What is asked before a watch is stopped."""

CHANGED = b"event: changed\ndata: now\n\n"
"""Tells a page to look again."""


class Dashboard:
    """The front page, the page of a watch, the search, and logging in and out.

    Args:
        frame: of the pages.
    """

    def __init__(self, frame: Frame) -> None:
        context = frame.context
        self._context = context
        self._frame = frame
        self._buttons = Buttons(context)
        self._sessions = frame.sessions
        self._generation = frame.generation
        self._fronts = {window: SharedRead(FrontPage(context, window).read, REST) for window in WINDOWS}

    # Pages

    async def front(self, request: Request, session: Session) -> Response:
        """Show the front page: `GET /`, `?window=` for another time than the last day; and `POST /` for its buttons."""
        front = self._fronts[name_of_window(request.query_params.get("window"))]
        form = await self._frame.form(request, session)
        notice = None if form is None else await self._buttons.retry(form.get("delivery", ""))
        fresh = form is not None or "hx-request" in request.headers
        html = await front.get(0.0 if fresh else RECENT, at_once=form is not None)
        html = html.replace(TOKEN, self._sessions.token(session))
        html = html.replace(ADDRESS, escape(_address(request, self._context.settings)))
        return self._frame.page(request, session, "front.html", notice, body=Markup(html))  # noqa: S704 - a template made it

    async def watch(self, request: Request, session: Session) -> Response:
        """Show a watch: `GET /watches/{id}`, and `POST` for its buttons."""
        watch_id = usable_id(request.path_params["id"])
        form = await self._frame.form(request, session)
        if form is not None and form.get("do") == "stop" and "sure" not in form:
            return self._frame.page(request, session, "ask.html", None, **STOP)
        notice = None if form is None else await self._buttons.press(watch_id, form)
        story = await self._context.db.read(reports.watch_history, watch_id)
        row = story.watch.row
        called = {target.id: words.title(self._context.targets, target) for target in story.watch.targets}
        return self._frame.page(
            request,
            session,
            "watch.html",
            notice,
            story=story,
            watch=row,
            result=None if row.result is None else orjson.loads(row.result),
            error=None if row.error is None else orjson.loads(row.error),
            provider=self._context.upstreams.get(row.provider),
            targets=[(target, called[target.id]) for target in story.watch.targets],
            places={target.id: words.place(self._context.targets, target) for target in story.watch.targets},
            paths={target_id: words.path_of(title) for target_id, title in called.items()},
            why=words.why,
            items=timeline(story),
            most_deliveries=reports.MAX_DELIVERIES,
            now=self._context.clock(),
        )

    async def search(self, request: Request, session: Session) -> Response:
        """Find watches by task id or by an id of relay: `GET /search?q=`. Lead to the watch if there is only one."""
        text = trimmed(request.query_params.get("q", "").replace("\0", ""))[:512]
        matches = []
        if text:
            matches = await self._context.db.read(reports.search, text, MATCHES)
        if len(matches) == 1:
            return RedirectResponse(f"/watches/{matches[0].id}", 303)
        return self._frame.page(
            request, session, "search.html", None, text=text, matches=matches, now=self._context.clock()
        )

    # Open pages

    async def live(self, request: Request, session: Session) -> Response:
        """Tell an open page, at most about once a second, that something is new: `GET /live`; `?watch=` for one."""
        watch_id = request.query_params.get("watch")
        calls = self._calls(session, None if watch_id is None else usable_id(watch_id))
        return event_stream(request, calls, self._context.streams, "operator")

    async def _calls(self, session: Session, watch_id: str | None) -> AsyncIterator[bytes]:
        seconds_left = (session.until - self._context.clock()) / 1000 if session.known else LIFETIME
        until = time.monotonic() + seconds_left
        yield BEGIN + CHANGED  # what changed between the page and this stream is not missed
        with self._looking(watch_id) as changed:
            while not self._context.feed.closed and time.monotonic() < until:
                await asyncio.sleep(REST)
                yield CHANGED if await changed() else COMMENT
                with contextlib.suppress(StoreUnavailable):
                    if await self._generation.ended(session):
                        return

    @contextlib.contextmanager
    def _looking(self, watch_id: str | None) -> Iterator[Callable[[], Awaitable[bool]]]:
        """Yield a function that waits for a change of one watch, or of any; it returns False if there was none."""
        if watch_id is None:
            with self._context.feed.any() as event:

                async def any_changed() -> bool:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT):
                            await event.wait()
                    changed = event.is_set()
                    event.clear()
                    return changed

                yield any_changed
        else:
            with self._context.feed.follow(watch_id) as follower:

                async def it_changed() -> bool:
                    return await follower.next(HEARTBEAT) is not None

                yield it_changed

    # Logging in and out

    async def login(self, request: Request, session: Session) -> Response:
        """Ask for the password, and take it: `GET /login`, `POST /login`."""
        to = request.query_params.get("to", "/")
        to = to if OURS.fullmatch(to) else "/"
        form = await self._frame.form(request, session)
        if not self._sessions.wants_login or (session.known and form is None):
            return RedirectResponse(to, 303)
        if form is None:
            return self._login_page(session, to)
        try:
            if not self._sessions.log_in(request, form.get("password", "")):
                return self._login_page(session, to, 401, "This is not the password.")
        except TooManyRequests as error:
            seconds = math.ceil(error.retry_after or 1)
            wait = f"Too many wrong passwords. Try again in {seconds} second{'' if seconds == 1 else 's'}."
            return self._login_page(session, to, error.status, wait, {"Retry-After": str(seconds)})
        generation = await self._generation.current()
        response = RedirectResponse(to, 303)
        self._sessions.give(response, self._sessions.new(self._context.clock(), known=True, generation=generation))
        self._sessions.know(request, response)
        return response

    def _login_page(
        self, session: Session, to: str, status: int = 200, wrong: str = "", headers: Mapping[str, str] | None = None
    ) -> Response:
        html = rendering.render("login.html", token=self._sessions.token(session), wrong=wrong, to=to, operator=False)
        return rendering.page(html, status, headers)

    async def logout(self, request: Request, session: Session) -> Response:
        """End the session, wherever its cookie is, and every other one: `POST /logout`."""
        await self._frame.form(request, session)
        if session.known:
            await self._generation.end()
        response = RedirectResponse("/login" if self._sessions.wants_login else "/", 303)
        self._sessions.take(response)
        return response


def _address(request: Request, settings: Settings) -> str:
    """Return the address at which this reader reaches this deployment."""
    host = request.headers.get("host", "")
    if settings.base_url or not re.fullmatch(r"[\w.:\[\]-]{1,255}", host, re.ASCII):
        return settings.public_url
    behind_tls = settings.deployed or request.headers.get("x-forwarded-proto") == "https"
    return f"{'https' if behind_tls else 'http'}://{host}"


ROUTES: tuple[tuple[str, list[str], tuple[Any, Any]], ...] = (
    ("/", ["GET", "POST"], (Dashboard, Dashboard.front)),
    ("/watches", ["GET"], (Lists, Lists.watches)),
    ("/watches/{id}", ["GET", "POST"], (Dashboard, Dashboard.watch)),
    ("/deliveries", ["GET", "POST"], (Lists, Lists.deliveries)),
    ("/deliveries/again", ["GET", "POST"], (Lists, Lists.again)),
    ("/deliveries/{id}", ["GET", "POST"], (SentPages, SentPages.page)),
    ("/deliveries/{id}/body", ["GET"], (SentPages, SentPages.body)),
    ("/apps", ["GET", "POST"], (Fleet, Fleet.apps)),
    ("/providers", ["GET"], (Fleet, Fleet.providers)),
    ("/try", ["GET", "POST"], (TryIt, TryIt.page)),
    ("/search", ["GET"], (Dashboard, Dashboard.search)),
    ("/live", ["GET"], (Dashboard, Dashboard.live)),
    ("/login", ["GET", "POST"], (Dashboard, Dashboard.login)),
    ("/logout", ["POST"], (Dashboard, Dashboard.logout)),
)
"""Path, methods, and which method of which pages answers."""


def routes(context: Context) -> list[Route]:
    """Return the routes of the dashboard's pages and of their static files."""
    frame = Frame(context)
    pages = {kind: kind(frame) for _, _, (kind, _) in ROUTES}

    def endpoint(handler: PageHandler, *, public: bool) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await frame.handle(handler, request, public=public)

        return handle

    return [
        *(
            Route(path, endpoint(partial(handler, pages[kind]), public=path == "/login"), methods=methods)
            for path, methods, (kind, handler) in ROUTES
        ),
        Route("/static/{version}/{name:path}", rendering.static),
    ]
