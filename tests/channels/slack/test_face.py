"""What a living message shows: within Slack's limits whatever comes, and the same in words as in blocks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.channels.slack.face import CELLS, Look, face, reply_to
from relay.store.slack_messages import Living
from tests.channels.slack.test_message import EVENTS, LONGEST, TEXT, WATCH, WORST, table, verdict

NOW = 1_759_763_651_908
LOOKS = [Look(), Look("https://relay.example", True), Look("https://relay.example", False), Look("", True)]


def living(
    *, answer: Any = None, end: Any = None, undelivered: tuple[str, ...] = (), said: str | None = None, **watch: Any
) -> Living:
    known = {
        "id": WATCH,
        "task_id": "sora-2:task_1",
        "provider": "unified-video",
        "state": "watching",
        "upstream_status": "processing",
        "progress": None,
        "estimated_end": None,
        "late_told_at": None,
        "created_at": NOW - 90_000,
        "ended_at": None,
        "polls": 3,
        "misses": 0,
    }
    row: Any = SimpleNamespace(target_id="tgt_01K6X15VHRFF09DKKQJRZWHM60", said=said)
    about: Any = SimpleNamespace(**known | watch)
    bodies = [None if one is None else orjson.dumps(one, option=orjson.OPT_NON_STR_KEYS) for one in (answer, end)]
    return Living(row, about, b"", bodies[0], bodies[1], False, undelivered, 1)


def bodies(value: Any) -> bool:
    """Whether it could have come as JSON."""
    try:
        orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError):
        return False
    return True


ANSWERS = (table(prompt=TEXT, queue_status_message=TEXT, queue_position=st.integers(-5, 10**12)) | st.just({})).filter(
    bodies
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(LOOKS),
    ANSWERS,
    st.none() | EVENTS.filter(bodies),
    st.lists(st.text(max_size=300), max_size=100).filter(bodies),
    st.sampled_from([None, "Stopped by <@U0PERSON>."]),
    st.fixed_dictionaries(
        {
            "task_id": st.text(min_size=1, max_size=512).filter(bodies),
            "upstream_status": st.none() | st.text(max_size=300).filter(bodies),
            "progress": st.none() | st.floats(0, 1),
            "estimated_end": st.none() | st.integers(NOW - 10**9, NOW + 10**12),
            "ended_at": st.none() | st.just(NOW),
            "polls": st.integers(0, 9),
            "misses": st.integers(0, 10**6),
        }
    ),
)
def test_slack_takes_whatever_comes(
    look: Look, answer: Any, end: Any, hosts: list[str], said: str | None, watch: dict[str, Any]
) -> None:
    shown = living(answer=answer, end=end, undelivered=tuple(hosts), said=said, **watch)
    content = face(shown, NOW, look)
    for message in (content, reply_to(shown, content, whole=True), reply_to(shown, content, whole=False)):
        told = asyncio.run(verdict(message))
        assert told["ok"] or not (message.text or message.blocks), told


@pytest.mark.parametrize("end", [WORST, LONGEST])
def test_slack_takes_the_longest_with_all_that_can_stand_below(end: dict[str, Any]) -> None:
    shown = living(end=end, undelivered=("&" * 300,) * 100, said="Sent again by <@U0PERSON>.")
    told = asyncio.run(verdict(face(shown, NOW, LOOKS[1])))
    assert told["ok"], told


@pytest.mark.parametrize(("progress", "cells"), [(0.0, 0), (0.004, 0), (0.049, 0), (0.05, 1), (0.999, 19), (1.0, 20)])
def test_the_bar_never_shows_more_than_there_is(progress: float, cells: int) -> None:
    head = face(living(progress=progress), NOW, Look()).blocks[0]["text"]["text"]
    assert (head.count("█"), head.count("░")) == (cells, CELLS - cells)


def test_a_task_that_the_provider_has_lost_is_shown_with_what_it_had_said_of_it() -> None:
    data = {"watch_id": WATCH, "task_id": "task_1", "state": "lost", "upstream": {"code": "task_not_exist"}}
    shown = living(
        answer={"prompt": "make animate", "model": "veo3"},
        end={"type": "task.lost", "data": data},
        state="lost",
        ended_at=NOW,
    )
    text = face(shown, NOW, Look()).text
    assert "make animate" in text
    assert "veo3" in text


def test_what_the_blocks_say_the_text_says_too() -> None:
    shown = living(
        answer={"prompt": "make animate", "queue_position": 4}, progress=0.25, estimated_end=NOW + 120_000, misses=5
    )
    text = face(shown, NOW, LOOKS[1]).text
    for word in (
        "Task under way",
        "25%",
        "about 2 min left",
        "did not answer the last 5",
        "make animate",
        "sora-2:task_1",
    ):
        assert word in text


def test_a_late_task_is_said_to_take_longer_and_how_long_it_may_still_take() -> None:
    shown = face(living(late_told_at=NOW - 1000, estimated_end=NOW + 40_000), NOW, Look())
    assert "It is taking longer than usual." in shown.text
    assert "about 40 s left" in shown.text
    assert "longer than usual" not in face(living(), NOW, Look()).text
    ended = living(late_told_at=NOW - 1000, state="completed", end={"type": "task.completed", "data": {}})
    assert "longer than usual" not in face(ended, NOW, Look()).text


def test_a_message_has_the_noun_of_the_provider() -> None:
    look = Look(noun_of={"assemblyai": "Transcription"}.__getitem__)
    assert face(living(provider="assemblyai"), NOW, look).text.startswith("Transcription under way: ")
    ended = face(living(provider="assemblyai", end={"type": "task.completed", "data": {}}), NOW, look)
    assert ended.text.startswith("Transcription finished")
