"""Run seeds, and print what is wrong.

python -m tests.simulation FIRST COUNT [--trace]    seeds from FIRST on; --trace prints what happened
python -m tests.simulation new COUNT                seeds that nobody has run yet
python -m tests.simulation mutants MOST [NAME…]     take guards out: each must be noticed within MOST seeds
"""

from __future__ import annotations

import hashlib
import random
import sys
import time

from tests.simulation.mutants import MUTANTS, restore
from tests.simulation.scenario import Run, simulate

elapsed = time.perf_counter
SHOWN = 5


def seeds(first: str, count: str, *options: str) -> int:
    """Run seeds; return how many are bad."""
    start = random.SystemRandom().randrange(10**9) if first == "new" else int(first)
    began = elapsed()
    bad = posts = queries = 0
    for number in range(start, start + int(count)):
        run = simulate(str(number))
        posts += len(run.site.world.posts)
        queries += len(run.site.world.queries)
        bad += bool(run.problems)
        _show(run, options)
    seconds = elapsed() - began
    print(f"seeds {start} to {start + int(count) - 1}: {bad} bad, {queries} queries, {posts} posts, {seconds:.1f} s")
    return bad


def _show(run: Run, options: tuple[str, ...]) -> None:
    if run.problems:
        print(f"seed {run.seed}: {len(run.problems)} problems; again: python -m tests.simulation {run.seed} 1 --trace")
    for problem in run.problems[:SHOWN]:
        print(f"  {problem[:1500]}")
    trace = "\n".join(run.site.world.trace)
    if "--trace" in options:
        print(trace)
    if "--digest" in options:
        print(f"seed {run.seed}: {hashlib.sha256(trace.encode()).hexdigest()}")


def mutants(most: str, *names: str) -> int:
    """Take each guard out; return how many of them nobody missed."""
    missed = 0
    for name in names or MUTANTS:
        began = elapsed()
        MUTANTS[name]()
        try:
            noticed = next((run for run in map(simulate, map(str, range(int(most)))) if run.problems), None)
        finally:
            restore()
        missed += noticed is None
        what = f"seed {noticed.seed}: {noticed.problems[0][:200]}" if noticed else "NOT NOTICED"
        print(f"{name}, {elapsed() - began:.1f} s: {what}")
    return missed


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    sys.exit(bool(mutants(*rest) if command == "mutants" else seeds(command, *rest)))
