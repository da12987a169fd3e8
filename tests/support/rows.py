"""Rows made the short way, for tests of the store."""

from __future__ import annotations

import sqlalchemy as sa

from relay.ids import new_id
from relay.model import TERMINAL_EVENTS, Caution, Event, Kind, Millis, Reading, Result, State, transition
from relay.store import Database, apps, outbox, polling, watches
from relay.store.schema import deliveries

NOW: Millis = 1_800_000_000_000
LINK = Result(
    url="https://cdn.example/v.mp4",
    thumbnail_url=None,
    preview_url=None,
    width=None,
    height=None,
    enhanced_prompt=None,
    expires_at=None,
)


def app(db: Database, name: str = "shop") -> str:
    """A new app's id."""
    app_id = new_id("app")
    db.run_here(apps.create, app_id, name, name.encode(), b"sealed", NOW)
    return app_id


def target(place: str = "place", events: tuple[str, ...] = ("task.completed", "task.failed")) -> watches.NewTarget:
    """A target, as a registration carries it."""
    target_id = new_id("tgt")
    return watches.NewTarget(target_id, "webhook", b"sealed", place, "app.example", events, target_id.encode())


def watch(db: Database, app_id: str, task_id: str, *targets: watches.NewTarget, due: Millis = NOW) -> str:
    """A registered watch's id; it is due `due`."""
    wanted = watches.Registration(app_id, "p", task_id, targets or (target(),), "{}", None, due, NOW + 86_400_000)
    (outcome,) = db.run_here(watches.register, [wanted], NOW)
    assert isinstance(outcome, watches.Registered)
    return str(outcome.watch.row.id)


def claim(db: Database, now: Millis = NOW, lease: str = "me.1", most: int = 100) -> list[polling.Claim]:
    """Claims due watches for a minute."""
    return db.run_here(polling.claim, now, now + 60_000, lease, most)


def ended(one: polling.Claim, now: Millis = NOW, kind: Kind = Kind.COMPLETED) -> polling.Polled:
    """What a poller saves when the task of a claim has completed."""
    after = transition(one.watch, Reading(kind, kind.value, result=LINK), now, Caution())
    assert after.state is not State.WATCHING
    event = Event(TERMINAL_EVENTS[after.state], outbox.END, now, b"{}")
    return polling.Polled(one, after, now, None, answer=b"{}", answer_hash=1, event=event)


def states(db: Database) -> list[str]:
    """The state of every delivery, in the order of their making."""
    query = sa.select(deliveries.c.state).order_by(deliveries.c.id)
    return list(db.run_here(lambda tx: list(tx.execute(query).scalars())))
