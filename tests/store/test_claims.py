"""The guards of the claim: whoever lost its lease changes nothing, an end is told once, with it or not at all."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from relay.errors import Conflict
from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.ids import derived_id
from relay.model.reading import Kind, Reading
from relay.model.watch import Caution, transition
from relay.store import (
    Database,
    invariants,
    last_answers,
    migrate,
    outbox,
    polling,
    processes,
    shared_schema,
    target_health,
    telling,
    watches,
)
from relay.store import (
    deliveries as replay,
)
from relay.store.batches import Batcher
from relay.store.change_feed import ChangeFeed
from relay.store.notifications import Wake
from relay.store.schema import ailments, answers, attempts, deliveries, events
from relay.store.schema import watches as watch_rows
from relay.telemetry.tracing import open_tracing
from relay.wiring import now
from relay.worker.claim_loop import Process
from relay.worker.heartbeat import Heartbeat, here
from tests.support import rows
from tests.support.rows import NOW


def count(db: Database, table: sa.Table) -> int:
    return int(db.run_here(lambda tx: tx.execute(sa.select(sa.func.count()).select_from(table)).scalar()) or 0)


def sound(db: Database) -> bool:
    return db.run_here(invariants.find_violations) == []


def claim_deliveries(db: Database, now: int = NOW, lease: str = "me.1") -> list[outbox.DeliveryClaim]:
    return db.run_here(rows.claim_of, outbox, now, now + 60_000, lease, 100)


def tried(one: outbox.DeliveryClaim, state: DeliveryState, at: int = NOW, *, exhausted: bool = False) -> outbox.Tried:
    outcome = Outcome(Verdict.DELIVERED if state is DeliveryState.DELIVERED else Verdict.RETRY)
    attempt = Attempt(one.attempts + 1, at, 5, outcome)
    due = at + 5000 if state is DeliveryState.PENDING else None
    return outbox.Tried(one, attempt, one.counted + 1, state, due, None if due else at, None, exhausted)


def test_a_claim_takes_what_is_due_and_nobody_takes_it_again(db: Database) -> None:
    app = rows.app(db)
    ids = [rows.watch(db, app, f"task-{n}", due=NOW + n) for n in range(5)]
    rows.watch(db, app, "later", due=NOW + 1000)
    first = rows.claim(db, NOW + 10, most=3)
    second = rows.claim(db, NOW + 10, lease="other.1")
    assert sorted(one.id for one in first) == sorted(ids[:3]), "the longest overdue first"
    assert sorted(one.id for one in second) == sorted(ids[3:])
    assert rows.claim(db, NOW + 10) == []
    assert len(rows.claim(db, NOW + 70_000)) == 6, "what was never saved comes due again when the lease runs out"


def test_claims_side_by_side_never_share_a_row(db: Database, database_url: str) -> None:
    """Four processes, as far as the database can tell."""
    app = rows.app(db)
    for n in range(200):
        rows.watch(db, app, f"task-{n}")
    start = threading.Barrier(4)

    def take(worker: int) -> list[str]:
        own = Database(database_url)
        start.wait()
        taken: list[str] = []
        for n in range(20):
            taken += [one.id for one in rows.claim(own, lease=f"w{worker}.{n}", most=7)]
        own.close()
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = [one for batch in threads.map(take, range(4)) for one in batch]
    assert len(taken) == len(set(taken)) == 200


def test_a_late_save_changes_nothing(db: Database) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (late,) = rows.claim(db, lease="late.1")
    (mine,) = rows.claim(db, NOW + 61_000, lease="mine.1")
    assert db.run_here(polling.save, [rows.ended(late)]).made == 0
    assert (count(db, events), count(db, deliveries), count(db, answers)) == (0, 0, 0)
    assert db.run_here(watches.read, app, watch_id).row.state == "watching"
    assert db.run_here(polling.save, [rows.ended(mine)]).made == 1
    assert db.run_here(polling.save, [rows.ended(mine)]).made == 0, "nor does the same save again"
    assert (count(db, events), count(db, deliveries)) == (1, 1)
    assert sound(db)


def goes_on(one: polling.PollClaim, now: int = NOW) -> polling.Polled:
    """What a poller saves when the task of a claim is pending."""
    after = transition(one.watch, Reading(Kind.PENDING), now, Caution())
    return polling.Polled(one, after, now, now + 1000, answer=b"{}", answer_hash=2)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_late_result_is_late_beside_one_of_the_same_watch_that_is_not(db: Database, newest_first: bool) -> None:
    """A process that was slow claims a watch once more, and both results share a save."""
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (late,) = rows.claim(db, lease="me.1")
    (mine,) = rows.claim(db, NOW + 61_000, lease="me.2")
    results = [rows.ended(late), goes_on(mine, NOW + 61_000)]
    assert db.run_here(polling.save, results[::-1] if newest_first else results).made == 0
    assert (count(db, events), count(db, deliveries), count(db, answers)) == (0, 0, 1)
    assert db.run_here(watches.read, app, watch_id).row.next_poll_at == NOW + 62_000
    assert sound(db)


@pytest.mark.parametrize("end_first", [False, True])
def test_of_two_results_of_one_claim_the_first_counts(db: Database, end_first: bool) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    results = [rows.ended(one), goes_on(one)]
    made = db.run_here(polling.save, results if end_first else results[::-1]).made
    assert (made, count(db, events), count(db, deliveries)) == ((1, 1, 1) if end_first else (0, 0, 0))
    assert db.run_here(watches.read, app, watch_id).row.state == ("completed" if end_first else "watching")
    assert count(db, answers) == 1
    assert sound(db)


def test_a_watch_that_was_stopped_while_it_was_asked_stays_stopped(db: Database) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    db.run_here(watches.cancel, app, watch_id, NOW)
    assert db.run_here(polling.save, [rows.ended(one)]).made == 0
    assert db.run_here(watches.read, app, watch_id).row.state == "cancelled"
    assert sound(db)


def test_an_answer_was_last_given_by_the_last_poll_that_brought_one_about_the_task(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    given = []
    for number, kind in enumerate((Kind.PENDING, Kind.PENDING, Kind.UNKNOWN_TASK, Kind.NOT_ANSWERED, Kind.PENDING)):
        at = NOW + number * 1000
        (one,) = rows.claim(db, at)
        after = transition(one.watch, Reading(kind), at, Caution())
        saved = polling.Polled(one, after, at, at + 1000, answer=None if number else b"{}", answer_hash=1)
        db.run_here(polling.save, [saved])
        known = db.run_here(last_answers.last_answer, app, "task", "p")
        assert known is not None
        given.append(known.at - NOW)
    assert given == [0, 1000, 0, 0, 4000]


def test_an_end_and_its_deliveries_are_one_transaction(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (one,) = rows.claim(db)

    def dies(*_args: object) -> None:
        raise RuntimeError("killed between the end and its deliveries")

    with monkeypatch.context() as patched:
        patched.setattr(telling, "_send_out", dies)
        with pytest.raises(RuntimeError):
            db.run_here(polling.save, [rows.ended(one)])
    assert db.run_here(watches.read, app, watch_id).row.state == "watching"
    assert count(db, events) == 0
    assert db.run_here(polling.save, [rows.ended(one)]).made == 1
    assert sound(db)


def test_the_database_itself_refuses_a_second_end(db: Database) -> None:
    """Were every other guard gone, the keys of `events` and of `deliveries` would still hold, each by itself."""
    app = rows.app(db)
    rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    end = rows.ended(one)
    db.run_here(polling.save, [end])
    assert end.event is not None
    with pytest.raises(sa.exc.IntegrityError):
        db.run_here(telling.tell, [(one.id, one.app_id, end.event)])
    for table, renamed in ((events, {}), (deliveries, {"id": "dlv_other"})):

        def again(tx: sa.Connection, table: sa.Table = table, renamed: dict[str, str] = renamed) -> None:
            row = tx.execute(sa.select(table)).mappings().one()
            tx.execute(sa.insert(table), {**row, **renamed})

        with pytest.raises(sa.exc.IntegrityError):
            db.run_here(again)
    assert (count(db, events), count(db, deliveries)) == (1, 1)


def test_of_two_who_read_and_then_write_the_second_sees_what_the_first_wrote(tmp_path: Path) -> None:
    """SQLite would let both read, and then refuse or forget one of them; PostgreSQL locks rows where it matters."""
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    two = [Database(url), Database(url)]
    try:
        two[0].run_here(migrate.upgrade)
        app = rows.app(two[0])
        rows.watch(two[0], app, "task")
        start = threading.Barrier(2)

        def add(tx: sa.Connection) -> None:
            (polls,) = tx.execute(sa.select(watch_rows.c.polls)).one()
            tx.execute(sa.update(watch_rows).values(polls=polls + 1))

        def work(db: Database) -> None:
            start.wait()
            for _ in range(100):
                db.run_here(add)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(work, two))
        assert two[0].run_here(lambda tx: tx.execute(sa.select(watch_rows.c.polls)).scalar()) == 200
    finally:
        for db in two:
            db.close()


def test_a_target_added_while_the_end_is_saved_is_told_too(db: Database) -> None:
    """Registration and end meet on the watch's row: whoever comes second sees what the first did."""
    app = rows.app(db)
    for n in range(30):
        rows.watch(db, app, f"task-{n}")
    claims = {one.task_id: one for one in rows.claim(db)}
    start = threading.Barrier(2)

    def end() -> None:
        start.wait()
        for n in range(30):
            db.run_here(polling.save, [rows.ended(claims[f"task-{n}"])])

    def add() -> None:
        start.wait()
        for n in range(30):
            rows.watch(db, app, f"task-{n}", rows.target())

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(end), threads.submit(add)]:
            done.result()
    assert count(db, deliveries) == 60
    assert sound(db)


