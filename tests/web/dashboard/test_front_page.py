"""What the front page is made of: one reading for many, the last day, and figures in words."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import ProgrammingError

from relay.errors import StoreUnavailable
from relay.model.delivery import DeliveryState
from relay.model.reading import Kind
from relay.model.watch import State
from relay.outbound import callers
from relay.outbound.callers import Caller
from relay.outbound.lane import Limit
from relay.outbound.prepared import OverHttpx
from relay.providers.definition import load_definition
from relay.providers.files import ProviderFiles
from relay.providers.provider import Provider
from relay.providers.upstreams import Upstreams
from relay.simulators.upstream import SandboxTransport
from relay.store import Database, migrate, outbox, polling, watches
from relay.store.learned import Learned
from relay.store.reports import Counts
from relay.telemetry import metrics
from relay.web.dashboard import charts, rendering
from relay.web.dashboard.shared_read import SharedRead
from relay.web.dashboard.upstream_health import health
from relay.web.dashboard.window import WINDOWS, Slice, WindowCounter, WindowFigures, total
from relay.wiring import now
from tests.support import rows
from tests.support.rows import NOW

EVERY = 0.2
PROVIDER = Path(__file__).parents[3] / "config/providers/unified-video.toml"


# ---------------------------------------------------------------------------------------------------------- one for all


@pytest.mark.anyio
async def test_many_askers_share_one_making_that_began_after_they_asked() -> None:
    begun: list[float] = []

    async def make() -> int:
        begun.append(time.monotonic())
        await asyncio.sleep(0.02)
        return len(begun)

    shared = SharedRead(make, EVERY)
    first = asyncio.create_task(shared.get())
    async with asyncio.timeout(5):
        while not begun:
            await asyncio.sleep(0)
    asked = time.monotonic()
    assert await asyncio.gather(*(shared.get() for _ in range(50))) == [2] * 50
    assert await first == 1
    assert begun[1] >= asked, "what changed before somebody asked is in what he gets"
    assert begun[1] - begun[0] >= EVERY, "however often it is asked for"
    assert await shared.get(age=60) == 2, "whoever takes an older one gets it"
    assert await shared.get(at_once=True) == 3
    assert begun[2] - begun[1] < EVERY + 0.15


@pytest.mark.anyio
async def test_who_goes_away_or_a_failure_stops_nobody() -> None:
    numbers = itertools.count()

    async def make() -> int:
        number = next(numbers)
        if number == 0:
            raise ConnectionError
        await asyncio.sleep(0.05)
        return number

    shared = SharedRead(make, 0.0)
    with pytest.raises(ConnectionError):
        await shared.get()
    gone = asyncio.create_task(shared.get())
    await asyncio.sleep(0.01)
    gone.cancel()
    assert await shared.get() == 2


@pytest.mark.anyio
async def test_those_who_wait_share_a_failure() -> None:
    tries = 0

    async def make() -> int:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.02)
        raise ConnectionError

    shared = SharedRead(make, 0.0)
    found = await asyncio.gather(*(shared.get() for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in found} == {ConnectionError}
    assert tries == 2, "the first asker's, and one that began after the others had asked"


# ------------------------------------------------------------------------------------------------------ windows of time

DAY = WINDOWS["24h"]
SLICE = DAY.slice
SLICES = DAY.columns


def end(db: Database, watch_id: str, at: int) -> None:
    (claim,) = [one for one in rows.claim(db, at) if one.id == watch_id]
    db.run_here(polling.save, [rows.ended(claim, at)])


@pytest.mark.anyio
async def test_a_day_is_counted_once_and_then_only_where_it_grows(db: Database) -> None:
    app, day = rows.app(db), WindowCounter(db, DAY)
    first = rows.watch(db, app, "task-1")
    end(db, first, NOW)
    counted = await day.read(NOW)
    assert len(counted.ends) == len(counted.settled) == SLICES
    assert counted.ends[-1].counts == {"completed": 1}
    assert counted.success() is None

    end(db, rows.watch(db, app, "task-2"), NOW + SLICE)
    (claim,) = db.run_here(rows.claim_of, outbox, NOW + SLICE, NOW + SLICE + 1, "me.1", 1)
    db.run_here(outbox.record, [outbox.Tried(claim, None, 1, DeliveryState.DEAD, None, NOW + SLICE, "why")])
    counted = await day.read(NOW + SLICE)
    assert [one.counts for one in counted.ends[-2:]] == [{"completed": 1}, {"completed": 1}]
    assert counted.success() == 0.0
    assert WindowFigures(DAY, [], [Slice(0, {"delivered": 1})], []).success(failing=3) == 0.25, (
        "what fails is not left out"
    )
    assert total(counted.ends, State.COMPLETED) == 2

    later = await day.read(NOW + SLICE * (SLICES + 1))
    assert total(later.ends, *State) == 0, "a day has a beginning too"
    assert total((await WindowCounter(db, DAY).read(NOW + SLICE * SLICES)).ends, *State) == 1


@pytest.mark.anyio
async def test_what_was_erased_is_gone_from_the_running_half_hour(db: Database) -> None:
    app, day = rows.app(db), WindowCounter(db, DAY)
    watch_id = rows.watch(db, app, "task")
    end(db, watch_id, NOW)
    assert total((await day.read(NOW)).ends, *State) == 1
    db.run_here(watches.erase, app, watch_id, NOW)
    gone = await day.read(NOW)
    assert total(gone.ends, *State) == 0
    assert all(not one.counts for one in gone.lags)


@pytest.mark.anyio
async def test_a_day_that_could_not_be_counted_anew_is_the_next_time(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, day = rows.app(db), WindowCounter(db, DAY)
    watch_id = rows.watch(db, app, "task")
    end(db, watch_id, NOW)
    now = NOW + 3 * SLICE
    monkeypatch.setattr("relay.web.dashboard.window.ANEW", 0.0)
    assert total((await day.read(now)).ends, *State) == 1
    monkeypatch.undo()
    db.run_here(watches.erase, app, watch_id, NOW)
    db.run_here(lambda tx: tx.exec_driver_sql("ALTER TABLE lags RENAME TO away"))
    with pytest.raises((StoreUnavailable, ProgrammingError)):
        await day.read(now)
    db.run_here(lambda tx: tx.exec_driver_sql("ALTER TABLE away RENAME TO lags"))
    assert total((await day.read(now)).ends, *State) == 0


@pytest.mark.anyio
async def test_a_window_is_counted_piece_by_piece_and_says_how_far(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.web.dashboard.window.PIECE", 2)
    app, week = rows.app(db), WindowCounter(db, WINDOWS["7d"])
    ids = [rows.watch(db, app, f"task-{n}", due=NOW + n * SLICE) for n in range(6)]
    for n, watch_id in enumerate(ids):
        end(db, watch_id, NOW + n * SLICE)
    now = NOW + 5 * SLICE
    counted = await week.read(now)
    assert (total(counted.ends, *State), counted.since) == (2, (NOW // SLICE + 4) * SLICE)
    end(db, rows.watch(db, app, "meanwhile", due=now), now)
    counted = await week.read(now)
    assert (total(counted.ends, *State), counted.since) == (5, (NOW // SLICE + 2) * SLICE)
    for _ in range(2):
        counted = await week.read(now)
        assert (total(counted.ends, *State), counted.since) == (7, None)
    assert max(one.counts.get("most", 0) for one in counted.lags) == 5 * SLICE, "of a column, the longest"

    db.run_here(watches.erase, app, ids[0], NOW)
    monkeypatch.setattr(week, "_anew_at", 0.0)
    for expected in (7, 6):
        counted = await week.read(now)
        assert (total(counted.ends, *State), counted.since) == (expected, None), "nothing else vanishes meanwhile"


@pytest.mark.anyio
@pytest.mark.parametrize("name", WINDOWS)
async def test_a_window_begins_with_a_whole_column_and_ends_now(db: Database, name: str) -> None:
    window = WINDOWS[name]
    column = window.slice * window.per_column
    app = rows.app(db)
    begin = window.begin(NOW)
    assert NOW - column * window.columns < begin <= NOW - column * (window.columns - 1)
    for n, at in enumerate((begin - 1, begin, NOW)):
        end(db, rows.watch(db, app, f"task-{n}", due=at), at)
    counted = await WindowCounter(db, window).read(NOW)
    assert [one.counts.get("completed", 0) for one in counted.ends] == [1, *[0] * (window.columns - 2), 1]
    assert counted.lags[0].counts == {"count": 1, "sum": 0, "most": 0}


# --------------------------------------------------------------------------------------------------------------- charts


def day_of(ends: dict[str, int], lags: dict[str, int]) -> WindowFigures:
    empty = [Slice(n * SLICE, {}) for n in range(SLICES - 1)]
    last = (SLICES - 1) * SLICE
    return WindowFigures(DAY, [*empty, Slice(last, ends)], [*empty, Slice(last, {})], [*empty, Slice(last, lags)])


def test_charts_say_in_words_what_they_draw() -> None:
    day = day_of({"completed": 3, "failed": 1}, {"count": 2, "sum": 3000, "most": 2500})
    ends, lag, settled = charts.ends(day), charts.lag(day), charts.settled(day)
    assert (ends.figure, ends.words) == ("4", "3 completed, 1 failed in the last 24 hours; at most 4 in half an hour.")
    assert [bar.height for bar in ends.columns[-1].bars] == [54, 18]
    assert ends.columns[-1].words == "Jan 01, 23:30 UTC: 3 completed, 1 failed"
    assert (lag.figure, lag.words) == ("1.5 s", "An end went unnoticed for 1.5 s on average, for 2.5 s at most.")
    assert (settled.figure, settled.words) == ("0", "Nothing was to be delivered.")
    assert not any(column.bars for column in settled.columns)
    for chart in (ends, lag, settled):
        assert len(chart.columns) == SLICES
        for bar in (bar for column in chart.columns for bar in column.bars):
            assert 0 <= bar.x <= bar.x + bar.width <= charts.WIDTH
            assert 0 <= bar.y <= bar.y + bar.height <= charts.HEIGHT + 0.01


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (9940, "9.9 s"),
        (42_000, "42 s"),
        (60_000, "1 min"),
        (192_000, "3 min 12 s"),
        (3_600_000, "1 h"),
        (7_500_000, "2 h 5 min"),
        (86_400_000 * 3 + 3_600_000 * 4, "3 d 4 h"),
    ],
)
def test_spans(milliseconds: int, words: str) -> None:
    assert rendering.span(milliseconds) == words


@pytest.mark.parametrize(
    ("part", "words"), [(0, "0 %"), (0.929, "92 %"), (0.9999, "99 %"), (1, "100 %"), (0.29, "29 %")]
)
def test_percents_are_rounded_down(part: float, words: str) -> None:
    assert rendering.percent(part) == words


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://cdn.example/v.mp4?a=1", True),
        ("http://cdn.example", True),
        ("HTTPS://cdn.example/", True),
        ("javascript:alert(1)", False),
        ("https:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("https://cdn.example/\n", False),
        ("data:text/html,x", False),
        ("//cdn.example", False),
        ("https://[", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_only_what_leads_to_the_web_is_a_link(url: object, good: bool) -> None:
    assert rendering.is_link(url) is good


# --------------------------------------------------------------------------------------------------------------- health


@pytest.mark.anyio
async def test_health_tells_of_lanes_answers_and_lags(tmp_path: Path) -> None:
    name = "health-test"
    shutil.copy(PROVIDER, tmp_path / f"{name}.toml")
    definition = load_definition(tmp_path / f"{name}.toml", {"HEALTH_TEST_BASE_URL": "https://up.example"})
    provider = Provider(definition, "key", OverHttpx(SandboxTransport()))
    upstreams = Upstreams(ProviderFiles({name: PROVIDER}, lambda _: provider), now)
    db = Database(f"sqlite:///{tmp_path}/relay.db")
    db.run_here(migrate.upgrade)
    learned = Learned(db)
    lanes, lane = upstreams.lanes, upstreams[name].lane(None)
    caller = Caller(callers.CallKind.POLL, "app")
    lanes.take(lane, Limit(), caller, time.monotonic())
    for _ in range(3):
        metrics.POLLS.labels(name, Kind.PENDING).inc()
    for lag in (0.2, 0.2, 4.0):
        metrics.DETECTION_LAG.labels(name).observe(lag)
    (one,) = await health(upstreams, Counts(7, {name: (7, 2)}, 0, 0), learned)
    assert (one.in_flight, one.silent, one.kinds) == (7, 2, {"pending": 3})
    assert (one.half, one.most) == (0.25, 5.0)
    assert (one.asking, one.paused) == (1, 0.0)
    lanes.done(lane, caller, 0.1, time.monotonic(), refused=True, retry_after=None)
    for _ in range(2):
        lanes.take(lane, Limit(), caller, time.monotonic())
        lanes.done(lane, caller, 0.1, time.monotonic(), refused=True, retry_after=30)
    (one,) = await health(upstreams, Counts(0, {}, 0, 0), learned)
    assert 29 < one.paused <= 30
