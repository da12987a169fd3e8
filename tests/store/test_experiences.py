"""What ended watches teach is kept in rows, and several processes lose nothing of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from relay.model.cadence import Cadence, first_poll
from relay.model.experience import ENOUGH, Lesson
from relay.model.watch import State
from relay.store import Database, experiences, polling, schema, watches
from relay.store.experiences import MAX_MODELS, Taught
from relay.store.learned import P95, Learned
from tests.support import rows
from tests.support.rows import NOW

CADENCE = Cadence()


def taught(app: str, model: str | None = None, seconds: float = 60.0) -> Taught:
    lesson = Lesson(seconds - 1, seconds, ended=True, polls=5, fixed=5.0)
    return Taught("wch_x", app, "p", model, NOW, lesson, progressed=False)


def counts(db: Database) -> dict[tuple[str, str], int]:
    """How many ends each row has learned, by app and model."""
    return {(key[0], key[2]): known.count for key, _, known in db.run_here(experiences.changed_since, 0)}


def test_processes_that_learn_at_once_lose_nothing(db: Database) -> None:
    app = rows.app(db)

    def learn(number: int) -> None:
        both = [taught(app, "a"), taught(app, "b")]
        db.run_here(experiences.learn, both if number % 2 else both[::-1], NOW + number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(learn, range(20)))
    assert counts(db) == {(app, "a"): 20, (app, "b"): 20}


def test_an_app_has_so_many_models_and_no_more(db: Database) -> None:
    app, other = rows.app(db), rows.app(db, "other")
    db.run_here(experiences.learn, [taught(app, f"m{n}") for n in range(MAX_MODELS + 10)] + [taught(other, "m0")], NOW)
    learned = counts(db)
    assert learned[app, ""] == 10
    assert len(learned) == MAX_MODELS + 2
    assert learned[other, "m0"] == 1


def test_the_transaction_of_the_end_learns_and_of_a_lost_lease_nothing(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    (claim,) = rows.claim(db)
    end = rows.ended(claim)._replace(lesson=taught(app).lesson, model="m")
    db.run_here(polling.save, [end._replace(claim=replace(claim, lease="another"))])
    assert counts(db) == {}
    db.run_here(polling.save, [end])
    db.run_here(polling.save, [end])
    assert counts(db) == {(app, "m"): 1}


def set_inline(tx: sa.Connection, watch_id: str) -> None:
    """Makes a watch one of an inline definition that has been asked about."""
    fields = {"inline": b"sealed", "upstream_status": "pending", "last_poll_at": NOW}
    tx.execute(sa.update(schema.watches).where(schema.watches.c.id == watch_id).values(fields))


def test_a_stopped_task_counts_as_longer_if_it_was_seen(db: Database) -> None:
    app = rows.app(db)
    unseen, seen = rows.watch(db, app, "unseen"), rows.watch(db, app, "seen")
    (claim,) = [claim for claim in rows.claim(db) if claim.id == seen]
    after = claim.watch._replace(upstream_status="pending", polls=1)
    db.run_here(polling.save, [polling.Polled(claim, after, NOW + 40_000, NOW + 50_000, changed=True)])
    inline = rows.watch(db, app, "inline")
    db.run_here(set_inline, inline)
    for watch_id in (unseen, seen, inline):
        assert db.run_here(watches.cancel, app, watch_id, NOW + 60_000)
    ((_, _, known),) = db.run_here(experiences.changed_since, 0)
    assert sum(known.durations.running.values()) == pytest.approx(1)
    assert known.count == 0
    assert after.state is State.WATCHING


@pytest.mark.anyio
async def test_an_app_uses_its_own_ends_as_soon_as_it_has_enough(db: Database) -> None:
    mine, one, other = (rows.app(db, name) for name in ("mine", "one", "other"))
    learned = Learned(db)
    db.run_here(experiences.learn, [taught(one, seconds=300)] * 100, NOW)
    await learned.refresh()
    assert learned.of(mine, "p", None, CADENCE).plan is None, "one other app alone teaches nobody"
    assert learned.outlook(mine, "p", CADENCE, P95, NOW, 0.5)[1] is None
    db.run_here(experiences.learn, [taught(other, seconds=100)] * 100, NOW)
    learned = Learned(db)
    await learned.refresh()
    assert learned.of(mine, "p", None, CADENCE).usual(0.95) == pytest.approx(300, rel=0.1)
    db.run_here(experiences.learn, [taught(mine, seconds=20)] * ENOUGH, NOW)
    learned = Learned(db)
    await learned.refresh()
    assert learned.of(mine, "p", None, CADENCE).usual(0.95) == pytest.approx(20, rel=0.1)
    assert learned.outlook(mine, "p", CADENCE, P95, NOW, 0.5)[1] == pytest.approx(NOW + 20_000, abs=2000)
    assert learned.of(mine, "p", None, replace(CADENCE, learn=False)).plan is None
    assert learned.outlook(mine, "p", CADENCE, None, NOW, None)[0] == first_poll(CADENCE, NOW, None), "shares queries"
    assert learned.of(mine, "p", "never heard of", CADENCE).plan is None
