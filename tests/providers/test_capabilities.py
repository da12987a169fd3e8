"""What a file can say of answers beside statuses and links: each capability alone, in the smallest file that has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.errors import ConfigError
from relay.model.reading import Kind, Reading
from relay.model.watch import Caution, State, Watch, transition
from relay.providers.definition import load_definition
from relay.providers.document import Answer
from relay.providers.fields import MAX_WHOLE_TEXT
from relay.providers.reader import Reader

SMALLEST = """
request = { path = "/{task_id}" }
statuses.completed = ["done"]
statuses.failed = ["failed"]
read.status = "status"
"""
NOW = 1_760_000_000_000


def reader(folder: Path, more: str) -> Reader:
    file = folder / "example.toml"
    file.write_text(SMALLEST + more, "utf-8")
    definition = load_definition(file, {})
    return Reader(definition.read, definition.statuses, definition.errors)


def refusal(folder: Path, more: str) -> str:
    with pytest.raises(ConfigError) as caught:
        reader(folder, more)
    return caught.value.detail


def read(reader: Reader, body: Any, status: int = 200, **headers: str) -> Reading:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return reader.read(Answer(status, headers, raw, base_url="https://up.example/base"), NOW)


@pytest.mark.parametrize(
    ("progress", "counts", "read_as"),
    [
        ('{ done = "n.done", of = "n.all" }', {"done": 3, "all": 4}, 0.75),
        ('{ done = "n.done", of = "n.all" }', {"done": "1", "all": "4"}, 0.25),
        ('{ done = "n.done", of = "n.all" }', {"done": 4, "all": 4}, 1.0),
        ('{ done = "n.done", of = "n.all" }', {"done": 5, "all": 4}, None),
        ('{ done = "n.done", of = "n.all" }', {"done": 0, "all": 0}, None),
        ('{ done = "n.done", of = "n.all" }', {"done": 1}, None),
        ('{ done = "n.done", of = "n.all" }', {"done": True, "all": 2}, None),
        ('{ done = "n.done", of = 100 }', {"done": 0.5}, 0.005),
        ('{ done = ["n.none", "n.done"], of = 100 }', {"done": 50}, 0.5),
    ],
)
def test_a_progress_that_is_two_numbers(
    progress: str, counts: dict[str, Any], read_as: float | None, tmp_path: Path
) -> None:
    quotient = reader(tmp_path, f"read.progress = {progress}")
    assert read(quotient, {"status": "running", "n": counts}).progress == read_as


def test_a_progress_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "read.progress.of" in refusal(tmp_path, 'read.progress = { done = "a", of = 0 }')
    assert "read.progress.done" in refusal(tmp_path, 'read.progress = { done = "[", of = 1 }')
    assert "read.progress.off" in refusal(tmp_path, 'read.progress = { done = "a", off = 1, of = 1 }')


@pytest.mark.parametrize(
    ("body", "headers", "wait"),
    [
        ({"status": "running", "after": 7}, {}, 7.0),
        ({"status": "running", "after": "7"}, {}, 7.0),
        ({"status": "running"}, {"retry-after": "9"}, 9.0),
        ({"status": "running", "after": 7}, {"retry-after": "9"}, 9.0),
        ({"status": "running", "after": -7}, {}, None),
        ({"status": "running", "after": "soon"}, {}, None),
        ({"status": "never seen", "after": 7}, {}, 7.0),
        ({"status": "done", "after": 7}, {"retry-after": "9"}, None),
    ],
)
def test_a_wait_that_a_pending_answer_asks_for(
    body: dict[str, Any], headers: dict[str, str], wait: float | None, tmp_path: Path
) -> None:
    waiting = reader(tmp_path, 'read.wait = "after"\nstatuses.pending = ["running"]')
    assert read(waiting, body, **headers).retry_after == wait


@pytest.mark.parametrize("status", ["running", "never seen", "done"])
def test_the_model_that_works_on_a_task(status: str, tmp_path: Path) -> None:
    modelled = reader(tmp_path, 'read.model = "input.model"')
    assert read(modelled, {"status": status, "input": {"model": "m-1"}}).model == "m-1"
    assert read(modelled, {"status": status, "input": {"model": 7}}).model is None


def test_only_what_the_file_keeps_is_left_of_an_answer(tmp_path: Path) -> None:
    keeping = reader(tmp_path, 'read.keep = "{id: id, text: text}"')
    whole = {"id": "t", "text": "hello", "words": ["hello"] * 1000, "status": "done"}
    kept = read(keeping, whole)
    assert kept.cut
    assert orjson.loads(kept.body or b"") == {"id": "t", "text": "hello"}
    error = read(keeping, {"id": "t", "error": "no"}, 500)
    assert error.cut
    assert orjson.loads(error.aside or b"") == {"id": "t", "text": None}


def test_all_is_kept_where_that_finds_nothing(tmp_path: Path) -> None:
    reading = read(reader(tmp_path, 'read.keep = "data.text"'), {"status": "done"})
    assert (reading.body, reading.cut) == (b'{"status": "done"}', False)


def test_what_is_kept_repeats_no_secret(tmp_path: Path) -> None:
    keeping = reader(tmp_path, "read.keep = \"{text: join('-', [a, b])}\"")
    reading = keeping.read(Answer(200, {}, b'{"status":"done","a":"sk","b":"secret"}', secrets=(b"sk-secret",)), NOW)
    assert b"sk-secret" not in (reading.body or b"")


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("hello", "hello"),
        (["hel", "lo"], "hello"),
        ("a\0b", "ab"),
        (" ", None),
        (["a", 7], None),
        ("x" * MAX_WHOLE_TEXT, "x" * MAX_WHOLE_TEXT),
        ("é" * MAX_WHOLE_TEXT, None),
    ],
)
def test_a_result_that_is_text(told: Any, text: str | None, tmp_path: Path) -> None:
    reading = read(reader(tmp_path, 'read.result.text = "out"'), {"status": "done", "out": told})
    assert reading.result is not None
    assert reading.result["text"] == text


@pytest.mark.parametrize("told", ["hello", "x" * (MAX_WHOLE_TEXT + 1)])
def test_a_text_is_a_result_as_a_link_is(told: str, tmp_path: Path) -> None:
    """However long it is: what is too long to be repeated stands in the answer."""
    texts = reader(tmp_path, 'read.result.text = "out"')
    watch = Watch(NOW, NOW + 1_000_000)
    assert transition(watch, read(texts, {"status": "done"}), NOW, Caution()).state is State.WATCHING
    assert transition(watch, read(texts, {"status": "done", "out": told}), NOW, Caution()).state is State.COMPLETED


def test_a_result_that_no_link_names(tmp_path: Path) -> None:
    reading = read(reader(tmp_path, 'read.result.ref = "out"'), {"status": "done", "out": "s3://bucket/film.mp4"})
    assert reading.result is not None
    assert (reading.result["ref"], reading.result["url"]) == ("s3://bucket/film.mp4", None)
    assert transition(Watch(NOW, NOW + 1_000_000), reading, NOW, Caution()).state is State.COMPLETED


def test_a_link_that_the_file_makes_and_that_wants_the_key(tmp_path: Path) -> None:
    made = reader(
        tmp_path, "read.result.url = \"join('', ['{base_url}/v1/', id, '/content'])\"\nread.result.key_needed = true"
    )
    reading = read(made, {"status": "done", "id": "t"})
    assert reading.result is not None
    assert (reading.result["url"], reading.result["key_needed"]) == ("https://up.example/base/v1/t/content", True)
    without = read(made, {"status": "done"})
    assert without.result is not None
    assert not without.result["key_needed"]


def test_links_that_are_made_of_the_id(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(
        """
        request = { id = "{app}/{job}", path = "/{app}/{job}" }
        read.status = "status"
        read.result.url = "'{base_url}/v1/{task_id}/content'"
        read.result.thumbnail_url = "'{base_url}/thumbs/{job}.webp'"
        read.result.preview_url = "preview"
        statuses.completed = ["done"]
        """,
        "utf-8",
    )
    definition = load_definition(file, {})
    own = Reader(definition.read, definition.statuses, definition.errors)
    names = {"task_id": "a/b c", "app": "a", "job": "b c"}
    body = b'{"status":"done","preview":"https://cdn.example/{job}{x}"}'
    result = own.read(Answer(200, {}, body, base_url="https://up.example/base", names=names), NOW).result
    assert result is not None
    assert result["url"] == "https://up.example/base/v1/a%2Fb%20c/content"
    assert result["thumbnail_url"] == "https://up.example/base/thumbs/b%20c.webp"
    assert result["preview_url"] == "https://cdn.example/b%20c{x}"


@pytest.mark.parametrize(("link", "needed"), [("https://cdn.example/a", False), ("https://up.example/own/a", True)])
def test_links_of_which_some_want_the_key(link: str, needed: bool, tmp_path: Path) -> None:
    some = reader(tmp_path, "read.result = { url = 'link', key_needed = \"[link][?contains(@, '/own/')]\" }")
    result = read(some, {"status": "done", "link": link}).result
    assert result is not None
    assert (result["url"], result["key_needed"]) == (link, needed)
    assert "read.result.key_needed" in refusal(tmp_path, "read.result = { url = 'link', key_needed = '[' }")


@pytest.mark.parametrize(
    ("told", "seconds"), [('"49h"', 176400.0), ("90", 90.0), ('"soon"', None), ("0", None), ("true", None)]
)
def test_a_deadline_of_the_provider(told: str, seconds: float | None, tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(f"{SMALLEST}cadence.expires_in = {told}", "utf-8")
    if seconds is None:
        with pytest.raises(ConfigError, match="expires_in"):
            load_definition(file, {})
    else:
        assert load_definition(file, {}).cadence.expires_in == seconds


@pytest.mark.parametrize(
    ("status", "body", "kind", "word"),
    [
        (202, b"", Kind.PENDING, "http_202"),
        (202, b"<html>", Kind.PENDING, "http_202"),
        (202, b"{}", Kind.PENDING, "http_202"),
        (202, b'{"status":"done"}', Kind.COMPLETED, "done"),
        (200, b"{}", Kind.NOT_UNDERSTOOD, None),
        (201, b"", Kind.NOT_UNDERSTOOD, None),
        (422, b'{"message":"no such column"}', Kind.FAILED, "http_422"),
        (422, b'{"code":"down","message":"no such column"}', Kind.NOT_ANSWERED, None),
        (422, b"<html>", Kind.NOT_ANSWERED, None),
        (422, b"", Kind.NOT_ANSWERED, None),
        (404, b'{"message":"wait"}', Kind.PENDING, "http_404"),
        (400, b'{"message":"no such column"}', Kind.NOT_ANSWERED, None),
        (500, b'{"message":"no such column"}', Kind.NOT_ANSWERED, None),
    ],
)
def test_an_http_status_that_says_how_the_task_stands(
    status: int, body: bytes, kind: Kind, word: str | None, tmp_path: Path
) -> None:
    told = 'statuses.http = { 202 = "pending", 404 = "pending", 422 = "failed" }\nerrors.gateway_codes = ["down"]'
    reading = read(reader(tmp_path, told), body, status)
    assert (reading.kind, reading.status) == (kind, word)
    if kind is Kind.FAILED:
        assert reading.error == {"code": "http_422", "message": "no such column"}


@pytest.mark.parametrize(
    ("kind", "body", "read_as"),
    [
        ("video/mp4", b"\0\0\0\x18ftyp", Kind.COMPLETED),
        ("text/html", b"<html>we are down</html>", Kind.NOT_UNDERSTOOD),
        ("application/json", b'{"film": "AAAA', Kind.NOT_UNDERSTOOD),
        (None, b"\0\0", Kind.NOT_UNDERSTOOD),
        ("video/mp4", b"", Kind.NOT_UNDERSTOOD),
    ],
)
def test_an_answer_that_is_the_file_itself(kind: str | None, body: bytes, read_as: Kind, tmp_path: Path) -> None:
    headers = {} if kind is None else {"content-type": kind}
    reading = reader(tmp_path, 'statuses.http = { 200 = "completed" }').read(Answer(200, headers, body), NOW)
    assert reading.kind is read_as
    if read_as is Kind.COMPLETED:
        assert transition(Watch(NOW, NOW + 1_000_000), reading, NOW, Caution()).state is State.COMPLETED


@pytest.mark.parametrize("code", [301, 401, 402, 403, 408, 429, 500, 503])
def test_an_http_status_that_never_speaks_of_a_task_is_refused(code: int, tmp_path: Path) -> None:
    assert "statuses" in refusal(tmp_path, f'statuses.http = {{ {code} = "failed" }}')


def test_an_http_error_is_no_success(tmp_path: Path) -> None:
    assert "no success" in refusal(tmp_path, 'statuses.http = { 404 = "completed" }')


@pytest.mark.parametrize(("body", "status"), [({"code": 1002}, 200), ({"code": "1002"}, 200), ({"code": 1002}, 400)])
def test_a_limit_that_is_told_in_any_answer(body: dict[str, Any], status: int, tmp_path: Path) -> None:
    limited = reader(tmp_path, 'errors.limited_codes = ["1002"]\nread.wait = "after"')
    reading = read(limited, {**body, "message": "too fast", "after": 4}, status)
    assert (reading.kind, reading.limited, reading.retry_after) == (Kind.NOT_ANSWERED, True, 4.0)
    assert reading.error == {"code": "rate_limited", "message": "too fast"}


def test_a_code_that_is_no_error(tmp_path: Path) -> None:
    fine = reader(tmp_path, 'errors.fine_codes = ["7"]')
    failed = {"status": "failed", "code": 7, "message": "no"}
    assert read(fine, failed).error == {"code": "failed", "message": "no"}
    assert read(fine, {**failed, "code": 8}).error == {"code": "8", "message": "no"}


def test_an_answer_that_is_a_list(tmp_path: Path) -> None:
    listed = reader(tmp_path, 'read.result.url = "[0].link"')
    file = tmp_path / "list.toml"
    file.write_text(SMALLEST.replace('"status"', '"[0].state"') + 'read.result.url = "[0].link"', "utf-8")
    definition = load_definition(file, {})
    own = Reader(definition.read, definition.statuses, definition.errors)
    answer = [{"state": "done", "link": "https://cdn.example/a"}]
    assert read(own, answer).result is not None
    assert read(own, answer).kind is Kind.COMPLETED
    assert read(listed, answer).kind is Kind.NOT_UNDERSTOOD
    assert read(own, [{"errorCode": "X"}], 404).aside is None


def test_a_file_without_failures(tmp_path: Path) -> None:
    file = tmp_path / "never-fails.toml"
    file.write_text(SMALLEST.replace('statuses.failed = ["failed"]\n', ""), "utf-8")
    assert load_definition(file, {}).statuses.failed == ()
