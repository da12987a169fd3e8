"""Task ids as people paste them into a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.web.slack.pasted import MOST, command_of, readings

ID = "sora-2:task_01abc"
PASTED = [
    f"`{ID}`",
    f"```{ID}```",
    f"“{ID}”",
    f"‘{ID}’",
    f"„{ID}“",
    f"«{ID}»",
    f'"{ID}"',
    f"'{ID}'",
    f"“{ID}",
    f"*{ID}*",
    f"_{ID}_",
    f"~{ID}~",
    f"*_~{ID}~_*",
    f"*`{ID}`*",
    f"`“{ID}”`",
    f"“*{ID}*”.",
    f"{ID}.",
    f"{ID},",
    f"{ID}。",
    f"({ID}).",
    f"\u200b{ID}\ufeff",
    f"\u00a0*\u200b{ID}\u00a0*",
    "sora-2:\u200btask_\u200d01abc",
    f"<{ID}>",
    f"&lt;{ID}&gt;",
    f"<http://sora-2.example|{ID}>",
    f"*<http://sora-2.example|{ID}>*",
    f"<mailto:{ID}|{ID}>.",
]


@pytest.mark.parametrize("text", PASTED)
def test_what_stands_around_an_id_is_taken_away(text: str) -> None:
    assert readings(text)[-1] == ID


@pytest.mark.parametrize("text", PASTED)
def test_what_is_given_exactly_comes_first(text: str) -> None:
    assert readings(text)[0] == text.strip("\u200b\ufeff\u00a0")


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("`_Xk39-b_`", "_Xk39-b_"),
        ("task_01abc_", "task_01abc_"),
        ("_task_01abc", "_task_01abc"),
        ("a b", "a b"),
        ("https://api.example/jobs/7?a=1&amp;b=2", "https://api.example/jobs/7?a=1&b=2"),
        ("<https://api.example/jobs/7>", "https://api.example/jobs/7"),
        ("...", "..."),
        ("*", "*"),
        ("**", "**"),
        ("日本語:タスク", "日本語:タスク"),
    ],
)
def test_what_may_be_part_of_an_id_stays(text: str, last: str) -> None:
    assert readings(text)[-1] == last


@given(st.text(st.sampled_from('*_~`"“”<>|&lt;.,() \u200b\u00a0ab')))
def test_there_are_few_readings_and_none_is_empty(text: str) -> None:
    ids = readings(text)
    assert len(ids) <= MOST + 1
    assert all(ids[1:])
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("gap", [" ", "   ", "\u00a0", "\u3000", "\u200b", " \u200b", "\t"])
def test_a_verb_ends_at_any_blank(gap: str) -> None:
    assert command_of(f"{gap}Status{gap}{ID}{gap}") == ("status", ID)


def test_a_command_without_a_subject() -> None:
    assert command_of("") == command_of("\u00a0\u200b") == ("", "")
    assert command_of("list") == ("list", "")
