"""Task ids as callers write them: what stands around one is no part of it."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.task_ids import BLANK, CONTROL, WRITTEN, trimmed

BLANKS = [character for character in map(chr, range(0x10000)) if re.match(f"[{BLANK}]", character)]


@pytest.mark.parametrize("blank", ["", " ", "   ", "\u00a0", "\u200b", "\u3000", "\ufeff", "\u2060\u00ad", "\r\n\t"])
def test_blanks_alone_are_no_id(blank: str) -> None:
    assert trimmed(blank) == ""
    assert not re.search(WRITTEN, blank)
    assert trimmed(f"{blank}sora-2:x{blank}") == "sora-2:x"
    assert re.search(WRITTEN, f"{blank}sora-2:x{blank}")


def test_every_space_and_every_invisible_character_is_blank() -> None:
    spaces = {character for character in map(chr, range(0x10000)) if unicodedata.category(character)[0] == "Z"}
    formats = {character for character in map(chr, range(0x10000)) if unicodedata.category(character) == "Cf"}
    visible = set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9\ufffa\ufffb")
    assert spaces | (formats - visible) <= set(BLANKS)


@pytest.mark.parametrize("task_id", ["a b", "a\u200bb", "❤\ufe0f", "\U0001f3f4\U000e0067\U000e007f", "_x_", "."])
def test_what_is_inside_an_id_stays(task_id: str) -> None:
    assert trimmed(task_id) == task_id


@given(st.text(st.sampled_from([*BLANKS, "a", "🎬", "\x00", "\x7f", "\n"])))
def test_the_pattern_says_what_is_taken(text: str) -> None:
    task_id = trimmed(text)
    assert trimmed(task_id) == task_id
    taken = task_id != "" and not re.search(f"[{CONTROL}]", task_id)
    assert bool(re.search(WRITTEN, text)) is taken
