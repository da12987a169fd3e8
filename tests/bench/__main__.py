"""Measure every figure of docs/performance.md, and print them as the table of that page.

`python -m tests.bench [--only NAME …] [--rounds 3] [--list]`

It needs two cores and nothing else on the machine. Each round measures each bench once; a bench takes ten seconds to
two minutes. A figure whose bench fails is left out of the table, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench import deliveries, growth, latency, polls, registrations, start, submit
from tests.bench.figures import Bench, Figure, Result, Sample

BENCHES: tuple[Bench, ...] = (
    *polls.BENCHES,
    *latency.BENCHES,
    *deliveries.BENCHES,
    *registrations.BENCHES,
    *submit.BENCHES,
    *growth.BENCHES,
    *start.BENCHES,
)
"""All benches, in the order of the table."""

HEAD = "| figure | baseline | relay | ratio | goal | met |\n|---|---|---|---|---|---|"


def row(result: Result) -> str:
    """Return a result as a row of the table."""
    figure = result.figure
    value = f"{result.value:,.{figure.digits}f}"
    baseline = ratio = "–"
    if result.baseline is not None:
        baseline = f"{result.baseline:,.{figure.digits}f}"
        ratio = f"{result.ratio:.2f}"
    met = {True: "yes", False: "no", None: "–"}[result.met]
    return f"| {figure.name} | {baseline} | {value} | {ratio} | {figure.promise} | {met} |"


def measure(benches: Sequence[Bench], rounds: int) -> tuple[dict[Figure, list[Sample]], int]:
    """Measure all benches once, then again, so that a slow minute of the machine does not fall on one of them.

    Returns:
        The samples of each figure, and how often a bench failed.
    """
    samples: dict[Figure, list[Sample]] = {figure: [] for bench in benches for figure in bench.figures}
    failures = 0
    for number in range(1, rounds + 1):
        for bench in benches:
            started = time.monotonic()
            try:
                for sample in bench.measure():
                    samples[sample.figure].append(sample)
            except Exception:  # the others took minutes, and are not thrown away
                traceback.print_exc()
                failures += 1
            print(f"round {number}: {bench.name}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return samples, failures


def chosen(names: Iterable[str]) -> tuple[Bench, ...]:
    """Return the benches whose name begins with one of the names; all of them if there is no name."""
    prefixes = tuple(names)
    return tuple(bench for bench in BENCHES if not prefixes or bench.name.startswith(prefixes))


def machine() -> str:
    """Return what the figures depend on, in one line."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(": ")[2] if models else platform.machine()
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
    return (
        f"{time.strftime('%d %B %Y')}, commit {commit or 'unknown'}, {len(models)} × {model}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="the benches whose name begins so")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")
    given = parser.parse_args()
    benches = chosen(given.only)
    if not benches or given.rounds < 1:
        parser.error(f"at least one round, of {', '.join(bench.name for bench in BENCHES)}")
    if given.list:
        print("\n".join(bench.name for bench in benches))
        return
    samples, failures = measure(benches, given.rounds)
    print(HEAD)
    for of_figure in samples.values():
        if of_figure:
            print(row(Result.of(of_figure)))
    print(f"\nMedians; rounds: {given.rounds}. {machine()}.")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
