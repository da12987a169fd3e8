"""Who calls relay, and whom relay asks: the pages of the apps and of the providers."""

from __future__ import annotations

from functools import partial

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.errors import Invalid
from relay.security import app_changes, app_keys
from relay.store import apps, past, reports
from relay.store.past import ProviderPast
from relay.web.dashboard.buttons import Form
from relay.web.dashboard.frame import Frame
from relay.web.dashboard.front_page import FIGURES_EVERY
from relay.web.dashboard.sessions import Session
from relay.web.dashboard.shared_read import SharedRead
from relay.web.dashboard.upstream_health import health
from relay.web.dashboard.window import WINDOWS, Window, name_of_window

log = structlog.stdlib.get_logger(__name__)

QUESTIONS = {
    "key": ("Give '{}' a new API key?", "The old key stops working within seconds.", "Rotate the key"),
    "disable": (
        "Disable '{}'?",
        "Its API key stops working, and what it has registered is neither polled nor delivered any more. "
        "No button undoes this.",
        "Disable",
    ),
}
"""What is asked before a button does something that cannot be undone: title, text, the button."""


class Fleet:
    """The pages `/apps` and `/providers`.

    Args:
        frame: of the pages.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._context = frame.context
        self._pasts = {name: SharedRead(partial(self._past, window), 0.0) for name, window in WINDOWS.items()}

    async def apps(self, request: Request, session: Session) -> Response:
        """Show the apps, `GET /apps`; rotate a key or a secret, or disable one: `POST`."""
        form = await self._frame.form(request, session)
        sessions, now = self._frame.sessions, self._context.clock()
        if form is not None:
            if (question := QUESTIONS.get(form.get("do", ""))) and "sure" not in form:
                return self._ask(request, session, form, question)
            made = await self._press(form)
            response: Response = RedirectResponse("/apps", 303)
            sessions.hand_on(response, session, now, *made)
            return response
        rows = await self._context.db.read(apps.with_usage)
        notice, fresh = sessions.handed_on(request, session, now) or (None, "")
        content = {"rows": rows, "fresh": fresh, "alerts": apps.ALERTS_APP, "declared": self._declared}
        page = self._frame.page(request, session, "apps.html", notice, **content)
        if notice is not None:
            sessions.forget(page)
        return page

    async def providers(self, request: Request, session: Session) -> Response:
        """Show what can be watched here, and how well it does: `GET /providers`, `?window=` for another time."""
        name = name_of_window(request.query_params.get("window"))
        counts = await self._context.db.read(reports.counts)
        pasts = await self._pasts[name].get(FIGURES_EVERY)
        counted = sum(one.completed + one.failed + one.others for one in pasts.values())
        content = {
            "health": await health(self._context.upstreams, counts, self._context.actions.learned),
            "pasts": pasts,
            "since": min(one.since for one in pasts.values()) if counted >= past.NEWEST else None,
            "newest": past.NEWEST,
            "window": name,
            "windows": WINDOWS,
            "retention": round(self._context.settings.retention * 1000),
            "now": self._context.clock(),
        }
        return self._frame.page(request, session, "providers.html", None, **content)

    async def _past(self, window: Window) -> dict[str, ProviderPast]:
        return await self._context.db.read(past.of_providers, window.begin(self._context.clock()))

    @property
    def _declared(self) -> bool:
        """Return whether the environment declares the app `default`."""
        settings = self._context.settings
        return settings.api_key is not None and settings.signing_secret is not None

    def _ask(self, request: Request, session: Session, form: Form, question: tuple[str, str, str]) -> Response:
        title, text, label = question
        name = form.get("app", "")[:100]
        fields = {"do": form["do"], "app": name, "sure": "1"}
        content = {"title": title.format(name), "text": text, "label": label, "fields": fields, "back": "No, go back"}
        return self._frame.page(request, session, "ask.html", None, **content)

    async def _press(self, form: Form) -> tuple[str, str]:
        """Do what a button says. Return what came of it, and the new key or secret, which is shown this once."""
        name = form.get("app", "").replace("\0", "")
        db, now = self._context.db, self._context.clock()
        match form.get("do"):
            case "key":
                _, key = await db.run(app_changes.rotate_key, name, declared=self._declared)
                log.info("API key rotated by the operator", app=name)
                return f"The new API key of '{name}'", key
            case "secret":
                given = (name, self._context.vault, now, app_keys.OVERLAP)
                _, secrets = await db.run(app_changes.rotate_secret, *given, declared=self._declared)
                log.info("signing secret rotated by the operator", app=name)
                return f"The new signing secret of '{name}'; the old one still signs for 24 h", secrets[0]["secret"]
            case "disable":
                await db.run(app_changes.disable, name, now, declared=self._declared)
                log.info("app disabled by the operator", app=name)
                return f"'{name}' cannot call relay any more. Nothing of it is polled or delivered.", ""
        raise Invalid("there is no such button")
