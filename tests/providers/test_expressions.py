"""Expressions are judged before they read anything: those of an app may only look, those of a file are bounded."""

from __future__ import annotations

import pytest

from relay.providers.expressions import judge, judge_plain
from relay.providers.paths import Path, Place

DOUBLES = "[@,@][]"


@pytest.mark.parametrize(
    "expression",
    [
        "status",
        "status == 'done'",
        "data.jobs[0].state != 'running' && !(error || `false`)",
        '[-1]."job state" == `3`',
        "done >= total",
    ],
)
def test_an_app_may_look(expression: str) -> None:
    assert judge_plain(expression) == expression


@pytest.mark.parametrize(
    "expression",
    [
        "length(jobs) > `3`",
        "jobs[*].state",
        "jobs.*",
        "jobs[]",
        "jobs[?done]",
        "jobs[0:2]",
        "[status, state]",
        "{a: status}",
        "jobs | [0]",
        "@",
        "&status",
        "not_null(jobs, status)",
        "|".join([DOUBLES] * 16),
    ],
)
def test_an_app_may_do_nothing_else(expression: str) -> None:
    with pytest.raises(ValueError, match="must be made of names, indexes, literals, comparisons"):
        judge_plain(expression)


@pytest.mark.parametrize("expression", ["!job.running", "done || !jobs[0].running"])
def test_a_negation_that_jmespath_would_read_otherwise_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="must have brackets"):
        judge_plain(expression)


@pytest.mark.parametrize("expression", ["", "status ==", "a..b", "`not json`", "(" * 200, "a" * 201, "'"])
def test_what_is_no_short_expression_is_refused_in_words(expression: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        judge_plain(expression)


@pytest.mark.parametrize("expression", ["!" * 199 + "a", "`" + "[" * 99 + "]" * 99 + "`", "(" * 99 + "a" + ")" * 99])
def test_the_deepest_that_an_app_can_write_is_judged_and_read(expression: str) -> None:
    Path(expressions=(judge_plain(expression),)).first([Place("", ({},))])


class Walked(list[int]):
    """A list that says when it is compared."""

    def __eq__(self, other: object) -> bool:
        assert not other, "two lists were compared, element by element"
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


def test_a_comparison_walks_no_lists() -> None:
    """An app may write 33 comparisons into an expression, and its host may answer with a megabyte for each side."""
    answer = {"a": Walked([1, 2]), "b": Walked([1, 2]), "none": []}
    path = Path(expressions=(judge_plain("||".join(["a==b"] * 33)),))
    assert path.first([Place("", (answer,))]) is None
    assert Path(expressions=("none == `[]`",)).first([Place("", (answer,))]) is True


@pytest.mark.parametrize(
    "expression",
    [
        "|".join([DOUBLES] * 16),
        "map(&[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][]|[@,@][], a)",
        "[" + ",".join("@" * 11) + "] | [" + ",".join("@" * 11) + "]",
    ],
)
def test_an_expression_of_a_file_that_multiplies_what_it_reads_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="at most 100 copies"):
        judge(expression)


def test_an_expression_of_a_file_joins_with_a_literal() -> None:
    judge("join('', ['{base_url}/v1/videos/', id, '/content'])")
    with pytest.raises(ValueError, match="must be a literal"):
        judge("join(a, b)")
