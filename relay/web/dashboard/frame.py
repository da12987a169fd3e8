"""What all pages have in common: who may see them, their forms, how they go out, and that an error is a page too."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.errors import NotFound, RelayError
from relay.web.bodies import read_body
from relay.web.context import Context
from relay.web.dashboard import rendering
from relay.web.dashboard.buttons import Form
from relay.web.dashboard.sessions import Generation, Session, Sessions
from relay.web.errors import on_http_exception, on_relay_error
from relay.web.request_id import request_id_of

MAX_FORM = 16 * 1024
"""Bytes of a form."""

PageHandler = Callable[[Request, Session], Awaitable[Response]]

OURS = re.compile(r"/((watches|deliveries)(/\w+)?|try|apps|providers|search)?(\?[^\s\\]*)?")
"""Where a login may lead: to a page of the dashboard."""


class Frame:
    """What the pages of one deployment have in common.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sessions = Sessions(context.settings, context.vault)
        self.generation = Generation(context.db)

    async def handle(self, handler: PageHandler, request: Request, *, public: bool) -> Response:
        """Call a handler for a visitor who may see its page; lead others to the login. An error is a page too.

        Args:
            public: the page is for visitors who have not logged in.
        """
        now = self.context.clock()
        returning = self.sessions.read(request, now)
        session = returning or self.sessions.new(now, known=False)
        try:
            if returning is not None and await self.generation.ended(returning):
                returning, session = None, self.sessions.new(now, known=False)
            if not self.sessions.may_see(request, session) and not public:
                return _to_login(request)
            response = await handler(request, session)
        except RelayError as error:
            if request.url.path == "/live":
                return await on_relay_error(request, error)
            response = error_page(request, error)
        if returning is None and "set-cookie" not in response.headers:
            self.sessions.give(response, session)
        return response

    def page(self, request: Request, session: Session, template: str, notice: str | None, **content: Any) -> Response:
        """Return a page for the operator.

        Args:
            notice: what a button came to.
        """
        query = request.url.query
        html = rendering.render(
            template,
            path=request.url.path,
            here=f"{request.url.path}?{query}" if query else request.url.path,
            notice=notice,
            token=self.sessions.token(session),
            operator=True,
            open_here=not self.sessions.wants_login,
            **content,
        )
        return rendering.page(html)

    async def form(self, request: Request, session: Session) -> Form | None:
        """Return what was sent with a button; None for a page that is only read.

        Raises:
            Forbidden: it was not sent from one of our pages.
        """
        if request.method != "POST":
            return None
        body = await read_body(request, MAX_FORM)
        form = {name: fields[-1] for name, fields in parse_qs(body.decode("utf-8", "replace")).items()}
        self.sessions.check(request, session, form.get("token", ""))
        return form


def error_page(request: Request, error: RelayError) -> Response:
    """Return the page about an error."""
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    html = rendering.render("error.html", error=error, request_id=request_id_of(request), operator=False)
    return rendering.page(html, error.status, headers)


async def on_missing(request: Request, error: Exception) -> Response:
    """Answer about a path that there is not: with a page if a browser wants to see it."""
    wants_page = request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", "")
    of_programs = request.url.path.startswith(("/v1/", "/via/", "/slack/"))
    if isinstance(error, HTTPException) and error.status_code == 404 and wants_page and not of_programs:
        return error_page(request, NotFound(f"there is nothing at {request.url.path[:200]}"))
    return await on_http_exception(request, error)


def _to_login(request: Request) -> Response:
    to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    login = "/login" if to == "/" else f"/login?to={quote(to)}"
    if "hx-request" in request.headers or request.url.path == "/live":
        return Response(status_code=401, headers={"HX-Redirect": login})
    return RedirectResponse(login, 303)
