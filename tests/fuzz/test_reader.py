"""Answers of upstreams, made of the words that matter: never an exception, few steps, and an end only by a word."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from relay.model.reading import Kind
from relay.providers.definition import Definition, load_definition
from relay.providers.document import Answer
from relay.providers.reader import Reader
from tests.fuzz.examples import fuzz

PROVIDERS = Path(__file__).parents[2] / "config" / "providers"
NAMES = tuple(sorted(file.stem for file in PROVIDERS.glob("*.toml")))
NOW = 1_800_000_000_000

STEPS = (20_000, 10)
"""Calls of functions that one answer may cost: so many, and so many for each of its bytes."""

members = st.sampled_from(
    ["status", "state", "data", "output", "result", "response", "task", "videos", "url", "video_url", "error",
     "message", "code", "progress", "id", "detail", "done", "task_status", "reason", "fail_reason", "name", "x"]
)  # fmt: skip
texts = st.sampled_from(
    ["completed", "SUCCESS", " failed ", "pending", "task not found", "not_found", "error", "no such task", "42%", "",
     "https://cdn.example/v.mp4", "data:video/mp4;base64,AA", "s3://bucket/v.mp4", "done", "contemplating", "\0", "ok",
     '{"status":"completed","url":"https://cdn.example/v.mp4"}', "[[[[", "task_not_exist", "cancelled"]
)  # fmt: skip
leaves = st.none() | st.booleans() | st.integers(-2, 101) | st.floats() | texts | st.text(max_size=12)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(members, inner, max_size=6),
    max_leaves=25,
)
bodies = documents.map(lambda value: orjson.dumps(value)) | st.binary(max_size=60)
headers = st.fixed_dictionaries(
    {},
    optional={
        "retry-after": st.sampled_from(["5", "soon", "9" * 400, "Wed, 21 Oct 2026 07:28:00 GMT"]) | st.text(max_size=9),
        "content-type": st.sampled_from(["application/json", "a/b; charset=utf-7", "a/b; charset=gbk", ";charset="]),
        "location": st.text(max_size=20),
    },
)
statuses = st.sampled_from([200, 200, 200, 201, 204, 301, 400, 401, 402, 403, 404, 409, 410, 422, 429, 500, 503, 999])


@cache
def definition(name: str) -> Definition:
    return load_definition(PROVIDERS / f"{name}.toml", {})


@cache
def reader(name: str) -> Reader:
    loaded = definition(name)
    return Reader(loaded.read, loaded.statuses, loaded.errors)


def words_of(value: Any) -> set[str]:
    """Return every word that stands in a document, however deep, and in JSON that is written into a text."""
    if isinstance(value, dict):
        return set().union(*map(words_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(words_of, value))
    words = {str(value).replace("\0", "").strip().lower()}
    if isinstance(value, str) and value[:1] in ("{", "["):
        with contextlib.suppress(orjson.JSONDecodeError):
            words |= words_of(orjson.loads(value))
    return words


@given(st.sampled_from(NAMES), statuses, bodies, headers, st.booleans())
@example("unified-video", 200, b'{"data":' * 900 + b"1" + b"}" * 900, {}, False)
@example("unified-video", 429, b"{}", {"retry-after": "9" * 400}, False)
@fuzz(600)
def test_any_answer_is_a_reading(name: str, status: int, body: bytes, head: dict[str, str], truncated: bool) -> None:
    reading = reader(name).read(Answer(status, head, body, truncated), NOW)
    assert reading.progress is None or 0 <= reading.progress <= 1
    if reading.kind in (Kind.COMPLETED, Kind.FAILED) and status not in definition(name).statuses.http:
        assert 200 <= status < 300
        assert not truncated
    assert not reading.body or isinstance(orjson.loads(reading.body), dict | list)
    assert not reading.aside or isinstance(orjson.loads(reading.aside), dict)


@given(statuses, documents)
@example(200, {"status": "error", "url": "https://cdn.example/v.mp4"})
@example(200, {"result": {"state": "done"}, "status": ""})
@example(200, {"status": '{"status":"completed","url":"https://cdn.example/v.mp4"}'})
@fuzz(600)
def test_an_end_is_said_in_words_that_the_file_lists(status: int, document: Any) -> None:
    """Of a file without expressions that make words of their own, as those of the documented endpoint do."""
    statuses = definition("unified-video").statuses
    loaded = definition("unified-video")
    plain = tuple(p for p in loaded.read.status.expressions if "'" not in str(p) and "`" not in str(p))
    assert plain, "there are paths that only look"
    read = loaded.read.model_copy(update={"status": type(loaded.read.status)(expressions=plain)})
    reading = Reader(read, statuses, loaded.errors).read(Answer(status, {}, orjson.dumps(document)), NOW)
    listed = {Kind.COMPLETED: statuses.completed, Kind.FAILED: statuses.failed}.get(reading.kind)
    if listed is not None:
        assert words_of(document) & {*listed, "true", "running"}
    assert reading.status is None or reading.status in words_of(document) | {"running"}


def wide(count: int) -> dict[str, Any]:
    """Return a document that is wide everywhere where the reader looks."""
    inner = dict.fromkeys(("status", "state", "url", "message", "code", "progress"), "x")
    return {name: [dict(inner) for _ in range(count)] for name in ("data", "videos", "result", "errors", "outputs")}


def deep(count: int) -> dict[str, Any]:
    """Return a document whose envelopes stand in one another."""
    document: dict[str, Any] = {"status": "completed"}
    for number in range(count):
        document = {("data", "result", "task")[number % 3]: document, "status": "success"}
    return document


def test_a_reading_takes_few_steps() -> None:
    """Of documents that are large in a hostile way: the steps grow with the bytes, and no faster."""
    most, per_byte = STEPS
    documents = [wide(count) for count in (1, 10, 100, 1000)] + [deep(count) for count in (3, 30, 250)]
    documents += [
        {"error": "{" * 200_000},
        {"message": [[["task not found"] * 100] * 10] * 10},
        {"status": "x" * 10**6},
    ]
    for name in NAMES if os.environ.get("RELAY_FUZZ_TIMES") else ("unified-video",):
        for document in documents:
            answer = Answer(200, {}, orjson.dumps(document))
            steps = 0

            def count(_frame: Any, _event: str, _argument: Any) -> None:
                nonlocal steps
                steps += 1

            sys.setprofile(count)
            try:
                reader(name).read(answer, NOW)
            finally:
                sys.setprofile(None)
            assert steps <= most + per_byte * len(answer.body), (name, str(document)[:60], len(answer.body), steps)
