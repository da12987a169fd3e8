"""The table of attacks, each judged by the oracle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.neighbours import attacks_api, attacks_deliveries, attacks_upstream
from tests.neighbours.attack import ATTACKS, Attack
from tests.neighbours.oracle import Oracle, verdict
from tests.neighbours.stage import stage
from tests.support import databases

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process uses is read from Linux's /proc"),
]

MODULES = (attacks_api, attacks_deliveries, attacks_upstream)
WARM = 1.5
"""Seconds for which is felt how it is without an attack."""


def cases() -> Iterator[object]:
    """Give each attack, on the databases that matter to it. What takes minutes is marked so."""
    for attack in sorted(ATTACKS, key=lambda one: not one.quick):
        for database in ("sqlite", "postgresql") if attack.both else ("sqlite",):
            marks = () if attack.quick and database == "sqlite" else pytest.mark.long
            yield pytest.param(attack, database, id=f"{attack.name}-{database}", marks=marks)


@pytest.mark.parametrize(("attack", "database"), [*cases()])
async def test_the_other_app_notices_nothing(
    attack: Attack, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if database == "sqlite":
        url = databases.migrated_file(tmp_path / "relay.db")
    else:
        url = request.getfixturevalue("migrated_postgres_url")
    async with stage(url, tmp_path, names=attack.names, **attack.options) as scene:
        oracle = Oracle(scene)
        before = await oracle.feel(WARM)
        running = asyncio.ensure_future(attack.run(scene))
        if attack.prepares:
            async with asyncio.timeout(60):
                await scene.prepared.wait()
        during = await oracle.feel(attack.seconds)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        figures = f"before: {before}\nduring: {during}\nalpha asked {scene.asked} times: {dict(scene.answers)}"
        print(figures)
        assert not (broken := verdict(before, during)), "\n".join([*broken, figures])
        assert scene.odd == [], figures
        assert scene.asked, "an attack that relay never heard of proves nothing"


def test_each_attack_stands_once_and_says_what_it_is() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len({*names})
    assert all(attack.run.__doc__ for attack in ATTACKS)
