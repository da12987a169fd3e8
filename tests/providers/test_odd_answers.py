"""Thousands of odd documents through `Reader`: no exception, and an event and a Slack message of each, in strict JSON.

Seeded, so that a failure comes back; `test_reader.py` has the same for what Hypothesis thinks of.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from relay.channels.slack.message import terminal_message
from relay.model.event import TERMINAL_EVENTS, EventData, Upstream, event
from relay.model.reading import Kind, Reading
from relay.model.watch import Caution, State, Watch, transition
from relay.providers.definition import load_definition
from relay.providers.document import Answer
from relay.providers.reader import Reader

DEFINITION = load_definition(Path(__file__).parents[2] / "config/providers/unified-video.toml", {})
READER = Reader(DEFINITION.read, DEFINITION.statuses, DEFINITION.errors)
NOW = 1_760_000_000_000
DOCUMENTS = 4000

NAMES = [
    *DEFINITION.read.envelope.members,
    *("status", "state", "task_status", "code", "message", "msg", "error", "errors", "fail_reason", "reason"),
    *("video_url", "url", "urls", "progress", "width", "enhanced_prompt", "model", "prompt", "input", "id", "\ud83d"),
]
WORDS = [status for group in DEFINITION.statuses.model_dump().values() for status in group]
TEXTS = [
    "",
    " ",
    "https://cdn.example/v.mp4?se=2025-10-12",
    " https://cdn.example/v.mp4\n",
    "data:video/mp4;base64,AAAA",
    "task not found",
    "任务不存在",
    "操作成功",
    "<script>&\x00\x1b[2J",
    "\ud83d",
    "\ude00\ud83d",
    "a" * 5000,
    '{"status": "processing"}',
    "[1, {]",
    "50%",
    "1e999%",
]
NUMBERS = [0, 1, -1, 50, 10**18, 10**25, 1e300, float("nan"), float("inf"), 0.5, True, False, None]


def value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if depth and kind < 0.35:
        return {rng.choice(NAMES): value(rng, depth - 1) for _ in range(rng.randint(0, 5))}
    if depth and kind < 0.5:
        return [value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    return rng.choice((rng.choice(WORDS), rng.choice(WORDS).upper(), rng.choice(TEXTS), rng.choice(NUMBERS)))


def written(rng: random.Random) -> tuple[bytes, str]:
    """Return a document as bytes, often not quite JSON, and its content type."""
    document = {rng.choice(NAMES): value(rng, 4) for _ in range(rng.randint(1, 7))}
    document[rng.choice(("status", "data", "detail", "output"))] = rng.choice((rng.choice(WORDS), value(rng, 3)))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    charset = rng.choice(("utf-8", "utf-8", "utf-8", "gbk", "utf-16", "utf-16-be", "utf-32", "latin-1", "big5"))
    raw = text.encode(charset, rng.choice(("replace", "surrogatepass" if charset.startswith("utf") else "ignore")))
    match rng.randint(0, 11):
        case 0:
            raw = raw[: rng.randint(0, len(raw))]
        case 1:
            raw += b"\n<br />\n<b>Notice</b>: {"
        case 2:
            raw = raw.replace(b'", "', b'\n\t", "')
        case 3:
            at = rng.randint(0, len(raw))
            raw = raw[:at] + bytes([rng.randint(0, 255)]) + raw[at:]
        case 4:
            raw = b"\xef\xbb\xbf" + raw
        case 5:
            raw += raw
        case 6:
            raw = raw.replace(b"50", b"1e400")
    return raw, rng.choice(("application/json", f"application/json; charset={charset}", "text/html"))


def strict(body: bytes | str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    parsed = json.loads(body, parse_constant=refuse)
    json.dumps(parsed, ensure_ascii=False).encode()  # no half of a character
    return parsed


def told(watch: Watch, reading: Reading) -> dict[str, Any]:
    """Return the event that an end makes, as its receivers parse it."""
    data = EventData(
        watch_id="wch_01K70000000000000000000000",
        task_id="sora-2:task_1",
        provider="unified-video",
        state=watch.state,
        result=watch.result,
        error=watch.error,
        metadata={},
    )
    body = reading.body or reading.aside
    upstream = None if body is None else Upstream(body, reading.repaired)
    made = strict(event(TERMINAL_EVENTS[watch.state], "end", NOW, data, upstream).body)
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_odd_documents(seed: int) -> None:
    rng = random.Random(seed)
    kinds = set()
    for _ in range(DOCUMENTS // 4):
        body, content_type = written(rng)
        code = rng.choice((200, 200, 200, 200, 404, 400, 429, 500, 302, 204, 999))
        reading = READER.read(Answer(code, {"content-type": content_type}, body), NOW)
        kinds.add(reading.kind)
        impatient = Caution(lost_after=1, lost_grace=0, bare_after=1)
        watch = transition(Watch(created_at=NOW - 1, expires_at=NOW), reading, NOW, impatient)
        assert watch.state in (State.COMPLETED, State.FAILED, State.LOST, State.EXPIRED)
        happened = told(watch, reading)
        assert happened["data"].get("upstream_repaired", False) in (reading.repaired, False)
        message = terminal_message(happened).body()
        assert strict(json.dumps(message))["text"]
    assert kinds == set(Kind)
