"""Nothing is lost, whatever dies: small runs of the kill test (`python -m tests.flow.kill` runs it at full size)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.flow.kill import Options, kill_test

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

RUNS = {
    "sqlite": Options("sqlite", kill_every=1.5),
    "sqlite, a third of the queries fail": Options("sqlite", kill_every=2.0, upstream_500=0.33),
    "postgresql": Options("postgresql", kill_every=1.0),
    "postgresql, which restarts twice": Options("postgresql", processes=2, kill_every=2.0, restart_database=2),
}


@pytest.mark.parametrize("name", RUNS)
async def test_every_promise_is_kept(name: str, tmp_path: Path) -> None:
    options = replace(RUNS[name], watches=150, seconds_of_ends=6.0, poll_interval=0.5, folder=tmp_path)
    report = await kill_test(options)
    said = "\n".join(report.lines())
    assert report.kills > 0, said
    assert report.expected == 300, said
    assert report.lost == 0, said
    assert report.ids == 1, said
    assert (report.unverified, report.early, report.wrong) == (0, 0, []), said
    assert report.check == 0, said
    assert report.unsettled == [], said
