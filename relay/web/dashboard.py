"""The dashboard: pages for the operator, who sees every app's watches and can do what their apps can.

Reading works without JavaScript. With it, an open page hears from `/live` that something changed, asks for itself
again, and takes what is new into itself (htmx and idiomorph), so that nothing jumps and nothing that is open closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, quote

import orjson
import structlog
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from relay.errors import Invalid, NotFound, RelayError
from relay.model import Verdict
from relay.settings import Settings
from relay.store import overview, replay, watches
from relay.web import pages
from relay.web.context import Context
from relay.web.front import ADDRESS, TOKEN, Front
from relay.web.live import HEARTBEAT, RECONNECT_MS, event_stream
from relay.web.problems import on_relay_error, read_body, request_id_of
from relay.web.session import LIFETIME, Session, Sessions
from relay.web.shared import Shared
from relay.web.timeline import timeline

log = structlog.stdlib.get_logger(__name__)

MAX_FORM = 16 * 1024
REST = 1.0
"""Seconds between two calls to look again: of the front page, between two readings of the database too."""

RECENT = 2.0
"""Seconds that the front page may be old for somebody who has just opened it."""

FOUND = 50
"""Watches that a search shows."""

CALL = b"event: changed\ndata: now\n\n"

Form = dict[str, str]
Handler = Callable[["Dashboard", Request, Session], Awaitable[Response]]


class Dashboard:
    """The pages of one deployment."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sessions = Sessions(context.settings, context.vault)
        self._front = Shared(Front(context).read, REST)

    # Pages

    async def front(self, request: Request, session: Session) -> Response:
        """`GET /`, and `POST /` for its buttons."""
        said, form = None, await self._form(request, session)
        if form is not None:
            said = await self._retry(form.get("delivery", ""))
        again = "hx-request" in request.headers
        html = await self._front.get(0.0 if again or form else RECENT, at_once=form is not None)
        html = html.replace(TOKEN, self._sessions.token(session))
        body = html.replace(ADDRESS, escape(_address(request, self._context.settings)))
        return self._page(request, session, "front.html", said, body=Markup(body))  # noqa: S704 - a template made it

    async def watch(self, request: Request, session: Session) -> Response:
        """`GET /watches/{id}`, and `POST` for its buttons."""
        context, watch_id, said = self._context, _id(request.path_params["id"]), None
        form = await self._form(request, session)
        if form is not None:
            match form.get("do"):
                case "retry":
                    said = await self._retry(form.get("delivery", ""))
                case "stop":
                    said = await self._stop(watch_id)
                case "test":
                    said = await self._test(watch_id, form.get("target", ""))
                case _:
                    raise Invalid("there is no such button")
        story = await context.db.read(overview.story, watch_id)
        row = story.watch.row
        return self._page(
            request,
            session,
            "watch.html",
            said,
            story=story,
            watch=row,
            result=None if row.result is None else orjson.loads(row.result),
            error=None if row.error is None else orjson.loads(row.error),
            targets=[(one, context.addresses.show(one)) for one in story.watch.targets],
            items=timeline(story),
            most_deliveries=overview.MAX_DELIVERIES,
            now=context.clock(),
        )

    async def search(self, request: Request, session: Session) -> Response:
        """`GET /search?q=`: by task id, or by one of relay's own ids; what is found alone is shown."""
        text = request.query_params.get("q", "").strip()[:512].replace("\0", "")
        found = []
        if text:
            found = await self._context.db.read(overview.search, text, list(self._context.providers), FOUND)
        if len(found) == 1:
            return RedirectResponse(f"/watches/{found[0].id}", 303)
        return self._page(request, session, "search.html", None, text=text, found=found, now=self._context.clock())

    # Buttons

    async def _retry(self, delivery_id: str) -> str:
        context = self._context
        app_id, watch_id = await context.db.read(overview.owner, _id(delivery_id))
        found = await context.db.run(replay.retry, app_id, delivery_id, context.clock())
        context.told()
        context.changes.announce([watch_id])
        log.info("sent again by the operator", delivery_id=delivery_id, watch_id=watch_id)
        return f"Sending {found.row.event_type} to {found.row.host} again."

    async def _stop(self, watch_id: str) -> str:
        context = self._context
        found = (await context.db.read(watches.read_many, [watch_id])).get(watch_id)
        if found is None:
            raise NotFound(f"there is no watch '{watch_id[:64]}'")
        if found.row.ended_at is not None:
            return f"It had ended already: {found.row.state}."
        await context.db.run(watches.cancel, found.row.app_id, watch_id, context.clock())
        context.changes.announce([watch_id])
        log.info("stopped by the operator", watch_id=watch_id)
        return "Stopped watching; nobody will be told how the task ends."

    async def _test(self, watch_id: str, target_id: str) -> str:
        context = self._context
        found = (await context.db.read(watches.read_many, [watch_id])).get(watch_id)
        target = next((one for one in found.targets if one.id == target_id), None) if found else None
        if found is None or target is None:
            raise NotFound(f"there is no target '{target_id[:64]}' of this watch")
        words = "This is a test event of relay, sent from its dashboard. Its signature is a real one."
        _, attempt = await context.dispatcher.test(found.row.app_id, target, words)
        outcome, took = attempt.outcome, pages.span(attempt.latency_ms)
        if outcome.verdict is Verdict.DELIVERED:
            return f"The test event arrived: {outcome.status or 'taken'} in {took}."
        return f"The test event did not arrive: {outcome.note or outcome.error} ({took})."

    # What lives with a page

    async def live(self, request: Request, session: Session) -> Response:
        """`GET /live`: says, at most about once a second, that there is something new; of one watch with `?watch=`."""
        watch_id = request.query_params.get("watch")
        return event_stream(self._calls(session, None if watch_id is None else _id(watch_id)))

    async def _calls(self, session: Session, watch_id: str | None) -> AsyncIterator[bytes]:
        left = (session.until - self._context.clock()) / 1000 if session.known else LIFETIME
        over = time.monotonic() + left
        yield b"retry: %d\n\n" % RECONNECT_MS + CALL  # what changed between the page and this stream is not missed
        with self._looking(watch_id) as look:
            while not self._context.changes.closed and time.monotonic() < over:
                await asyncio.sleep(REST)
                yield CALL if await look() else b":\n\n"

    @contextlib.contextmanager
    def _looking(self, watch_id: str | None) -> Iterator[Callable[[], Awaitable[bool]]]:
        """A function that waits for something new, about one watch or all: False if nothing was for a while."""
        changes = self._context.changes
        if watch_id is None:
            with changes.any() as event:

                async def anything() -> bool:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT):
                            await event.wait()
                    came = event.is_set()
                    event.clear()
                    return came

                yield anything
        else:
            with changes.follow(watch_id) as follower:

                async def about_it() -> bool:
                    return await follower.news(HEARTBEAT) is not None

                yield about_it

    # Coming and going

    async def login(self, request: Request, session: Session) -> Response:
        """`GET /login`, `POST /login`"""
        to = request.query_params.get("to", "/")
        to = to if re.fullmatch(r"/(watches/\w+|search\?q=[^\s\\]*)?", to) else "/"
        form, wrong = await self._form(request, session), False
        if form is not None:
            good = self._sessions.log_in(request, form.get("password", ""))
            log.info("logged in" if good else "wrong password", address=request.client.host if request.client else None)
            if good:
                response: Response = RedirectResponse(to, 303)
                self._sessions.give(response, self._sessions.new(self._context.clock(), known=True))
                return response
            wrong = True
        if not self._sessions.wants_login or (session.known and form is None):
            return RedirectResponse(to, 303)
        html = pages.render("login.html", token=self._sessions.token(session), wrong=wrong, to=to, operator=False)
        return pages.page(html, 401 if wrong else 200)

    async def logout(self, request: Request, session: Session) -> Response:
        """`POST /logout`"""
        await self._form(request, session)
        response = RedirectResponse("/login" if self._sessions.wants_login else "/", 303)
        self._sessions.take(response)
        return response

    async def handle(self, handler: Handler, request: Request, *, open_: bool) -> Response:
        """Lets somebody in, or shows where to log in; an error is a page too."""
        now = self._context.clock()
        session = self._sessions.read(request, now)
        new = session is None
        session = session or self._sessions.new(now, known=False)
        try:
            if not self._sessions.may_see(request, session) and not open_:
                return _to_login(request)
            response = await handler(self, request, session)
        except RelayError as error:
            if request.url.path == "/live":
                return await on_relay_error(request, error)
            response = self._error(request, error)
        if new and "set-cookie" not in response.headers:
            self._sessions.give(response, session)
        return response

    def _error(self, request: Request, error: RelayError) -> Response:
        headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
        html = pages.render("error.html", error=error, request_id=request_id_of(request), operator=False)
        return pages.page(html, error.status, headers)

    def _page(self, request: Request, session: Session, template: str, said: str | None, **values: Any) -> Response:
        html = pages.render(
            template,
            path=request.url.path,
            said=said,
            token=self._sessions.token(session),
            operator=True,
            open_here=not self._sessions.wants_login,
            **values,
        )
        return pages.page(html)

    async def _form(self, request: Request, session: Session) -> Form | None:
        """What was sent with a button; None for a page that is only read.

        Raises:
            Forbidden: it was not sent from one of our pages.
        """
        if request.method != "POST":
            return None
        body = await read_body(request, MAX_FORM)
        form = {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        self._sessions.check(request, session, form.get("token", ""))
        return form


def _to_login(request: Request) -> Response:
    to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    login = "/login" if to == "/" else f"/login?to={quote(to)}"
    if "hx-request" in request.headers or request.url.path == "/live":
        return Response(status_code=401, headers={"HX-Redirect": login})
    return RedirectResponse(login, 303)


def _address(request: Request, settings: Settings) -> str:
    """Where this reader reaches this deployment."""
    host = request.headers.get("host", "")
    if settings.base_url or not re.fullmatch(r"[\w.:\[\]-]{1,255}", host, re.ASCII):
        return settings.public_url
    behind_tls = settings.deployed or request.headers.get("x-forwarded-proto") == "https"
    return f"{'https' if behind_tls else 'http'}://{host}"


def _id(text: str) -> str:
    if not re.fullmatch(r"\w{1,64}", text):
        raise NotFound("there is no such thing")
    return text


ROUTES: tuple[tuple[str, list[str], Handler], ...] = (
    ("/", ["GET", "POST"], Dashboard.front),
    ("/watches/{id}", ["GET", "POST"], Dashboard.watch),
    ("/search", ["GET"], Dashboard.search),
    ("/live", ["GET"], Dashboard.live),
    ("/login", ["GET", "POST"], Dashboard.login),
    ("/logout", ["POST"], Dashboard.logout),
)


def routes(context: Context) -> list[Route]:
    """The dashboard's routes, and those of what its pages are made of."""
    dashboard = Dashboard(context)

    def endpoint(handler: Handler, *, open_: bool) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await dashboard.handle(handler, request, open_=open_)

        return handle

    return [
        *(Route(path, endpoint(handler, open_=path == "/login"), methods=methods) for path, methods, handler in ROUTES),
        Route("/static/{version}/{name:path}", pages.static),
    ]
