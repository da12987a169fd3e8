"""Several processes on one database, in virtual time, with faults: no seed may break a promise, and each mutant must.

Each run is a Python process of its own, because it replaces the clocks.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SEEDS = ("1", "20")
"""The seeds that always run: the first, and how many."""

QUICK = ("late_polls", "late_readings", "late_ends", "late_records", "renumbered_records", "unsent_attempts",
         "lost_deliveries")  # fmt: skip
"""The mutants that are noticed within a few seconds."""


def simulation(*arguments: str, hash_seed: str = "0") -> str:
    """Run it; return what it prints, which a failure shows with the seeds."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@pytest.mark.timeout(600)
def test_no_seed_breaks_a_promise() -> None:
    print(simulation(*SEEDS))


def test_one_seed_is_one_order_of_events() -> None:
    """A failure can be run again, whatever order Python gives to its sets."""
    runs = [simulation("5", "2", "--digest", hash_seed=hash_seed).splitlines()[:2] for hash_seed in ("1", "2")]
    assert len(runs[0]) == 2
    assert runs[0] == runs[1]


@pytest.mark.timeout(600)
def test_the_oracle_notices_a_guard_that_is_missing() -> None:
    print(simulation("mutants", "20", *QUICK))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_new_seed_breaks_a_promise() -> None:
    print(simulation("new", os.environ.get("RELAY_TEST_SEEDS", "300")))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_oracle_notices_every_guard_that_is_missing() -> None:
    print(simulation("mutants", "40"))
