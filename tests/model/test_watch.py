"""What a reading means for a watch: tables of situations, and what holds for every sequence of readings."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.event import MAX_EVENT_BYTES, TERMINAL_EVENTS, EventData, EventType, Upstream, event
from relay.model.reading import Kind, Problem, Reading, Result, stored_result
from relay.model.times import rfc3339
from relay.model.watch import (
    LAST_WAIT,
    Caution,
    Obstacle,
    State,
    Watch,
    estimated_end,
    expire,
    transition,
    unasked,
)

QUIET = settings(deadline=None)
START = 1_760_000_000_000
DEADLINE = START + 3_600_000
CAUTION = Caution(lost_after=3, lost_grace=60.0, bare_after=3)
WATCH = Watch(created_at=START, expires_at=DEADLINE)

LINK = "https://cdn.example/v.mp4"
BARE = Result(
    url=None,
    urls=[],
    thumbnail_url=None,
    preview_url=None,
    width=352,
    height=640,
    enhanced_prompt=None,
    text=None,
    ref=None,
    key_needed=False,
    expires_at=None,
)
RESULT = Result(**{**BARE, "url": LINK, "urls": [LINK]})  # type: ignore[typeddict-item]
WHY = Problem(code="why", message="because")

PENDING = Reading(Kind.PENDING, "processing", 0.5, body=b"{}")
COMPLETED = Reading(Kind.COMPLETED, "completed", 1.0, result=RESULT, body=b"{}")
BARE_COMPLETED = Reading(Kind.COMPLETED, "completed", 1.0, result=BARE, body=b"{}")
FAILED = Reading(Kind.FAILED, "failed", 0.7, error=WHY, body=b"{}")
UNKNOWN = Reading(Kind.UNKNOWN_TASK, error=Problem(code="unknown_task", message="no such task"))
NOT_UNDERSTOOD = Reading(Kind.NOT_UNDERSTOOD, error=Problem(code="not_json", message="a page"))
NOT_ANSWERED = Reading(Kind.NOT_ANSWERED, error=Problem(code="timeout", message="too slow"), retry_after=7.0)
SILENT = {Kind.NOT_ANSWERED, Kind.NOT_UNDERSTOOD}


def after(seconds: float) -> int:
    return START + round(seconds * 1000)


def told(*readings: Reading, every: float = 10.0, caution: Caution = CAUTION, watch: Watch = WATCH) -> Watch:
    """The watch after these readings, one every so many seconds."""
    for number, reading in enumerate(readings, 1):
        watch = transition(watch, reading, after(number * every), caution)
    return watch


# ----------------------------------------------------------------------------------------- one reading, any situation


@pytest.mark.parametrize("now", [after(10), DEADLINE - 1])
@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (PENDING, Watch(START, DEADLINE, upstream_status="processing", progress=0.5, polls=1)),
        (
            COMPLETED,
            Watch(
                START,
                DEADLINE,
                State.COMPLETED,
                upstream_status="completed",
                progress=1.0,
                result=RESULT,
                polls=1,
            ),
        ),
        (
            BARE_COMPLETED,
            Watch(
                START,
                DEADLINE,
                upstream_status="completed",
                progress=1.0,
                result=BARE,
                polls=1,
                bares=1,
                doubted_since=1,
            ),
        ),
        (FAILED, Watch(START, DEADLINE, State.FAILED, upstream_status="failed", progress=0.7, error=WHY, polls=1)),
        (UNKNOWN, Watch(START, DEADLINE, error=UNKNOWN.error, polls=1, unknowns=1, doubted_since=1)),
        (NOT_UNDERSTOOD, Watch(START, DEADLINE, error=NOT_UNDERSTOOD.error, polls=1, misses=1)),
        (NOT_ANSWERED, Watch(START, DEADLINE, error=NOT_ANSWERED.error, polls=1, misses=1)),
    ],
    ids=lambda value: value.kind if isinstance(value, Reading) else "",
)
def test_the_first_reading(reading: Reading, expected: Watch, now: int) -> None:
    ended_at = now if expected.state is not State.WATCHING else None
    doubted_since = now if expected.doubted_since else None
    expected = expected._replace(ended_at=ended_at, doubted_since=doubted_since)
    assert transition(WATCH, reading, now, CAUTION) == expected


@pytest.mark.parametrize("reading", [PENDING, COMPLETED, BARE_COMPLETED, FAILED, UNKNOWN, NOT_UNDERSTOOD, NOT_ANSWERED])
@pytest.mark.parametrize("state", [state for state in State if state is not State.WATCHING])
def test_ended_stays_ended(state: State, reading: Reading) -> None:
    ended = WATCH._replace(state=state, ended_at=after(5), error=WHY, unknowns=99, doubted_since=START, bares=99)
    assert transition(ended, reading, DEADLINE + 1, CAUTION) is ended
    assert expire(ended, DEADLINE + 1) is ended


@pytest.mark.parametrize(
    ("reading", "state", "error"),
    [
        (COMPLETED, State.COMPLETED, None),
        (FAILED, State.FAILED, WHY),
        (PENDING, State.EXPIRED, "the deadline passed; the upstream last said 'processing'"),
        (BARE_COMPLETED, State.EXPIRED, "the deadline passed; the upstream last said 'completed'"),
        (UNKNOWN, State.EXPIRED, UNKNOWN.error),
        (NOT_UNDERSTOOD, State.EXPIRED, NOT_UNDERSTOOD.error),
        (NOT_ANSWERED, State.EXPIRED, NOT_ANSWERED.error),
        (
            Reading(Kind.NOT_ANSWERED),
            State.EXPIRED,
            "the deadline passed before the upstream said anything about the task",
        ),
    ],
)
@pytest.mark.parametrize("now", [DEADLINE, DEADLINE + 86_400_000])
def test_a_reading_after_the_deadline(reading: Reading, state: State, error: object, now: int) -> None:
    """The end that the upstream reports still counts; nothing else keeps the watch open."""
    watch = transition(WATCH, reading, now, CAUTION)
    assert (watch.state, watch.ended_at) == (state, now)
    assert watch.error == ({"code": "deadline_passed", "message": error} if isinstance(error, str) else error)
    assert watch.result == (RESULT if state is State.COMPLETED else None)


@pytest.mark.parametrize(("now", "state"), [(DEADLINE - 1, State.WATCHING), (DEADLINE, State.EXPIRED)])
def test_the_deadline_holds_without_a_reading(now: int, state: State) -> None:
    assert expire(WATCH, now).state is state


@pytest.mark.parametrize(
    ("passing", "now", "again", "due"),
    [
        (True, DEADLINE - 9000, DEADLINE - 4000, DEADLINE - 4000),
        (True, DEADLINE - 9000, DEADLINE + 4000, DEADLINE),
        (True, DEADLINE, DEADLINE + 4000, DEADLINE + 4000),
        (True, DEADLINE + LAST_WAIT - 1, DEADLINE + LAST_WAIT + 4000, DEADLINE + LAST_WAIT),
        (True, DEADLINE + LAST_WAIT, DEADLINE + LAST_WAIT + 4000, None),
        (False, DEADLINE - 9000, DEADLINE + 51_000, DEADLINE),
        (False, DEADLINE, DEADLINE + 60_000, None),
    ],
)
def test_what_cannot_be_asked_about_waits_for_its_last_poll_but_not_for_ever(
    passing: bool, now: int, again: int, due: int | None
) -> None:
    watch, at = unasked(WATCH._replace(error=WHY), Obstacle("no place was free", passing), now, again)
    if due is not None:
        assert (watch.state, watch.error, at) == (State.WATCHING, WHY, due)
        return
    assert (watch.state, watch.ended_at) == (State.EXPIRED, now)
    assert watch.error == {"code": "why", "message": "because; it could not be asked once more: no place was free"}


# --------------------------------------------------------------------------------------------------- the lost rule


@pytest.mark.parametrize(
    ("times", "lost"),
    [
        ([0, 30, 59.999], False),
        ([0, 30, 60], True),
        ([0, 60], False),
        ([0, 3000], False),
        ([0, 1, 2, 3, 4, 5, 59], False),
        ([0, 1, 2, 3, 4, 5, 60], True),
        ([50, 60, 70], False),
        ([50, 60, 109.999], False),
        ([50, 60, 110], True),
    ],
)
def test_lost_needs_several_unknown_answers_over_the_grace_period(times: list[float], lost: bool) -> None:
    watch = WATCH
    for at in times:
        assert watch.state is State.WATCHING
        watch = transition(watch, UNKNOWN, after(at), CAUTION)
    assert watch.state is (State.LOST if lost else State.WATCHING)
    assert watch.error == UNKNOWN.error
    assert watch.ended_at == (after(times[-1]) if lost else None)


def test_the_grace_period_runs_from_the_registration_too() -> None:
    """A watch may be made from one whose unknown answers are older than itself."""
    watch = WATCH._replace(unknowns=10, doubted_since=after(-1000))
    assert transition(watch, UNKNOWN, after(59.999), CAUTION).state is State.WATCHING
    assert transition(watch, UNKNOWN, after(60), CAUTION).state is State.LOST


@pytest.mark.parametrize("between", [PENDING, BARE_COMPLETED])
def test_an_answer_about_the_task_begins_the_count_anew(between: Reading) -> None:
    watch = told(UNKNOWN, UNKNOWN, between, every=100)
    assert (watch.unknowns, watch.doubted_since) == (0, after(300) if between is BARE_COMPLETED else None)
    watch = told(UNKNOWN, UNKNOWN, between, UNKNOWN, UNKNOWN, every=100)
    assert (watch.state, watch.unknowns, watch.doubted_since) == (State.WATCHING, 2, after(400))
    assert told(UNKNOWN, UNKNOWN, between, UNKNOWN, UNKNOWN, UNKNOWN, every=100).state is State.LOST


@pytest.mark.parametrize("between", [NOT_ANSWERED, NOT_UNDERSTOOD])
def test_an_answer_about_nothing_neither_counts_nor_begins_anew(between: Reading) -> None:
    watch = told(UNKNOWN, UNKNOWN, between, between, between, every=100)
    assert (watch.state, watch.unknowns, watch.doubted_since) == (State.WATCHING, 2, after(100))
    assert told(UNKNOWN, UNKNOWN, between, between, UNKNOWN, every=100).state is State.LOST


@pytest.mark.parametrize("silent", [NOT_ANSWERED, NOT_UNDERSTOOD])
def test_silence_never_ends_a_task(silent: Reading) -> None:
    watch = told(*[silent] * 350, every=10)
    assert (watch.state, watch.misses, watch.polls) == (State.WATCHING, 350, 350)
    assert told(*[silent] * 361, every=10).state is State.EXPIRED


# ---------------------------------------------------------------------------------------------- bare completions


def test_completed_without_a_link_is_asked_again() -> None:
    watch = told(BARE_COMPLETED, BARE_COMPLETED)
    assert (watch.state, watch.bares, watch.result) == (State.WATCHING, 2, BARE)
    watch = told(BARE_COMPLETED, BARE_COMPLETED, BARE_COMPLETED)
    assert (watch.state, watch.result, watch.error) == (State.COMPLETED, BARE, None)
    assert told(BARE_COMPLETED, COMPLETED).result == RESULT
    assert told(BARE_COMPLETED, COMPLETED).state is State.COMPLETED


def test_bare_completions_count_although_other_answers_come_between() -> None:
    watch = told(BARE_COMPLETED, PENDING, BARE_COMPLETED, NOT_ANSWERED, BARE_COMPLETED)
    assert (watch.state, watch.progress) == (State.COMPLETED, 1.0)


@pytest.mark.parametrize(
    ("every", "polls", "ended"),
    [(0.5, 4, False), (0.5, 40, False), (0.5, 41, True), (5.0, 4, False), (5.0, 5, True), (30.0, 2, False)],
)
def test_a_bare_completion_takes_time_however_often_it_is_asked_for(every: float, polls: int, ended: bool) -> None:
    caution = Caution(bare_after=3, bare_grace=20.0)
    watch = told(*[BARE_COMPLETED] * polls, every=every, caution=caution)
    assert watch.state is (State.COMPLETED if ended else State.WATCHING)


def test_a_bare_completion_is_told_at_once_where_the_file_says_so() -> None:
    assert told(BARE_COMPLETED, caution=Caution(bare_after=1, bare_grace=3600)).state is State.COMPLETED


def test_a_result_in_the_answer_itself_needs_no_link() -> None:
    watch = told(BARE_COMPLETED._replace(inline=True))
    assert (watch.state, watch.result) == (State.COMPLETED, BARE)


def test_another_word_about_the_task_begins_the_wait_for_a_link_anew() -> None:
    caution = Caution(bare_after=2, bare_grace=20.0)
    for between in (PENDING, UNKNOWN):
        watch = told(BARE_COMPLETED, between, BARE_COMPLETED, every=15, caution=caution)
        assert (watch.state, watch.doubted_since) == (State.WATCHING, after(45))
    assert told(BARE_COMPLETED, NOT_ANSWERED, BARE_COMPLETED, every=15, caution=caution).state is State.COMPLETED


def test_an_unknown_task_after_a_bare_completion_has_a_grace_of_its_own() -> None:
    watch = told(BARE_COMPLETED, UNKNOWN, UNKNOWN, UNKNOWN, every=25)
    assert (watch.state, watch.unknowns, watch.doubted_since) == (State.WATCHING, 3, after(50))


def test_a_completion_without_any_result_is_bare_too() -> None:
    empty = COMPLETED._replace(result=None)
    assert told(empty).state is State.WATCHING
    assert told(empty, empty, empty).state is State.COMPLETED


def test_a_result_of_an_earlier_release_is_shown_with_all_its_members() -> None:
    old = {name: value for name, value in RESULT.items() if name not in ("urls", "text", "ref", "key_needed")}
    assert stored_result(old) == RESULT
    assert stored_result({**old, "url": None}) == BARE
    assert stored_result(RESULT) == RESULT


def test_a_failure_after_a_bare_completion_has_no_result() -> None:
    watch = told(BARE_COMPLETED, FAILED)
    assert (watch.state, watch.result, watch.error) == (State.FAILED, None, WHY)


# --------------------------------------------------------------------------------------------------- what is kept


def test_error_fields_of_a_completed_answer_are_ignored() -> None:
    watch = told(NOT_ANSWERED, COMPLETED._replace(error=WHY))
    assert (watch.state, watch.error) == (State.COMPLETED, None)
    assert told(BARE_COMPLETED._replace(error=WHY)).error is None


def test_an_error_is_gone_when_the_upstream_answers_again() -> None:
    assert told(NOT_ANSWERED).error == NOT_ANSWERED.error
    assert told(NOT_ANSWERED, PENDING).error is None


def test_misses_end_with_any_answer_about_the_task() -> None:
    assert told(NOT_ANSWERED, NOT_UNDERSTOOD).misses == 2
    for answer in (PENDING, UNKNOWN, BARE_COMPLETED):
        assert told(NOT_ANSWERED, NOT_UNDERSTOOD, answer).misses == 0


def test_what_goes_backwards_does_not_move_the_watch_backwards() -> None:
    queued = Reading(Kind.PENDING, "queued", 0.1)
    watch = told(PENDING, queued)
    assert (watch.state, watch.progress, watch.upstream_status) == (State.WATCHING, 0.5, "queued")
    watch = told(BARE_COMPLETED, queued)
    assert (watch.state, watch.progress, watch.bares) == (State.WATCHING, 1.0, 1)
    assert told(COMPLETED, queued) == told(COMPLETED)
    assert told(PENDING, Reading(Kind.PENDING, "processing")).progress == 0.5


def test_the_last_word_of_the_upstream_is_kept_when_it_says_nothing() -> None:
    assert told(PENDING, NOT_ANSWERED).upstream_status == "processing"
    assert told(PENDING, UNKNOWN).upstream_status == "processing"


def test_progress_of_a_failure_is_where_it_stopped() -> None:
    assert told(FAILED).progress == 0.7
    assert told(Reading(Kind.FAILED, "failed", error=WHY)).progress is None


@pytest.mark.parametrize(
    "values",
    [{"lost_after": 0}, {"bare_after": 0}, {"lost_grace": -1.0}, {"lost_grace": float("nan")}, {"bare_grace": -1.0}],
)
def test_a_caution_that_makes_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Caution(**values)


# ------------------------------------------------------------------------------------- any sequence of readings


def reading_of(kind: Kind, status: str | None, progress: float | None, link: bool) -> Reading:
    result = (RESULT if link else BARE) if kind is Kind.COMPLETED else None
    error = None if kind in (Kind.PENDING, Kind.COMPLETED) else WHY
    return Reading(kind, status, progress, result, error)


READINGS = st.builds(
    reading_of,
    # Mostly what ends nothing at once, or no sequence would grow long.
    st.sampled_from([*Kind, *[Kind.UNKNOWN_TASK] * 4, Kind.PENDING, Kind.NOT_ANSWERED]),
    st.sampled_from([None, "pending", "done?"]),
    st.none() | st.floats(0, 1),
    st.booleans(),
)
CAUTIONS = st.builds(Caution, st.integers(1, 5), st.floats(0, 200), st.integers(1, 4), st.floats(0, 100))
SEQUENCES = st.lists(st.tuples(st.integers(0, 60_000), READINGS), max_size=40)


def state_by_the_rules(heard: list[tuple[int, Reading]], caution: Caution) -> State:
    """What the rules say of everything heard so far: told once more, from the whole story instead of from counters."""
    now, last = heard[-1]
    if last.kind is Kind.FAILED:
        return State.FAILED
    completions = [reading for _, reading in heard if reading.kind is Kind.COMPLETED]
    bare_since = now
    for at, reading in reversed([(at, reading) for at, reading in heard if reading.kind not in SILENT]):
        if reading.kind is not Kind.COMPLETED:
            break
        bare_since = at
    waited = caution.bare_after == 1 or now - bare_since >= caution.bare_grace * 1000
    bare = len(completions) >= caution.bare_after and waited
    if last.kind is Kind.COMPLETED and (last.result == RESULT or bare):
        return State.COMPLETED
    unknown: list[int] = []
    for at, reading in heard:
        if reading.kind is Kind.UNKNOWN_TASK:
            unknown.append(at)
        elif reading.kind not in SILENT:
            unknown.clear()
    still = last.kind is Kind.UNKNOWN_TASK and len(unknown) >= caution.lost_after
    if still and now - max(unknown[0], START) >= caution.lost_grace * 1000:
        return State.LOST
    return State.EXPIRED if now >= DEADLINE else State.WATCHING


@settings(QUIET, max_examples=500)
@given(SEQUENCES, CAUTIONS, st.integers(0, 3_700_000))
def test_any_sequence_of_readings(steps: list[tuple[int, Reading]], caution: Caution, begin: int) -> None:
    watch, now = WATCH, START + begin
    heard: list[tuple[int, Reading]] = []
    for pause, reading in steps:
        now += pause
        before = watch
        watch = transition(watch, reading, now, caution)
        if before.state is not State.WATCHING:
            assert watch is before
            continue
        heard.append((now, reading))
        assert watch.state is state_by_the_rules(heard, caution)
        assert (watch.ended_at is None) == (watch.state is State.WATCHING)
        assert watch.polls == len(heard)
        assert (watch.created_at, watch.expires_at) == (START, DEADLINE)
        assert before.progress is None or (watch.progress is not None and watch.progress >= before.progress)
        kinds = [one.kind for _, one in heard]
        match watch.state:
            case State.COMPLETED:
                assert reading.kind is Kind.COMPLETED
                assert (watch.progress, watch.error, watch.result) == (1.0, None, reading.result)
            case State.FAILED:
                assert reading.kind is Kind.FAILED
                assert (watch.error, watch.result) == (WHY, None)
            case State.LOST:
                assert watch.result is None
                assert kinds.count(Kind.UNKNOWN_TASK) >= caution.lost_after
                assert now - START >= caution.lost_grace * 1000
            case State.EXPIRED:
                assert now >= DEADLINE
                assert watch.error is not None


@given(st.integers(0, 10_000_000), st.none() | st.floats(0, 1), st.sampled_from(State))
def test_an_estimate_lies_ahead(elapsed: int, progress: float | None, state: State) -> None:
    now = START + elapsed
    end = estimated_end(WATCH._replace(state=state, progress=progress), now)
    known = state is State.WATCHING and progress is not None and 0.05 <= progress < 1
    assert (end is not None) == known
    assert end is None or end >= now


def test_an_estimate_goes_on_as_it_went() -> None:
    assert estimated_end(WATCH._replace(progress=0.25), after(60)) == after(240)


# -------------------------------------------------------------------------------------------------------- events


def data_of(**values: Any) -> EventData:
    return EventData(
        **{
            "watch_id": "wch_1",
            "task_id": "sora-2:task_1",
            "provider": "unified-video",
            "state": "completed",
            "result": RESULT,
            "error": None,
            "metadata": {},
            **values,
        }
    )


def test_an_event_is_what_the_contract_shows() -> None:
    happened = event(
        EventType.COMPLETED, "end", START + 908, data_of(metadata={"order": "42"}), Upstream(b'{"status": "x"}')
    )
    assert (happened.type, happened.key, happened.at) == (EventType.COMPLETED, "end", START + 908)
    assert json.loads(happened.body) == {
        "type": "task.completed",
        "timestamp": "2025-10-09T08:53:20.908Z",
        "data": {
            "watch_id": "wch_1",
            "task_id": "sora-2:task_1",
            "provider": "unified-video",
            "state": "completed",
            "result": dict(RESULT),
            "error": None,
            "metadata": {"order": "42"},
            "upstream": {"status": "x"},
        },
    }


def test_without_an_answer_there_is_no_upstream() -> None:
    assert json.loads(event(EventType.LOST, "end", START, data_of(), None).body)["data"] == data_of()


@pytest.mark.parametrize(
    "upstream",
    [
        b'{ "a" :\r\n 1.0e2 }',
        b'{"big":123456789012345678901234567890,"again":1,"again":2}',
        '{"名":"视频\\u89c6"}'.encode(),
        b'{"nul":"\\u0000"}',
        b"null",
    ],
)
def test_the_upstream_is_embedded_byte_for_byte(upstream: bytes) -> None:
    body = event(EventType.COMPLETED, "end", START, data_of(), Upstream(upstream)).body
    assert body.count(b'"upstream":' + upstream + b"}") == 1
    assert json.loads(body)["data"]["upstream"] == json.loads(upstream)


def test_an_event_says_that_the_upstream_is_repaired() -> None:
    body = event(EventType.COMPLETED, "end", START, data_of(), Upstream(b'{"a": null}', repaired=True)).body
    assert json.loads(body)["data"] == data_of(upstream={"a": None}, upstream_repaired=True)


def test_an_event_leaves_the_upstream_out_rather_than_grow_beyond_256_kib() -> None:
    assert MAX_EVENT_BYTES == 262_144
    room = MAX_EVENT_BYTES - len(event(EventType.COMPLETED, "end", START, data_of(), Upstream(b'""')).body) + 2
    fits = event(EventType.COMPLETED, "end", START, data_of(), Upstream(b'"%s"' % (b"x" * (room - 2))))
    assert len(fits.body) == MAX_EVENT_BYTES
    assert "upstream_omitted" not in json.loads(fits.body)["data"]

    over = event(EventType.COMPLETED, "end", START, data_of(), Upstream(b'"%s"' % (b"x" * (room - 1)), repaired=True))
    assert json.loads(over.body)["data"] == {**data_of(), "upstream_omitted": "too_large"}


@pytest.mark.parametrize(("depth", "kept"), [(100, True), (1022, True), (1023, False), (1024, False)])
def test_an_event_leaves_the_upstream_out_rather_than_be_unreadable(depth: int, kept: bool) -> None:
    """A thousand levels are what many parsers take, and an event adds two."""
    upstream = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    orjson.loads(upstream)
    data = orjson.loads(event(EventType.COMPLETED, "end", START, data_of(), Upstream(upstream)).body)["data"]
    assert ("upstream" in data, data.get("upstream_omitted")) == (kept, None if kept else "too_deep")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@QUIET
@given(
    st.dictionaries(st.text(max_size=5), PLAIN, max_size=4), PLAIN, st.booleans(), st.text(), st.sampled_from(EventType)
)
def test_the_body_of_an_event_is_json(
    metadata: dict[str, Any], upstream: Any, spaced: bool, task_id: str, kind: EventType
) -> None:
    raw = json.dumps(upstream, indent=2 if spaced else None, ensure_ascii=not spaced).encode()
    body = event(kind, "end", START, data_of(metadata=metadata, task_id=task_id), Upstream(raw)).body
    decoded = json.loads(body.decode("utf-8"))
    assert raw in body
    assert decoded["data"] == {**data_of(metadata=metadata, task_id=task_id), "upstream": upstream}
    assert decoded["type"] == kind


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_759_763_651_908, "2025-10-06T15:14:11.908Z"),
        (1_709_164_800_010, "2024-02-29T00:00:00.010Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_rfc3339(at: int, text: str) -> None:
    assert rfc3339(at) == text


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_rfc3339_can_be_read_back(at: int) -> None:
    text = rfc3339(at)
    assert len(text) == len("2025-10-06T15:14:11.908Z")
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)
    assert moment.days * 86_400_000 + moment.seconds * 1000 + moment.microseconds // 1000 == at


def test_every_end_but_a_cancellation_is_told() -> None:
    assert set(TERMINAL_EVENTS) == set(State) - {State.WATCHING, State.CANCELLED}
    assert list(TERMINAL_EVENTS.values()) == ["task.completed", "task.failed", "task.expired", "task.lost"]
