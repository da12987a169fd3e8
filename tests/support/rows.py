"""Rows made the short way, for tests of the store."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import sqlalchemy as sa

from relay.model.event import TERMINAL_EVENTS, Event
from relay.model.ids import new_id
from relay.model.reading import Kind, Reading, stored_result
from relay.model.times import Millis
from relay.model.watch import Caution, State, transition
from relay.store import Database, apps, outbox, polling, registrations
from relay.store.schema import deliveries
from relay.worker.claim_loop import Claim, Claims

RowT = TypeVar("RowT", bound=Claim)

NOW: Millis = 1_800_000_000_000
LINK = stored_result({"url": "https://cdn.example/v.mp4"})


def app(db: Database, name: str = "shop") -> str:
    """A new app's id."""
    app_id = new_id("app")
    db.run_here(apps.create, app_id, name, name.encode(), b"sealed", NOW)
    return app_id


def target(
    place: str = "place", events: tuple[str, ...] = ("task.completed", "task.failed")
) -> registrations.NewTarget:
    """A target, as a registration carries it."""
    target_id = new_id("tgt")
    return registrations.NewTarget(target_id, "webhook", b"sealed", place, "app.example", events, target_id.encode())


def living_target(place: str = "channel") -> registrations.NewTarget:
    """A target that is notified by a message that lives with the task."""
    return replace(target(place), living=True)


def watch(db: Database, app_id: str, task_id: str, *targets: registrations.NewTarget, due: Millis = NOW) -> str:
    """A registered watch's id; it is due `due`."""
    wanted = registrations.Registration(app_id, "p", task_id, targets or (target(),), "{}", None, due, NOW + 86_400_000)
    (outcome,) = db.run_here(registrations.register, [wanted], NOW)
    assert isinstance(outcome, registrations.Registered)
    return str(outcome.watch.row.id)


def claim(db: Database, now: Millis = NOW, lease: str = "me.1", most: int = 100) -> list[polling.PollClaim]:
    """Claims due watches for a minute."""
    return db.run_here(claim_of, polling, now, now + 60_000, lease, most)


def claim_of(tx: sa.Connection, rows: Claims[RowT], now: Millis, until: Millis, lease: str, most: int) -> list[RowT]:
    """Claims up to `most` due rows, whichever apps they are of."""
    shares: dict[str, int] = {}
    for app_id, count in rows.due(tx, now, most).items():
        shares[app_id] = min(count, most - sum(shares.values()))
    return rows.claim(tx, now, until, lease, shares)


def ended(one: polling.PollClaim, now: Millis = NOW, kind: Kind = Kind.COMPLETED) -> polling.Polled:
    """What a poller saves when the task of a claim has completed."""
    after = transition(one.watch, Reading(kind, kind.value, result=LINK), now, Caution())
    assert after.state is not State.WATCHING
    event = Event(TERMINAL_EVENTS[after.state], outbox.END, now, b"{}")
    return polling.Polled(one, after, now, None, answer=b"{}", answer_hash=1, event=event)


def states(db: Database) -> list[str]:
    """The state of every delivery, in the order of their making."""
    query = sa.select(deliveries.c.state).order_by(deliveries.c.id)
    return list(db.run_here(lambda tx: list(tx.execute(query).scalars())))
