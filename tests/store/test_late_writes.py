"""Every write of a claim's outcome: late, it changes no row of any table; in time, it changes some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa

from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.reading import Kind, Reading
from relay.model.watch import Caution, transition
from relay.store import Database, outbox, polling, setbacks, slack_erasures, slack_messages
from relay.store.schema import deliveries, erased_messages, messages, metadata, watches
from relay.store.slack_turns import Rank, TurnQueue
from tests.support import rows
from tests.support.rows import NOW

LATER = NOW + 61_000
"""When the first lease is over."""

Write = Callable[[sa.Connection, Any], object]


def poll(reading: Reading, due: int | None, **more: Any) -> Write:
    """A poll whose task goes on."""

    def save(tx: sa.Connection, claim: polling.PollClaim) -> object:
        after = transition(claim.watch, reading, LATER, Caution())
        return polling.save(tx, [polling.Polled(claim, after, LATER, due, **more)])

    return save


def attempt(state: DeliveryState, again_at: int | None, sent: Attempt | None, **more: Any) -> Write:
    """What became of a delivery."""
    settled = None if again_at else LATER
    return lambda tx, claim: outbox.record(tx, [outbox.Tried(claim, sent, 1, state, again_at, settled, **more)])


def put_off(table: sa.Table) -> Write:
    return lambda tx, claim: setbacks.put_off(tx, table, claim.id, claim.lease, LATER + 5)


SENT = Attempt(1, LATER, 12, Outcome(Verdict.DELIVERED, status=200))
FAILED = Attempt(1, LATER, 12, Outcome(Verdict.RETRY, "http_500", 500))
LANE = TurnQueue("posts channel", spacing=1000)

WRITES: dict[str, tuple[Any, Write]] = {
    "a poll is put off": (polling, lambda tx, claim: polling.save(tx, [polling.Polled(claim, None, LATER, LATER + 5)])),
    "a poll": (polling, poll(Reading(Kind.PENDING, "running", progress=0.5), LATER + 5, answer=b"{}", answer_hash=2)),
    "a poll without an answer": (polling, poll(Reading(Kind.NOT_ANSWERED), LATER + 5)),
    "an end": (polling, lambda tx, claim: polling.save(tx, [rows.ended(claim, LATER)])),
    "a setback of a poll": (polling, put_off(watches)),
    "a delivery is put off": (outbox, attempt(DeliveryState.PENDING, LATER + 5, None)),
    "a failed attempt": (outbox, attempt(DeliveryState.PENDING, LATER + 5, FAILED)),
    "a delivered one": (outbox, attempt(DeliveryState.DELIVERED, None, SENT)),
    "a dead one": (outbox, attempt(DeliveryState.DEAD, None, FAILED, reason="http_500", exhausted=True)),
    "a setback of a delivery": (outbox, put_off(deliveries)),
    "a turn to post": (
        slack_messages,
        lambda tx, claim: slack_messages.posting(tx, claim, LANE, Rank.REST, LATER),
    ),
    "a message": (
        slack_messages,
        lambda tx, claim: slack_messages.save(tx, claim, {"channel": "C1", "ts": "1.2"}, LATER, None),
    ),
    "a setback of a message": (slack_messages, put_off(messages)),
    "an erased message": (slack_erasures, slack_erasures.settle),
    "an erased message is put off": (
        slack_erasures,
        lambda tx, claim: slack_erasures.put_off(tx, claim, 1, False, LATER + 5),
    ),
    "a setback of an erased message": (slack_erasures, put_off(erased_messages)),
}


@dataclass(frozen=True)
class Owned:
    """One row that is due in each table with claims."""

    db: Database

    def claim(self, table: Any, now: int, lease: str) -> Any:
        (claim,) = self.db.run_here(rows.claim_of, table, now, now + 60_000, lease, 100)
        return claim

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all tables."""

        def read(tx: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
            return {
                table.name: [tuple(row) for row in tx.execute(sa.select(table).order_by(*table.c))]
                for table in metadata.sorted_tables
            }

        return self.db.run_here(read)


@pytest.fixture
def owned(db: Database) -> Owned:
    app = rows.app(db)
    rows.watch(db, app, "ended")
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    rows.watch(db, app, "waiting", replace(rows.living_target(), type="slack"))
    db.run_here(slack_erasures.note, [("C9", "9.9")], NOW)
    return Owned(db)


@pytest.mark.parametrize("name", WRITES)
def test_a_late_write_changes_nothing(owned: Owned, name: str) -> None:
    table, write = WRITES[name]
    late = owned.claim(table, NOW, "late.1")
    mine = owned.claim(table, LATER, "mine.1")
    before = owned.contents()
    owned.db.run_here(write, late)
    assert owned.contents() == before
    owned.db.run_here(write, mine)
    assert owned.contents() != before


@pytest.mark.parametrize("name", WRITES)
def test_of_a_row_that_was_given_back_a_late_write_changes_nothing(owned: Owned, name: str) -> None:
    table, write = WRITES[name]
    late = owned.claim(table, NOW, "late.1")
    owned.db.run_here(
        lambda tx: [tx.execute(sa.update(each).values(lease=None)) for each in (watches, deliveries, messages)]
    )
    owned.db.run_here(lambda tx: tx.execute(sa.update(erased_messages).values(lease=None)))
    before = owned.contents()
    owned.db.run_here(write, late)
    assert owned.contents() == before
