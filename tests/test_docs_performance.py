"""The table of docs/performance.md has each figure that `python -m tests.bench` measures, with the goal of the code."""

from pathlib import Path

from tests.bench.__main__ import BENCHES

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def test_the_page_has_each_figure_and_its_goal() -> None:
    table = PAGE.read_text("utf-8").partition("## Figures")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    on_the_page = [(name, goal) for name, _, _, _, goal, _ in rows[2:]]
    assert on_the_page == [(figure.name, figure.promise) for bench in BENCHES for figure in bench.figures]


def test_each_bench_has_a_name_and_each_figure_too() -> None:
    figures = [figure.name for bench in BENCHES for figure in bench.figures]
    assert len({bench.name for bench in BENCHES}) == len(BENCHES)
    assert len(set(figures)) == len(figures)