def test_the_webhook_id_is_the_same_whoever_derives_it(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task", rows.target(), rows.target())
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    before = {d.id: d.webhook_id for d in claim_deliveries(db)}
    after = {d.id: d.webhook_id for d in claim_deliveries(db, NOW + 61_000)}
    assert before == after
    claims = db.run_here(lambda tx: tx.execute(sa.select(deliveries)).all())
    assert {row.webhook_id for row in claims} == {
        derived_id("evt", row.watch_id, row.target_id, "end") for row in claims
    }


def test_a_late_record_changes_nothing(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    (late,) = claim_deliveries(db, lease="late.1")
    (mine,) = claim_deliveries(db, NOW + 61_000, lease="mine.1")
    db.run_here(outbox.record, [tried(late, DeliveryState.DEAD)])
    assert (rows.states(db), count(db, attempts)) == (["pending"], 0)
    db.run_here(outbox.record, [tried(mine, DeliveryState.DELIVERED)])
    assert (rows.states(db), count(db, attempts)) == (["delivered"], 1)
    assert sound(db)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_late_record_is_late_beside_one_of_the_same_delivery_that_is_not(db: Database, newest_first: bool) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    (late,) = claim_deliveries(db, lease="me.1")
    (mine,) = claim_deliveries(db, NOW + 61_000, lease="me.2")
    put_off = outbox.Tried(mine, None, 0, DeliveryState.PENDING, NOW + 62_000)
    results = [tried(late, DeliveryState.DEAD), put_off]
    db.run_here(outbox.record, results[::-1] if newest_first else results)
    assert (rows.states(db), count(db, attempts)) == (["pending"], 0)
    assert sound(db)


@pytest.mark.parametrize("delivered_first", [False, True])
def test_of_two_records_of_one_claim_the_first_counts(db: Database, delivered_first: bool) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    (mine,) = claim_deliveries(db)
    results = [tried(mine, DeliveryState.DELIVERED), outbox.Tried(mine, None, 0, DeliveryState.PENDING, NOW + 1000)]
    db.run_here(outbox.record, results if delivered_first else results[::-1])
    expected = (["delivered"], 1) if delivered_first else (["pending"], 0)
    assert (rows.states(db), count(db, attempts)) == expected
    assert sound(db)


@pytest.mark.anyio
async def test_what_no_database_can_hold_fails_alone_of_those_that_share_its_commit(db: Database) -> None:
    app = rows.app(db)
    for n in range(3):
        rows.watch(db, app, f"task-{n}")
    db.run_here(polling.save, [rows.ended(one) for one in rows.claim(db)])
    good, bad, other = (tried(one, DeliveryState.DELIVERED) for one in claim_deliveries(db))
    assert bad.attempt is not None
    bad = replace(bad, attempt=replace(bad.attempt, latency_ms=2**70))
    sizes = []

    async def commit(together: Sequence[outbox.Tried]) -> Sequence[None]:
        sizes.append(len(together))
        await db.persist(outbox.record, together)
        return [None] * len(together)

    records = Batcher(commit, gather=0.0, most=200)
    answers = await asyncio.gather(*(records.put(one) for one in (good, bad, other)), return_exceptions=True)
    assert sizes == [3, 1, 1, 1]
    assert [answer is None for answer in answers] == [True, False, True]
    assert sorted(rows.states(db)) == ["delivered", "delivered", "pending"]


@pytest.mark.anyio
async def test_nobody_waits_for_a_commit_that_was_cancelled() -> None:
    began = asyncio.Event()
    commits: list[asyncio.Task[Any]] = []

    async def commit(together: Sequence[str]) -> Sequence[str]:
        commits.append(cast("asyncio.Task[Any]", asyncio.current_task()))
        began.set()
        await asyncio.Event().wait()
        return together

    batcher = Batcher(commit, gather=0.0, most=1)
    answers = [batcher.put("under way"), batcher.put("behind it")]
    await asyncio.wait_for(began.wait(), 60)
    commits[0].cancel()
    await asyncio.wait(answers, timeout=60)
    assert [answer.cancelled() for answer in answers] == [True, True]


def test_first_attempts_go_ahead_of_retries(db: Database) -> None:
    app = rows.app(db)
    for n in range(2):
        rows.watch(db, app, f"task-{n}", due=NOW + n)
    old, new = sorted(rows.claim(db, NOW + 10), key=lambda one: one.task_id)
    db.run_here(polling.save, [rows.ended(old)])
    (failed,) = claim_deliveries(db)
    db.run_here(outbox.record, [tried(failed, DeliveryState.PENDING)])
    db.run_here(polling.save, [rows.ended(new, NOW + 6000)])
    (first,) = db.run_here(rows.claim_of, outbox, NOW + 10_000, NOW + 60_000, "me.2", 1)
    assert first.attempts == 0


# The dead


def test_the_claims_of_a_dead_process_come_due_at_once(db: Database) -> None:
    app = rows.app(db)
    for n in range(3):
        rows.watch(db, app, f"task-{n}")
    taken = rows.claim(db, lease="dead.7", most=2)
    (other,) = rows.claim(db, lease="deadlier.1")
    db.run_here(processes.beat, processes.Member("dead", "host", 1), NOW)
    assert db.run_here(processes.bury, "dead", NOW + 1) == 2, "and of no other"
    assert sorted(one.id for one in rows.claim(db, NOW + 1)) == sorted(one.id for one in taken)
    assert db.run_here(polling.save, [rows.ended(taken[0])]).made == 0, "its late saves find another lease"
    assert db.run_here(polling.save, [rows.ended(other)]).made == 1
    assert db.run_here(processes.beat, processes.Member("me", "host", 2), NOW) == []


def test_beats_tell_who_is_silent(db: Database) -> None:
    db.run_here(processes.beat, processes.Member("a", "host-a", 1), NOW)
    (a,) = db.run_here(processes.beat, processes.Member("b", "host-b", 2), NOW + 5000)
    assert (a.name, a.host, a.pid) == ("a", "host-a", 1)
    assert a.silent == 5000 if db.embedded else 0 <= a.silent < 5000, "by the database's clock, where it has one"


@pytest.mark.anyio
async def test_a_pid_that_somebody_else_has_by_now_does_not_keep_a_process_alive(db: Database) -> None:
    for name, silent in (("busy", 30_000), ("dead", 600_000)):
        db.run_here(processes.beat, processes.Member(name, here(), os.getppid()), now())
        row = sa.update(shared_schema.processes).where(shared_schema.processes.c.name == name)
        db.run_here(
            lambda tx, row=row, ms=silent: tx.execute(row.values(seen_at=shared_schema.processes.c.seen_at - ms))
        )
    process = Process("me", now, db, Wake(lambda *_: None), ChangeFeed(db), open_tracing(None))
    await Heartbeat(process).tick()
    left = db.run_here(processes.beat, processes.Member("another", "host", 1), now())
    assert {one.name for one in left} == {"me", "busy"}


# Health


def exhaust(db: Database, app: str, number: int, at: int) -> None:
    """One more task whose delivery uses up its schedule at `at`."""
    rows.watch(db, app, f"task-{number}", rows.target("place"), due=at)
    (one,) = rows.claim(db, at)
    db.run_here(polling.save, [rows.ended(one, at)])
    (delivery,) = claim_deliveries(db, at)
    assert not delivery.held
    db.run_here(outbox.record, [tried(delivery, DeliveryState.DEAD, at, exhausted=True)])


def unwell(db: Database, app: str) -> int:
    """Makes the place unwell; returns the time."""
    step = target_health.AILING_BEFORE_UNWELL // 2
    for n in range(3):
        exhaust(db, app, n, NOW + n * step)
    return NOW + 2 * step


def held(db: Database, app: str, number: int, at: int) -> None:
    """One more task whose delivery is found to be for an unwell place."""
    rows.watch(db, app, f"task-{number}", rows.target("place"), due=at)
    (one,) = rows.claim(db, at)
    db.run_here(polling.save, [rows.ended(one, at)])
    (delivery,) = claim_deliveries(db, at)
    assert delivery.held
    db.run_here(outbox.record, [to_hold(delivery, at)])


def probing(db: Database, app: str) -> tuple[int, outbox.DeliveryClaim]:
    """Makes the place unwell and has a held delivery probe it; returns the time, and the probe."""
    at = unwell(db, app)
    held(db, app, 3, at)
    at += target_health.PROBE_EVERY
    db.run_here(target_health.probe, at)
    (probe,) = claim_deliveries(db, at)
    return at, probe


def to_hold(delivery: outbox.DeliveryClaim, at: int) -> outbox.Tried:
    """What a claim for an unwell place comes to."""
    return outbox.Tried(delivery, None, 0, DeliveryState.HELD, at)


def test_a_place_is_unwell_after_days_of_exhaustion_and_not_before(db: Database) -> None:
    app = rows.app(db)
    for n in range(5):
        exhaust(db, app, n, NOW + n)  # five in a row, but within milliseconds
    exhaust(db, app, 5, NOW + target_health.AILING_BEFORE_UNWELL)
    held(db, app, 6, NOW + target_health.AILING_BEFORE_UNWELL + 1)


def test_held_deliveries_are_probed_one_at_a_time_and_all_come_back_when_one_gets_through(db: Database) -> None:
    app = rows.app(db)
    at = unwell(db, app)
    for n in range(3, 6):
        held(db, app, n, at)
    assert db.run_here(target_health.probe, at) == 0, "not yet"
    at += target_health.PROBE_EVERY
    assert db.run_here(target_health.probe, at) == 1
    (probe,) = claim_deliveries(db, at)
    assert not probe.held
    db.run_here(outbox.record, [to_hold(probe, at)])  # it failed
    assert db.run_here(target_health.probe, at) == 0, "half open: one probe an hour"
    at += target_health.PROBE_EVERY
    assert db.run_here(target_health.probe, at) == 1
    (probe,) = claim_deliveries(db, at)
    db.run_here(outbox.record, [tried(probe, DeliveryState.DELIVERED, at)])
    back = claim_deliveries(db, at)
    assert len(back) == 2
    assert not any(one.held for one in back)
    assert sound(db)


def test_a_replay_counts_the_place_as_well_again(db: Database) -> None:
    app = rows.app(db)
    at = unwell(db, app)
    held(db, app, 3, at)
    assert len(db.run_here(replay.retry_many, app, at, replay.Selection())) == 3, "the dead ones"
    assert len(claim_deliveries(db, at)) == 4, "and the held one with them"


def test_what_is_found_for_an_unwell_place_that_heals_before_the_record_is_not_held(db: Database) -> None:
    """Nobody would bring it back: there is nothing left to probe, and nothing left to heal."""
    app = rows.app(db)
    at, probe = probing(db, app)
    rows.watch(db, app, "late", rows.target("place"), due=at)
    db.run_here(polling.save, [rows.ended(one, at) for one in rows.claim(db, at)])
    (late,) = claim_deliveries(db, at)
    assert late.held
    db.run_here(outbox.record, [tried(probe, DeliveryState.DELIVERED, at)])
    db.run_here(outbox.record, [to_hold(late, at)])
    assert [one.id for one in claim_deliveries(db, at)] == [late.id]
    assert sound(db)


def test_a_probe_that_fails_after_a_replay_has_healed_its_place_is_not_held(db: Database) -> None:
    app = rows.app(db)
    at, probe = probing(db, app)
    db.run_here(replay.retry_many, app, at, replay.Selection())
    dead = claim_deliveries(db, at)
    db.run_here(outbox.record, [tried(one, DeliveryState.DEAD, at, exhausted=True) for one in dead[:1]])  # it ails anew
    attempt = Attempt(1, at, 5, Outcome(Verdict.RETRY))
    db.run_here(outbox.record, [outbox.Tried(probe, attempt, 0, DeliveryState.HELD, at, None, "held: http_500")])
    (again,) = claim_deliveries(db, at)
    assert (again.id, again.attempts) == (probe.id, 1)
    assert sound(db)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_a_heal_that_meets_a_record_waits_for_it_and_brings_back_what_it_held(db: Database, database_url: str) -> None:
    app = rows.app(db)
    at = unwell(db, app)
    rows.watch(db, app, "late", rows.target("place"), due=at)
    db.run_here(polling.save, [rows.ended(one, at) for one in rows.claim(db, at)])
    (late,) = claim_deliveries(db, at)
    other = Database(database_url)
    with ThreadPoolExecutor(1) as aside, db.engine.begin() as recording:
        outbox.record(recording, [to_hold(late, at)])
        healed = aside.submit(other.run_here, target_health.heal, [late.place], at)
        until_waiting(recording, healed)
        recording.commit()
        healed.result(10)
    other.close()
    assert [one.id for one in claim_deliveries(db, at)] == [late.id]


def test_a_delivery_that_is_held_for_a_place_that_is_well_is_lost(db: Database) -> None:
    app = rows.app(db)
    at = unwell(db, app)
    held(db, app, 3, at)
    assert sound(db)
    in_hand = sa.select(deliveries.c.id).where(deliveries.c.state == DeliveryState.HELD)
    (held_id,) = db.run_here(lambda tx: list(tx.execute(in_hand).scalars()))
    db.run_here(lambda tx: tx.execute(sa.update(ailments).values(probe_at=None)))
    assert db.run_here(invariants.find_violations) == [invariants.Violation("held, but its place is well", (held_id,))]


def until_waiting(holder: sa.Connection, other: Future[Any]) -> None:
    """Returns once `other` waits for a lock that `holder` has."""
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    while not holder.execute(waiting).scalar():
        assert not other.done(), other.exception()
        holder.execute(sa.text("SELECT pg_stat_clear_snapshot()"))  # a transaction sees the first one otherwise


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
def test_a_replay_that_meets_a_claim_waits_for_it_and_is_refused(db: Database, database_url: str) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    db.run_here(polling.save, [rows.ended(one) for one in rows.claim(db)])
    other = Database(database_url)
    (delivery_id,) = db.run_here(lambda tx: list(tx.execute(sa.select(deliveries.c.id)).scalars()))
    with ThreadPoolExecutor(1) as aside, db.engine.begin() as claiming:
        (claim,) = outbox.claim(claiming, NOW, NOW + 60_000, "me.1", {app: 1})
        replayed = aside.submit(other.run_here, replay.retry, app, delivery_id, NOW)
        until_waiting(claiming, replayed)
        claiming.commit()
        with pytest.raises(Conflict):
            replayed.result(10)
    other.close()
    db.run_here(outbox.record, [tried(claim, DeliveryState.DELIVERED)])
    assert rows.states(db) == ["delivered"]


def test_as_many_can_be_told_late_reopened_and_replayed_as_there_are(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one statement may name: a batch of watches has up to 100,000 targets."""
    db.run_here(telling.tell_late, [f"tgt_{number}" for number in range(70_000)], NOW)
    for module in (telling, replay):
        monkeypatch.setattr(module, "BATCH", 3)
    app = rows.app(db)
    for number in range(10):
        rows.watch(db, app, f"task-{number}", rows.target(f"place-{number}"))
    db.run_here(polling.save, [rows.ended(one) for one in rows.claim(db)])
    late = [rows.target(f"late-{number}") for number in range(7)]
    rows.watch(db, app, "task-0", *late)
    assert rows.states(db) == ["pending"] * 17
    dead = [tried(one, DeliveryState.DEAD, exhausted=True) for one in claim_deliveries(db)]
    db.run_here(outbox.record, dead)
    assert rows.states(db) == ["dead"] * 17
    rows.watch(db, app, "task-0", *late)
    assert sorted(rows.states(db)) == ["dead"] * 10 + ["pending"] * 7
    assert len(db.run_here(replay.retry_many, app, NOW, replay.Selection())) == 10
    assert rows.states(db) == ["pending"] * 17
    pending = replay.Selection(DeliveryState.PENDING)
    assert len(db.run_here(replay.retry_many, app, NOW, pending)) == 17
    assert len(claim_deliveries(db)) == 17
    assert sound(db)


def test_a_poll_of_an_erased_watch_is_no_matter(db: Database) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (one,) = rows.claim(db)
    db.run_here(watches.erase, app, watch_id, NOW)
    assert db.run_here(polling.save, [rows.ended(one)]).made == 0
    assert count(db, watch_rows) == 0


def test_of_many_attempts_the_newest_are_kept_and_all_are_counted(db: Database) -> None:
    app = rows.app(db)
    for number in range(2):
        rows.watch(db, app, f"task-{number}")
    db.run_here(polling.save, [rows.ended(one) for one in rows.claim(db)])
    for number in range(25):
        claims = claim_deliveries(db, NOW + number * 10_000)
        db.run_here(outbox.record, [tried(one, DeliveryState.PENDING, NOW + number * 10_000) for one in claims])
    for delivery in db.run_here(replay.newest, app, 10):
        assert delivery.row.attempts == 25
        assert [attempt.number for attempt in delivery.attempts] == list(range(6, 26))


def test_the_watches_of_an_app_are_stopped_in_slices(db: Database) -> None:
    app, other = rows.app(db), rows.app(db, "other")
    ids = [rows.watch(db, app, f"task-{number}") for number in range(5)]
    rows.watch(db, other, "task")
    (late,) = rows.claim(db, most=1)
    assert [db.run_here(watches.cancel_some, app, NOW, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert [db.run_here(watches.read, app, one).row.state for one in ids] == ["cancelled"] * 5
    assert db.run_here(polling.save, [rows.ended(late)]).made == 0, "what was asked meanwhile changes nothing"
    assert [len(db.run_here(watches.history, one)) for one in ids] == [1] * 5
    assert [claim.app_id for claim in rows.claim(db)] == [other]
    assert sound(db)
