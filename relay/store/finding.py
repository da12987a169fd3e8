"""Finds watches and deliveries of all apps by what the operator filters for, page by page.

What an index orders is found exactly. For anything else, only so many rows are looked at, and the answer says so: a
page must not read a million rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from ulid import ULID

from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import apps
from relay.store.outbox import SINGLE_ATTEMPT
from relay.store.schema import AnyRow, deliveries, targets, watches

LOOKED_AT = 20_000
"""Rows that are looked at for what no index knows."""

MOST_PARTS = 60
"""Parts of an index that are read for one page: of each app, the rows of each state have their own order."""

DEEP_PARTS = 10
"""The same where up to `LOOKED_AT` rows of each part are read."""

CLOCKS: Millis = 60_000
"""How far the time in an id may be from that of its row."""

WHOLE_ID = re.compile(r"(wch|dlv|evt)_[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted. A field that is None allows all.

    Attributes:
        app_id: of the app that registered the task.
        host: of a target; with a port, if only that one is meant.
        since, until: when the watch was registered, or the delivery made.
        text: a part of the task's id or its metadata, in any case; or a whole id of relay's.
        place, reason: of a delivery, as they are stored. An empty reason stands for none.
        oldest: whether the oldest come first.
    """

    state: str | None = None
    provider: str | None = None
    app_id: str | None = None
    host: str | None = None
    since: Millis | None = None
    until: Millis | None = None
    text: str | None = None
    place: str | None = None
    reason: str | None = None
    oldest: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Ids in their order.

    Attributes:
        after: the id after which the next page begins; None if this is the last one.
        looked_at: how many rows were looked at, if the search stopped there; more may follow after `after`.
    """

    ids: list[str]
    after: str | None
    looked_at: int | None = None


def find_watches(tx: sa.Connection, wanted: Filter, after: str | None, most: int) -> Page:
    """Return the ids of watches."""
    return _find(tx, _query(tx, watches, wanted, _of_watches(wanted, after), most), most)


def find_deliveries(tx: sa.Connection, wanted: Filter, after: str | None, most: int) -> Page:
    """Return the ids of deliveries."""
    return _find(tx, _query(tx, deliveries, wanted, _of_deliveries(wanted, after), most), most)


@dataclass(frozen=True, slots=True)
class PlaceGroup:
    """Deliveries of one app to one place that have one reason."""

    app_id: str
    host: str
    place: str
    reason: str | None
    count: int
    target_id: str


def find_to_send(tx: sa.Connection, wanted: Filter, most: int) -> Page:
    """Return the ids of deliveries that can be sent again, the oldest `most` of them."""
    page = find_deliveries(tx, replace(wanted, oldest=True), None, most)
    c = deliveries.c
    ids: list[str] = []
    for some in _slices(page.ids):
        can = sa.select(c.id).where(c.id.in_(some), c.event_type.not_in(SINGLE_ATTEMPT))
        ids += tx.execute(can).scalars()
    return replace(page, ids=ids)


def groups(tx: sa.Connection, ids: Sequence[str]) -> list[PlaceGroup]:
    """Return deliveries grouped by place and reason, the largest group first."""
    c = deliveries.c
    key = (c.app_id, c.host, c.place, c.reason)
    counted: dict[tuple[str, str, str, str | None], tuple[int, str]] = {}
    for some in _slices(ids):
        query = sa.select(*key, sa.func.count(), sa.func.max(c.target_id)).where(c.id.in_(some)).group_by(*key)
        for app_id, host, place, reason, count, target_id in tx.execute(query):
            before = counted.get((app_id, host, place, reason), (0, ""))[0]
            counted[app_id, host, place, reason] = (before + int(count), target_id)
    of_all = [PlaceGroup(*of, count, target_id) for of, (count, target_id) in counted.items()]
    return sorted(of_all, key=lambda group: -group.count)


def targets_of(tx: sa.Connection, target_ids: Sequence[str]) -> dict[str, AnyRow]:
    """Return targets by id, with their sealed addresses."""
    query = sa.select(targets).where(targets.c.id.in_(target_ids))
    return {row.id: row for row in tx.execute(query)}


@dataclass(frozen=True, slots=True)
class SentAgain:
    """What became of deliveries that were sent again: how many arrived, and how many are given up once more."""

    delivered: int
    dead: int


def sent_again(tx: sa.Connection, wanted: Filter, since: Millis) -> SentAgain:
    """Count what was sent again and settled since a time. Only what fits the filter, whatever its state is now."""
    c = deliveries.c
    # Those that were sent again have attempts that no longer count.
    again = (c.settled_at >= since, c.created_at < since, c.attempts > c.counted)
    of_filter = _of_delivery(replace(wanted, state=None, reason=None))
    counted = sa.select(c.id, c.state).where(*again, *of_filter).limit(LOOKED_AT).subquery().c
    query = sa.select(counted.state, sa.func.count()).group_by(counted.state)
    of_state: dict[str, int] = {state: int(count) for state, count in tx.execute(query)}
    return SentAgain(of_state.get(DeliveryState.DELIVERED, 0), of_state.get(DeliveryState.DEAD, 0))


def _slices(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + 1000] for start in range(0, len(ids), 1000)]


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a filter asks of rows.

    Attributes:
        ids: the range of ids, or the one id.
        states: each of them has its own order in the index, with what is `indexed`; [None] for all together.
        fits: what no index knows.
    """

    ids: list[sa.ColumnElement[bool]]
    states: Sequence[str | None]
    indexed: list[sa.ColumnElement[bool]]
    fits: list[sa.ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class _Query:
    """A search.

    Attributes:
        candidates: the ids that are looked at.
        fits: which of them are wanted, where no index has said so; none if all are.
    """

    table: sa.Table
    candidates: sa.Subquery
    fits: Sequence[sa.ColumnElement[bool]]
    oldest: bool

    def ordered(self, id_: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
        return id_.asc() if self.oldest else id_.desc()


def _find(tx: sa.Connection, query: _Query, most: int) -> Page:
    of_table, candidate = query.table.c.id, query.candidates.c.id
    ids = sa.select(candidate)
    if query.fits:
        ids = ids.join(query.table, of_table == candidate).where(*query.fits)
    found = list(tx.execute(ids.order_by(query.ordered(candidate)).limit(most + 1)).scalars())
    if len(found) > most:
        return Page(found[:most], found[most - 1])
    if query.fits:
        furthest = sa.func.max(candidate) if query.oldest else sa.func.min(candidate)
        count, last = tx.execute(sa.select(sa.func.count(), furthest).select_from(query.candidates)).one()
        if count >= LOOKED_AT:
            return Page(found, last, int(count))
    return Page(found, None)


def _of_watches(wanted: Filter, after: str | None) -> _Terms:
    c = watches.c
    fits = list[sa.ColumnElement[bool]]()
    if wanted.host is not None:
        at_host = sa.select(targets.c.id).where(targets.c.watch_id == c.id, _at(targets.c.host, wanted.host))
        fits.append(sa.exists(at_host))
    fits += _between(c.created_at, wanted)
    ids = _bounds(c.id, "wch", wanted, after, begun=True)
    if wanted.text is not None:
        if WHOLE_ID.fullmatch(wanted.text):
            ids.append(c.id == wanted.text)
        else:
            fits.append(sa.or_(*(_holds(column, wanted.text) for column in (c.task_id, c.id, c.metadata))))
    states = [wanted.state] if wanted.state else (list(State) if wanted.provider or wanted.app_id else [None])
    of_provider = [] if wanted.provider is None else [c.provider == wanted.provider]
    return _Terms(ids, states, of_provider, fits)


def _of_deliveries(wanted: Filter, after: str | None) -> _Terms:
    c = deliveries.c
    ids = _bounds(c.id, "dlv", wanted, after, begun=False)
    fits = _of_delivery(replace(wanted, app_id=None, state=None))
    if wanted.text is not None and WHOLE_ID.fullmatch(wanted.text):
        fits = _of_delivery(replace(wanted, app_id=None, state=None, text=None))
        ids.append({"wch": c.watch_id, "dlv": c.id, "evt": c.webhook_id}[wanted.text[:3]] == wanted.text)
    return _Terms(ids, [wanted.state], [], fits)


def _of_delivery(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """Return which deliveries fit a filter, but for what only an index can tell in time."""
    c, w = deliveries.c, watches.c
    fits = _between(c.created_at, wanted)
    for column, value in ((c.app_id, wanted.app_id), (c.state, wanted.state), (c.place, wanted.place)):
        if value is not None:
            fits.append(column == value)
    if wanted.reason is not None:
        fits.append(c.reason == wanted.reason if wanted.reason else c.reason.is_(None))
    if wanted.host is not None:
        fits.append(_at(c.host, wanted.host))
    if wanted.provider is not None:
        fits.append(sa.exists(sa.select(w.id).where(w.id == c.watch_id, w.provider == wanted.provider)))
    if wanted.text is not None:
        of_watch = sa.or_(_holds(w.task_id, wanted.text), _holds(w.metadata, wanted.text))
        its_own = sa.or_(_holds(c.id, wanted.text), _holds(c.webhook_id, wanted.text), _holds(c.watch_id, wanted.text))
        fits.append(sa.or_(its_own, sa.exists(sa.select(w.id).where(w.id == c.watch_id, of_watch))))
    return fits


def _query(tx: sa.Connection, table: sa.Table, wanted: Filter, terms: _Terms, most: int) -> _Query:
    """Return a search that reads the parts of an index, or the newest rows of all where there are too many parts."""
    c = table.c
    every = [wanted.app_id]
    if wanted.app_id is None and terms.states != [None]:
        every = [app.id for app in apps.every(tx)]
    parts = [(app_id, state) for app_id in every for state in terms.states]
    conditions = [*terms.ids, *terms.indexed]
    fits = terms.fits
    if len(parts) > (DEEP_PARTS if fits else MOST_PARTS):
        of_app = [] if wanted.app_id is None else [c.app_id == wanted.app_id]
        of_state = [] if wanted.state is None else [c.state == wanted.state]
        parts, conditions = [(None, None)], terms.ids
        fits = [*fits, *terms.indexed, *of_app, *of_state]
    depth = LOOKED_AT if fits else most + 1
    each = []
    for app_id, state in parts:
        part = sa.select(c.id).where(*conditions).order_by(c.id.asc() if wanted.oldest else c.id.desc()).limit(depth)
        if app_id is not None:
            part = part.where(c.app_id == app_id)
        if state is not None:
            part = part.where(c.state == state)
        each.append(sa.select(part.subquery()))
    together = (sa.union_all(*each) if len(each) > 1 else each[0]).subquery().c.id
    first = together.asc() if wanted.oldest else together.desc()
    candidates = sa.select(together).order_by(first).limit(depth).subquery("candidates")
    return _Query(table, candidates, fits, wanted.oldest)


def _bounds(
    id_: sa.Column[str], prefix: str, wanted: Filter, after: str | None, *, begun: bool
) -> list[sa.ColumnElement[bool]]:
    """Return the range of ids to look at: they sort by time.

    Args:
        begun: whether the time in an id is that of its row; else the row is younger.
    """
    bounds = []
    if after is not None:
        bounds.append(id_ > after if wanted.oldest else id_ < after)
    if wanted.since is not None and begun:
        bounds.append(id_ >= _first_id(prefix, wanted.since - CLOCKS))
    if wanted.until is not None:
        bounds.append(id_ < _first_id(prefix, wanted.until + CLOCKS))
    return bounds


def _first_id(prefix: str, at: Millis) -> str:
    """Return the id before all ids that are made from a time on."""
    milliseconds = min(max(0, at), (1 << 48) - 1)
    return f"{prefix}_{ULID.from_bytes(milliseconds.to_bytes(6, 'big') + bytes(10))}"


def _between(at: sa.Column[int], wanted: Filter) -> list[sa.ColumnElement[bool]]:
    bounds = []
    if wanted.since is not None:
        bounds.append(at >= wanted.since)
    if wanted.until is not None:
        bounds.append(at < wanted.until)
    return bounds


def _at(column: sa.Column[str], host: str) -> sa.ColumnElement[bool]:
    return sa.or_(column == host, column.startswith(f"{host}:", autoescape=True))


def _holds(column: sa.Column[str], text: str) -> sa.ColumnElement[bool]:
    return column.icontains(text, autoescape=True)


def delivery_rows(tx: sa.Connection, ids: Sequence[str]) -> list[AnyRow]:
    """Return deliveries with what a list shows of their watches and targets, in the order of `ids`."""
    c, w = deliveries.c, watches.c
    columns = (c.id, c.app_id, c.watch_id, c.target_id, c.state, c.reason, c.event_type, c.host, c.place, c.attempts)
    times = (c.next_attempt_at, c.lease, c.created_at, c.settled_at)
    query = sa.select(*columns, *times, w.task_id, w.provider, targets.c.type, targets.c.address)
    query = query.join(w.id.table, w.id == c.watch_id).join(targets, targets.c.id == c.target_id).where(c.id.in_(ids))
    rows = {row.id: row for row in tx.execute(query)}
    return [rows[id_] for id_ in ids if id_ in rows]
