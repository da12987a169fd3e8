"""The store against a small model: random registrations, claims, saves, late saves and replays, on both databases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from relay.errors import Conflict, NotFound
from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.ids import new_id
from relay.store import Database, deliveries, invariants, migrate, outbox, polling, processes, registrations, watches
from relay.store.deliveries import Selection
from relay.store.registrations import NewTarget, Registered, Registration
from relay.store.schema import apps
from relay.store.schema import deliveries as delivery_rows
from relay.store.schema import targets as target_rows
from relay.store.schema import watches as watch_rows
from tests.fuzz.examples import fuzz
from tests.simulation.mutants import MUTANTS, restore
from tests.support import rows

LEASE = 45_000
MOST = 1000
ENDS = ("task.completed", "task.failed", "task.expired", "task.lost")


@dataclass
class Target:
    """What the model knows of a target, and of the delivery of the end to it: `state` is None before the end."""

    ended: bool = False
    state: str | None = None
    due: int | None = None
    lease: str | None = None
    attempts: int = 0


@dataclass
class Watch:
    """What the model knows of a watch."""

    app: str
    task: str
    due: int | None
    state: str = "watching"
    lease: str | None = None
    polls: int = 0
    targets: dict[str, Target] = field(default_factory=dict)


class Store(RuleBasedStateMachine):
    """Does the same to the store and to the model, and compares them."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db
        for table in (watch_rows, apps):
            db.run_here(lambda tx, table=table: tx.execute(sa.delete(table)))
        self._apps = [rows.app(db, name) for name in ("one", "two")]
        self._now = rows.NOW
        self._claimed = 0
        self._watches: dict[str, Watch] = {}
        self._polls: list[polling.PollClaim] = []
        self._sends: list[outbox.DeliveryClaim] = []

    # Time, and claims

    @rule(seconds=st.sampled_from([0, 1, 5, 30, 50]))
    def time_passes(self, seconds: int) -> None:
        self._now += seconds * 1000

    def _lease(self, process: str) -> str:
        self._claimed += 1
        return f"{process}.{self._claimed}"

    @rule(process=st.sampled_from(["p", "q"]))
    def claim_watches(self, process: str) -> None:
        lease = self._lease(process)
        claims = self._db.run_here(rows.claim_of, polling, self._now, self._now + LEASE, lease, MOST)
        due = {key for key, watch in self._watches.items() if watch.due is not None and watch.due <= self._now}
        assert {claim.id for claim in claims} == due
        for key in due:
            watch = self._watches[key]
            watch.due, watch.lease = self._now + LEASE, f"{lease}.{watch.due}"
        self._polls += claims

    @rule(process=st.sampled_from(["p", "q"]))
    def claim_deliveries(self, process: str) -> None:
        lease = self._lease(process)
        claims = self._db.run_here(rows.claim_of, outbox, self._now, self._now + LEASE, lease, MOST)
        due = {key: t for key, t in self._targets() if t.due is not None and t.due <= self._now}
        assert {(claim.watch_id, claim.place) for claim in claims} == set(due)
        for target in due.values():
            target.due, target.lease = self._now + LEASE, f"{lease}.{target.due}"
        self._sends += claims

    def _targets(self) -> Iterable[tuple[tuple[str, str], Target]]:
        for watch_id, watch in self._watches.items():
            for place, target in watch.targets.items():
                yield (watch_id, place), target

    @rule(process=st.sampled_from(["p", "q"]))
    def bury(self, process: str) -> None:
        # As one that gives back what it has: `tests/faults/test_deaths.py` is about the other ones.
        self._db.run_here(processes.bury, process, self._now, died=False)
        for held in [*self._watches.values(), *(target for _, target in self._targets())]:
            if (held.lease or "").startswith(f"{process}."):
                held.due, held.lease = self._now, None

    # What apps ask for

    @rule(
        app=st.integers(0, 1),
        task=st.sampled_from("ab"),
        places=st.sets(st.sampled_from(["x", "y", "z"]), min_size=1),
    )
    def register(self, app: int, task: str, places: set[str]) -> None:
        app_id = self._apps[app]
        new = tuple(
            NewTarget(new_id("tgt"), "webhook", b"sealed", f"{app}{place}", "host", ENDS, place.encode())
            for place in sorted(places)
        )
        wanted = Registration(app_id, "p", task, new, "{}", None, self._now + 2000, self._now + 10**9)
        (got,) = self._db.run_here(registrations.register, [wanted], self._now)
        assert isinstance(got, Registered)
        known = [
            key for key, w in self._watches.items() if (w.app, w.task) == (app_id, task) and w.state != "cancelled"
        ]
        assert got.created == (not known)
        if got.created:
            self._watches[got.watch.row.id] = Watch(app_id, task, self._now + 2000)
        assert [got.watch.row.id] == (known or [got.watch.row.id])
        watch = self._watches[got.watch.row.id]
        for target in new:
            self._add(watch, target.place)

    def _add(self, watch: Watch, place: str) -> None:
        if place not in watch.targets:
            watch.targets[place] = Target()
            if watch.state != "watching":
                self._open(watch.targets[place])
        elif watch.targets[place].state == "dead":
            self._open(watch.targets[place])

    def _open(self, target: Target) -> None:
        target.ended, target.state, target.due, target.lease = False, "pending", self._now, None

    @precondition(lambda self: self._watches)
    @rule(data=st.data(), own=st.booleans())
    def cancel(self, data: Any, own: bool) -> None:
        watch_id, watch = data.draw(st.sampled_from(sorted(self._watches.items(), key=lambda item: item[0])))
        app_id = watch.app if own else next(app for app in self._apps if app != watch.app)
        stopped = None
        with contextlib.suppress(NotFound):
            stopped = self._db.run_here(watches.cancel, app_id, watch_id, self._now)
        assert stopped == ((watch.state == "watching") if own else None)
        if stopped:
            watch.state, watch.due, watch.lease = "cancelled", None, None

    @precondition(lambda self: self._watches)
    @rule(data=st.data())
    def erase(self, data: Any) -> None:
        watch_id = data.draw(st.sampled_from(sorted(self._watches)))
        self._db.run_here(watches.erase, self._watches.pop(watch_id).app, watch_id, self._now)

    @rule(data=st.data())
    def send_again(self, data: Any) -> None:
        told = [(key, target) for key, target in self._targets() if target.state is not None]
        if not told:
            return
        (watch_id, place), target = data.draw(st.sampled_from(told))
        busy = target.lease is not None and (target.due or 0) > self._now
        refused = False
        try:
            of = self._id_of(watch_id, place)
            self._db.run_here(deliveries.retry, self._watches[watch_id].app, of, self._now)
        except Conflict:
            refused = True
        assert refused == busy
        if not refused:
            self._open(target)

    def _id_of(self, watch_id: str, place: str) -> str:
        c = delivery_rows.c
        query = sa.select(c.id).where(c.watch_id == watch_id, c.place == place)
        return str(self._db.run_here(lambda tx: tx.execute(query).scalar_one()))

    @rule(app=st.integers(0, 1), state=st.sampled_from(["dead", "delivered", "pending"]))
    def send_many_again(self, app: int, state: str) -> None:
        chosen = [
            target
            for (watch_id, _), target in self._targets()
            if self._watches[watch_id].app == self._apps[app] and target.state == state and target.lease is None
        ]
        sent = self._db.run_here(deliveries.retry_many, self._apps[app], self._now, Selection(DeliveryState(state)))
        assert len(sent) == len(chosen)
        for target in chosen:
            self._open(target)

    # What processes save, in time or late

    @precondition(lambda self: self._polls)
    @rule(data=st.data(), ends=st.booleans(), twice=st.booleans())
    def save_poll(self, data: Any, ends: bool, twice: bool) -> None:
        claim = data.draw(st.sampled_from(self._polls))
        self._polls.remove(claim)
        later = claim.watch._replace(polls=claim.watch.polls + 1)
        polled = rows.ended(claim, self._now) if ends else polling.Polled(claim, later, self._now, self._now + 5000)
        for _ in range(1 + twice):  # an outage hides whether it was saved
            self._db.run_here(polling.save, [polled])
        watch = self._watches.get(claim.id)
        if watch is None or watch.lease != claim.lease:
            return
        watch.lease, watch.polls = None, claim.watch.polls + 1
        watch.due = None if ends else self._now + 5000
        if ends:
            watch.state = "completed"
            for target in watch.targets.values():
                self._open(target)

    @precondition(lambda self: self._sends)
    @rule(data=st.data(), outcome=st.sampled_from(["delivered", "retry", "dead", "gone", "later"]), twice=st.booleans())
    def record(self, data: Any, outcome: str, twice: bool) -> None:
        claim = data.draw(st.sampled_from(self._sends))
        self._sends.remove(claim)
        for _ in range(1 + twice):
            self._db.run_here(outbox.record, [self._tried(claim, outcome)])
        target = self._watches[claim.watch_id].targets[claim.place] if claim.watch_id in self._watches else None
        if target is None or target.lease != claim.lease:
            return
        target.lease = None
        target.attempts = claim.attempts + (outcome != "later")
        target.state = {"delivered": "delivered", "dead": "dead", "gone": "dead"}.get(outcome, "pending")
        target.due = self._now + 5000 if target.state == "pending" else None
        target.ended = target.ended or outcome == "gone"

    def _tried(self, claim: outbox.DeliveryClaim, outcome: str) -> outbox.Tried:
        verdict = {"delivered": Verdict.DELIVERED, "retry": Verdict.RETRY}.get(outcome, Verdict.GIVE_UP)
        made = Attempt(claim.attempts + 1, self._now, 1, Outcome(verdict, status=200, ends_target=outcome == "gone"))
        attempt = None if outcome == "later" else made
        if outcome in ("retry", "later"):
            return outbox.Tried(claim, attempt, claim.counted, DeliveryState.PENDING, self._now + 5000)
        state = DeliveryState.DELIVERED if outcome == "delivered" else DeliveryState.DEAD
        return outbox.Tried(claim, attempt, claim.counted + 1, state, None, self._now, "gone")

    # The comparison

    @invariant()
    def store_and_model_agree(self) -> None:
        w, t, d = watch_rows.c, target_rows.c, delivery_rows.c
        stored = self._rows(sa.select(w.id, w.state, w.next_poll_at, w.lease, w.polls))
        assert stored == {(k, m.state, m.due, m.lease, m.polls) for k, m in self._watches.items()}
        joined = sa.join(target_rows, delivery_rows, d.target_id == t.id, isouter=True)
        attempts = sa.func.coalesce(d.attempts, 0)
        query = sa.select(t.watch_id, t.place, t.ended_at.is_not(None), d.state, d.next_attempt_at, d.lease, attempts)
        assert self._rows(query.select_from(joined)) == {
            (*key, m.ended, m.state, m.due, m.lease, m.attempts) for key, m in self._targets()
        }
        assert self._db.run_here(invariants.find_violations) == []

    def _rows(self, query: sa.Select[Any]) -> set[tuple[Any, ...]]:
        return self._db.run_here(lambda tx: {tuple(row) for row in tx.execute(query)})


@pytest.mark.timeout(900)
def test_the_store_does_what_a_small_model_does(db: Database) -> None:
    run_state_machine_as_test(lambda: Store(db), settings=fuzz(15, stateful_step_count=30))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", ["late_polls", "late_readings", "late_ends", "late_records", "stopped_but_claimed"])
def test_the_model_notices_a_guard_that_is_missing(tmp_path: Path, mutant: str) -> None:
    db = Database(f"sqlite:///{tmp_path / 'relay.db'}")
    db.run_here(migrate.upgrade)
    MUTANTS[mutant]()
    try:
        with pytest.raises(Exception):  # noqa: B017, PT011 - the model's, or the database's
            run_state_machine_as_test(
                lambda: Store(db), settings=fuzz(100, stateful_step_count=30, phases=[Phase.generate])
            )
    finally:
        restore()
        db.close()
