"""How many random examples a test tries: always the same few, or many new ones."""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("RELAY_FUZZ_TIMES", "1"))
"""How often the usual number of examples. More than once, they are new in every run; a failure prints how to repeat."""


def fuzz(examples: int, **more: Any) -> settings:
    """Return the settings of a property that tries so many examples."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,  # the machine may be busy; steps are counted where time matters
        derandomize=TIMES == 1,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def dice() -> tuple[random.Random, int]:
    """Return a source of random numbers for a test without hypothesis, and its seed."""
    seed = int(os.environ.get("RELAY_FUZZ_SEED", "1" if TIMES == 1 else str(random.SystemRandom().randrange(10**9))))
    return random.Random(seed), seed
