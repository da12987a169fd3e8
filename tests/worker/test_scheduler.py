"""The clock: ticks go on, whatever is done to the wall clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, tzinfo

import apscheduler.schedulers.base
import pytest
from hypothesis import given
from hypothesis import strategies as st

import relay.worker.scheduler
from relay.worker.scheduler import Every, Scheduler

MOMENTS = st.integers(0, 7_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@pytest.mark.parametrize("ahead", [timedelta(days=30), timedelta(days=365), timedelta(days=3650)], ids=str)
@pytest.mark.anyio
async def test_ticks_go_on_when_the_clock_is_set_ahead(ahead: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every firing that the jump skipped would be listed by a trigger that looks back: millions of them."""
    by = timedelta()

    class WallClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    for module in (apscheduler.schedulers.base, relay.worker.scheduler):
        monkeypatch.setattr(module, "datetime", WallClock)
    ticks = asyncio.Event()

    async def tick() -> None:
        ticks.set()

    clock = Scheduler()
    clock.add("job", tick, 0.05)
    clock.start()
    await asyncio.wait_for(ticks.wait(), 5)
    by, before = ahead, time.process_time()
    for _ in range(3):
        ticks.clear()
        await asyncio.wait_for(ticks.wait(), 5)
    assert time.process_time() - before < 1
    await clock.stop()


@given(previous=st.none() | MOMENTS, now=MOMENTS, seconds=st.floats(0.01, 3600))
def test_the_next_firing_is_one_interval_from_now(previous: datetime | None, now: datetime, seconds: float) -> None:
    assert Every(seconds).get_next_fire_time(previous, now) == now + timedelta(seconds=seconds)
