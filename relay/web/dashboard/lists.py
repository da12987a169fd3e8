"""The lists of all watches and all deliveries: filtered by their address, page by page, and sent again as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import sqlalchemy as sa
import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.errors import Invalid
from relay.model.delivery import DeliveryState
from relay.model.watch import State
from relay.slices import Slices
from relay.store import apps, finding, reports
from relay.store import deliveries as replay
from relay.store.finding import Filter
from relay.store.schema import AnyRow
from relay.store.watches import StoredTarget
from relay.web.dashboard import words
from relay.web.dashboard.asked import Asked, asked, cursor
from relay.web.dashboard.buttons import Buttons
from relay.web.dashboard.frame import Frame
from relay.web.dashboard.sessions import Session

log = structlog.stdlib.get_logger(__name__)

ROWS = 50
"""Rows of one page."""

MOST_AGAIN = 10_000
"""Deliveries that one confirmation sends again."""

AT_ONCE = 500
"""Deliveries that one transaction makes due, so that nobody waits long for the database."""

MOST_GROUPS = 30
"""Groups of deliveries that a page shows: the largest."""

STATES = [str(state) for state in DeliveryState if state is not DeliveryState.WAITING]
"""States of a delivery that exists."""


class Lists:
    """The pages `/watches` and `/deliveries`.

    Args:
        frame: of the pages.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._context = frame.context
        self._buttons = Buttons(frame.context)

    async def watches(self, request: Request, session: Session) -> Response:
        """List watches: `GET /watches`."""
        names = await self._apps()
        filter_ = asked(request, [str(state) for state in State], {name: id_ for id_, name in names.items()})
        after = cursor(request, "wch")
        page, rows = await self._context.db.read(_watches, filter_.wanted, after)
        cards = [
            SimpleNamespace(
                row=row,
                result=None if row.result is None else orjson.loads(row.result),
                error=None if row.error is None else orjson.loads(row.error),
            )
            for row in rows
        ]
        common = self._common(filter_, page, names, [str(state) for state in State])
        return self._frame.page(request, session, "watches.html", None, watches=cards, **common)

    async def deliveries(self, request: Request, session: Session) -> Response:
        """List deliveries: `GET /deliveries`, and `POST` for the button of a row."""
        names = await self._apps()
        filter_ = asked(request, STATES, {name: id_ for id_, name in names.items()})
        after = cursor(request, "dlv")
        form = await self._frame.form(request, session)
        notice = None if form is None else await self._buttons.retry(form.get("delivery", ""))
        page, rows = await self._context.db.read(_deliveries, filter_.wanted, after)
        shown = []
        slices = Slices()
        for row in rows:
            where = self._where(words.stored_target(row), row.reason)
            shown.append(SimpleNamespace(row=row, app=names.get(row.app_id, ""), **where))
            await slices.turn()
        common = self._common(filter_, page, names, STATES)
        return self._frame.page(request, session, "deliveries.html", notice, deliveries=shown, **common)

    async def again(self, request: Request, session: Session) -> Response:
        """Ask whether these deliveries are to be sent again, `GET /deliveries/again`; do it: `POST`.

        With `at`, the page shows how far they have come.
        """
        names = await self._apps()
        filter_ = asked(request, STATES, {name: id_ for id_, name in names.items()})
        form = await self._frame.form(request, session)
        if form is not None:
            begun = self._context.clock()
            count = await self._send(filter_.wanted)
            log.info("sent again by the operator", deliveries=count, filter=dict(filter_.fields))
            return RedirectResponse(filter_.address("/deliveries/again", at=begun, of=count), 303)
        if "at" in request.query_params:
            return await self._progress(request, session, filter_)
        page, groups, targets = await self._context.db.read(_to_send, filter_.wanted)
        shown = []
        for group in groups[:MOST_GROUPS]:
            narrowed = filter_.address("/deliveries", place=group.place, reason=group.reason or "")
            where = self._where(words.stored_target(targets[group.target_id]), group.reason)
            shown.append(SimpleNamespace(group=group, app=names.get(group.app_id, ""), address=narrowed, **where))
        content: dict[str, Any] = {"count": len(page.ids), "more": page.after is not None, "looked_at": page.looked_at}
        content |= {"groups": shown, "more_groups": max(0, len(groups) - MOST_GROUPS), "asked": filter_}
        return self._frame.page(request, session, "again.html", None, **content)

    async def _progress(self, request: Request, session: Session, filter_: Asked) -> Response:
        at, of = (_number(request, name) for name in ("at", "of"))
        came = await self._context.db.read(finding.sent_again, filter_.wanted, at)
        settled = min(of, came.delivered + came.dead)
        content = {"at": at, "of": of, "came": came, "left": of - settled, "asked": filter_}
        return self._frame.page(request, session, "again_progress.html", None, **content)

    async def _send(self, wanted: Filter) -> int:
        """Make the deliveries due that fit a filter, in slices; return how many there were."""
        page = await self._context.db.read(finding.find_to_send, wanted, MOST_AGAIN)
        count = 0
        for start in range(0, len(page.ids), AT_ONCE):
            some = page.ids[start : start + AT_ONCE]
            now = self._context.clock()
            watch_ids = await self._context.db.run(replay.retry_these, some, wanted.state, now)
            self._context.actions.sent_again(watch_ids)
            count += len(watch_ids)
        return count

    def _where(self, target: StoredTarget, reason: str | None) -> dict[str, str]:
        """Return where a delivery goes, and why it has not arrived."""
        path = words.path_of(words.title(self._context.targets, target))
        why = "" if reason is None else words.why(reason, path)
        return {"place": words.place(self._context.targets, target), "why": why}

    async def _apps(self) -> dict[str, str]:
        """Return the names of the apps by id."""
        return {app.id: app.name for app in await self._context.db.read(apps.every)}

    def _common(self, filter_: Asked, page: finding.Page, names: dict[str, str], states: list[str]) -> dict[str, Any]:
        """Return what both lists show beside their rows."""
        return {
            "asked": filter_,
            "page": page,
            "states": states,
            "apps": sorted(names.values()),
            "providers": sorted(self._context.upstreams),
            "now": self._context.clock(),
        }


def _watches(tx: sa.Connection, wanted: Filter, after: str | None) -> tuple[finding.Page, list[Any]]:
    page = finding.find_watches(tx, wanted, after, ROWS)
    return page, reports.cards(tx, page.ids)


def _deliveries(tx: sa.Connection, wanted: Filter, after: str | None) -> tuple[finding.Page, list[Any]]:
    page = finding.find_deliveries(tx, wanted, after, ROWS)
    return page, finding.delivery_rows(tx, page.ids)


def _to_send(tx: sa.Connection, wanted: Filter) -> tuple[finding.Page, list[finding.PlaceGroup], dict[str, AnyRow]]:
    page = finding.find_to_send(tx, wanted, MOST_AGAIN)
    groups = finding.groups(tx, page.ids)
    return page, groups, finding.targets_of(tx, [group.target_id for group in groups[:MOST_GROUPS]])


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Invalid.at(f"/{name}", "must be a whole number")
    return int(text)
