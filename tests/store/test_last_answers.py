"""An answer is stored once: with the watch while it is under way, and in the event once the task has ended."""

from __future__ import annotations

import orjson
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.model.event import EventData, EventType, Upstream, answer_in, event, repeats
from relay.model.reading import TOO_LARGE, Kind, Reading
from relay.model.watch import Caution, transition
from relay.store import Database, last_answers, outbox, polling
from relay.store.schema import CUT, REPAIRED, answers, events
from tests.store.test_claims import count, sound
from tests.support import rows
from tests.support.rows import LINK, NOW

ANSWER = b'{"id": "task",  "status":"completed", "upstream":{"a":1.50}, "url":"https://cdn.example/v.mp4"}'
TRICKY = {"upstream": {"upstream": [1, '},"upstream":{}}}'], "b": ',"upstream":'}, "text": '","upstream":{}}'}


def data(metadata: object) -> EventData:
    return {
        "watch_id": "wch_1",
        "task_id": "task",
        "provider": "p",
        "state": "completed",
        "result": None,
        "error": None,
        "metadata": metadata,
    }


def ended(
    claim: polling.PollClaim, answer: bytes | None, *, status: int = 200, upstream: Upstream | None = None
) -> polling.Polled:
    """Return what a poller saves of an end whose event repeats the answer."""
    after = transition(claim.watch, Reading(Kind.COMPLETED, "completed", result=LINK), NOW, Caution())
    repeated = upstream or (None if answer is None else Upstream(answer))
    told = event(EventType.COMPLETED, outbox.END, NOW, data(TRICKY), repeated)
    return polling.Polled(claim, after, NOW, None, answer=answer, answer_status=status, answer_hash=1, event=told)


def known(db: Database, app: str) -> last_answers.LastAnswer:
    found = db.run_here(last_answers.last_answer, app, "task", "p")
    assert found is not None
    return found


def pending(claim: polling.PollClaim) -> polling.Polled:
    after = transition(claim.watch, Reading(Kind.PENDING), NOW, Caution())
    return polling.Polled(claim, after, NOW, NOW, answer=b'{"status": "pending"}', answer_hash=2)


@pytest.mark.parametrize("polls_before", [0, 1])
def test_an_ended_watch_has_its_answer_in_the_event_alone(db: Database, polls_before: int) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    for _ in range(polls_before):
        (claim,) = rows.claim(db)
        db.run_here(polling.save, [pending(claim)])
        assert (count(db, answers), known(db, app).body) == (1, b'{"status": "pending"}')
    (claim,) = rows.claim(db)
    assert db.run_here(polling.save, [ended(claim, ANSWER)]).made == 1
    assert count(db, answers) == 0
    assert db.run_here(lambda tx: tx.execute(sa.select(events.c.body)).scalar_one()).count(ANSWER) == 1
    answer = known(db, app)
    assert (answer.body, answer.status, answer.at, answer.holds) == (ANSWER, 200, NOW, True)
    assert db.run_here(last_answers.answer, watch_id) == Upstream(ANSWER)
    assert sound(db)


@pytest.mark.parametrize(
    ("answer", "status", "upstream"),
    [
        (ANSWER, 404, None),
        (ANSWER, REPAIRED, Upstream(ANSWER, repaired=True)),
        (b"[" + ANSWER, REPAIRED, Upstream(ANSWER, repaired=True)),
        (ANSWER, CUT, None),
        (TOO_LARGE, 200, Upstream(TOO_LARGE)),
        (b"[" * 1023 + b"]" * 1023, 200, None),
        (b'{"text": "' + b"x" * 300_000 + b'"}', 200, None),
    ],
    ids=["another status", "repaired", "differs", "a part", "too large to keep", "too deep", "too large for an event"],
)
def test_an_answer_that_the_event_has_otherwise_keeps_its_row(
    answer: bytes, status: int, upstream: Upstream | None, db: Database
) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    (claim,) = rows.claim(db)
    db.run_here(polling.save, [ended(claim, answer, status=status, upstream=upstream)])
    assert count(db, answers) == 1
    stored = known(db, app)
    assert (stored.body, stored.holds) == (answer, status not in (REPAIRED, CUT))


def test_a_late_save_leaves_the_answer_alone(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    (claim,) = rows.claim(db)
    db.run_here(polling.save, [pending(claim)])
    (late,) = rows.claim(db, lease="late.1")
    rows.claim(db, NOW + 61_000, lease="mine.1")
    db.run_here(polling.save, [ended(late, ANSWER)])
    assert (count(db, answers), count(db, events)) == (1, 0)


def test_ends_of_the_release_before_have_both_and_are_read(db: Database) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    (claim,) = rows.claim(db)
    db.run_here(polling.save, [ended(claim, ANSWER)])
    row = {"watch_id": watch_id, "body": ANSWER, "at": NOW, "status": 200}
    db.run_here(lambda tx: tx.execute(sa.insert(answers).values(row)))
    assert (known(db, app).body, known(db, app).status) == (ANSWER, 200)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.just('"},"upstream":{}}'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["upstream", "data"]), inner),
    max_leaves=10,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(metadata=JSON, answer=JSON, blanks=st.sampled_from([b"", b" ", b"\n"]), repaired=st.booleans())
def test_an_answer_comes_out_of_its_event_as_it_went_in(
    metadata: object, answer: object, blanks: bytes, repaired: bool
) -> None:
    raw = blanks + orjson.dumps(answer) + blanks
    body = event(EventType.COMPLETED, "end", NOW, data(metadata), Upstream(raw, repaired)).body
    assert orjson.loads(body)["data"]["upstream"] == answer
    assert repeats(body, raw) is not repaired
    assert answer_in(body) == (None if repaired else raw)
    assert answer_in(event(EventType.COMPLETED, "end", NOW, data(metadata), None).body) is None
