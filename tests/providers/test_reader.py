"""Answers of a query endpoint and how they are read: the recorded ones, and everything that a server could send."""

import json
import re
import time
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.model.event import EventData, EventType, Upstream, event
from relay.model.reading import Kind, Reading
from relay.providers.answer_paths import Read
from relay.providers.definition import load_definition
from relay.providers.document import Answer
from relay.providers.fields import MAX_LINK, MAX_TEXT, link_expiry
from relay.providers.messages import MAX_KEPT
from relay.providers.reader import MAX_STATUS, Reader, not_answered
from relay.providers.statuses import Errors, Statuses

ROOT = Path(__file__).parents[2]
DEFINITION = load_definition(ROOT / "config/providers/unified-video.toml", {})
READER = Reader(DEFINITION.read, DEFINITION.statuses, DEFINITION.errors)
RECORDED = Path(__file__).parents[1] / "answers/unified-video"
CASES = tomllib.loads((RECORDED / "cases.toml").read_text("utf-8"))["case"]
NOW = 1_760_000_000_000
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(body: Any, status: int = 200, **headers: str) -> Reading:
    """Reads a body, given as bytes or as what becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return READER.read(Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw), NOW)


def stated(reading: Reading) -> dict[str, Any]:
    """A reading's result without what it does not say; `urls` only where it has more than `url`."""
    result: dict[str, Any] = dict(reading.result or {})
    if result.get("urls") == [result.get("url")]:
        del result["urls"]
    return {name: value for name, value in result.items() if value not in (None, False, [])}


def raw_body(case: dict[str, Any]) -> bytes:
    return (RECORDED / case["body_file"]).read_bytes() if "body_file" in case else case["body"].encode()


# ------------------------------------------------------------------------------------------------ what was recorded


def test_there_is_a_recorded_answer_for_every_rule() -> None:
    assert len(CASES) >= 200
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)
    assert {case["kind"] for case in CASES} == set(Kind)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_recorded_answer_keeps_the_rules(case: dict[str, Any]) -> None:
    body = raw_body(case)
    headers = {name.lower(): value for name, value in case.get("headers", {}).items()}
    reading = READER.read(Answer(case.get("http_status", 200), headers, body), 0)
    check(reading, case.get("http_status", 200), body)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_an_event_can_repeat_every_recorded_answer(case: dict[str, Any]) -> None:
    reading = READER.read(Answer(case.get("http_status", 200), {}, raw_body(case)), 0)
    data = EventData(
        watch_id="wch_1",
        task_id="t",
        provider="p",
        state="completed",
        result=reading.result,
        error=reading.error,
        metadata={},
    )
    body = event(EventType.COMPLETED, "end", NOW, data, Upstream(reading.body or b"{}")).body
    assert json.loads(body)["type"] == "task.completed"


def test_the_documented_pending_sample() -> None:
    body = (RECORDED / "bodies/documented-pending.json").read_bytes()
    assert b"\r\n" in body
    assert read(body) == Reading(Kind.PENDING, "pending", 0.9302178175176704, body=body)


def test_the_documented_completed_sample() -> None:
    body = (RECORDED / "bodies/documented-completed.json").read_bytes()
    folder = (
        "https://filesystem.site/gptimage/vg-assets/assets%2Ftask_01k6x15vhrff09dkkqjrzwhm60%2Ftask_01k6x15vhrff09dkkqj"
        "rzwhm60_genid_6d46f487-b05f-4854-9c0f-4f2169caab0d_25_10_06_15_13_166244%2Fvideos%2F00000_wm%2F"
    )
    signed = (
        "?st=2025-10-06T14%3A04%3A21Z&se=2025-10-12T15%3A04%3A21Z&sks=b&skt=2025-10-06T14%3A04%3A21Z&ske=2025-10-12T15%"
        "3A04%3A21Z&sktid=a48cca56-e6da-484e-a814-9c849652bcb3&skoid=8ebb0df1-a278-4e2e-9c20-f2d373479b3a&skv=2019-02-0"
        "2&sv=2018-11-09&sr=b&sp=r&spr=https%2Chttp&sig="
    )
    assert read(body) == Reading(
        Kind.COMPLETED,
        "completed",
        1.0,
        result={
            "url": f"{folder}src.mp4{signed}log0LI%2Bwadi1bnm9MOw4UAptQC9Bi%2F8fPcpSVeRBq7I%3D&az=oaivgprodscus",
            "urls": [f"{folder}src.mp4{signed}log0LI%2Bwadi1bnm9MOw4UAptQC9Bi%2F8fPcpSVeRBq7I%3D&az=oaivgprodscus"],
            "thumbnail_url": f"{folder}thumbnail.webp{signed}ovYpytJMOZjyqD4vIf%2B66V5YqGGopu7AQM9n5ef421I%3D&az="
            "oaivgprodscus",
            "preview_url": f"{folder}preview.gif{signed}EoeGtZEdRHRRF6Y6KghYOngvj9NaocLD5Jh23OAeZXc%3D&az="
            "oaivgprodscus",
            "width": 352,
            "height": 640,
            "enhanced_prompt": None,
            "text": None,
            "ref": None,
            "key_needed": False,
            "expires_at": "2025-10-12T15:04:21.000Z",
        },
        body=body,
    )


# ------------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("status", "kind"),
    [(status, Kind(kind)) for kind, group in DEFINITION.statuses.model_dump().items() for status in group],
)
def test_declared_statuses_are_compared_without_case(status: str, kind: Kind) -> None:
    for written in (status, status.upper(), f" {status.title()}\n"):
        reading = read({"status": written})
        assert (reading.kind, reading.status) == (kind, status)


@pytest.mark.parametrize("status", ["ended", "ready", "completed!", "not completed", "failing", "successful"])
def test_a_status_never_seen_before_is_shown_and_watched_on(status: str) -> None:
    reading = read({"status": status, "video_url": "https://cdn.example/v.mp4", "error": "no"})
    assert (reading.kind, reading.status, reading.result, reading.error) == (Kind.PENDING, status, None, None)


@pytest.mark.parametrize(
    ("told", "progress"),
    [
        (0, 0.0),
        (0.0, 0.0),
        (0.5, 0.5),
        (1, 0.01),
        (1.0, 1.0),
        (50, 0.5),
        (99.5, 0.995),
        (100, 1.0),
        ("50%", 0.5),
        (" 50 % ", 0.5),
        ("1%", 0.01),
        ("50", 0.5),
        ("0.5", 0.5),
        ("100%", 1.0),
        (101, None),
        (-1, None),
        ("-5%", None),
        ("half", None),
        ("", None),
        ("%", None),
        ("nan", None),
        ("inf%", None),
        (True, None),
        (None, None),
        ([50], None),
        ({"pct": 50}, None),
    ],
)
def test_progress(told: object, progress: float | None) -> None:
    assert read({"status": "pending", "progress": told}).progress == progress


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("status", [200, 404, 429, 500])
def test_a_cut_answer_is_never_believed(status: int, truncated: bool) -> None:
    body = b'{"status":"completed","code":"task_not_exist"}'
    reading = READER.read(Answer(status, {}, body, truncated=truncated), NOW)
    expected = {
        (200, False): Kind.COMPLETED,
        (200, True): Kind.NOT_UNDERSTOOD,
        (404, False): Kind.UNKNOWN_TASK,
    }
    assert reading.kind is expected.get((status, truncated), Kind.NOT_ANSWERED)


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "//cdn.example/v.mp4",
        "cdn.example/v.mp4",
        "https://",
        "https://cdn.example/a b.mp4",
        "https://cdn.example/<script>",
        'https://cdn.example/"',
        "https://cdn.example/\0",
        "https://cdn.example/\x1b[2J",
        "https://cdn.example/" + "v" * MAX_LINK,
        7,
        {"href": "https://cdn.example/v.mp4"},
        ["cdn.example/v.mp4"],
    ],
)
def test_what_is_no_link_is_no_result(link: object) -> None:
    reading = read({"status": "completed", "video_url": link})
    assert reading.kind is Kind.COMPLETED
    assert stated(reading) == {}
    beside = read({"status": "completed", "video_url": link, "detail": {"url": "https://cdn.example/v.mp4"}})
    assert stated(beside) == {"url": "https://cdn.example/v.mp4"}


def test_no_nul_comes_through() -> None:
    """PostgreSQL refuses NUL in a text, and one answer must not keep a watch from being saved."""
    text = "a\0b"
    readings = [
        read({"status": "comp\0leted", "video_url": "https://a.example/\0", "enhanced_prompt": text}),
        read({"status": "\0"}),
        read({"status": "weird\0status"}),
        read({"status": "failed", "error": {"code": text, "message": text}}),
        read({"status": "error", "message": text}),
        read({"message": text, "code": "task_not_exist\0"}),
        read({"code": text, "message": text}, 400),
        read({"error": {"type": text}, "message": text}, 429),
        read(b"", 302, location="https://a.example/\0"),
        read(b"\0" * 100),
        read(b"\0" * 100, 404),
    ]
    for reading in readings:
        assert b"\\u0000" not in words(reading)
    assert readings[0].status == "completed"
    assert readings[2].status == "weirdstatus"
    assert readings[3].error == {"code": "ab", "message": "ab"}


def test_an_error_that_is_a_code_and_no_more_is_told_by_it() -> None:
    code, said = "content_policy_violation", "with the code 'content_policy_violation'"
    failed = read({"status": "failed", "error": {"code": code}})
    refused = read({"code": code}, 400)
    assert failed.error == {"code": code, "message": f"the upstream says 'failed' {said}"}
    assert refused.error == {"code": code, "message": f"the upstream answered HTTP 400 {said}"}


def test_long_texts_are_cut() -> None:
    failed = read({"status": "failed", "error": {"code": "c" * 10_000, "message": "m" * 10_000}})
    assert failed.error == {"code": "c" * MAX_STATUS, "message": "m" * MAX_TEXT}
    assert read({"status": "s" * 10_000}).status == "s" * MAX_STATUS


@pytest.mark.parametrize(
    "expression",
    ["length(status)", "sum(@)", "keys(n)", "n[::0]", "to_number(status) > n", "join(', ', n)"],
)
def test_an_expression_that_does_not_fit_the_answer_finds_nothing(expression: str) -> None:
    statuses = Statuses(completed=("done",), failed=("no",))
    reader = Reader(Read.model_validate({"status": [expression, "status"]}), statuses, Errors())
    for number in (1, [1], {}):
        reading = reader.read(Answer(200, {}, json.dumps({"n": number, "status": "done"}).encode()), NOW)
        assert (reading.kind, reading.status) == (Kind.COMPLETED, "done")


def test_a_query_without_an_answer() -> None:
    assert not_answered("timeout", "too slow") == Reading(
        Kind.NOT_ANSWERED, error={"code": "timeout", "message": "too slow"}
    )


# ------------------------------------------------------------------------------------- everything else that may come


def words(value: Any) -> set[str]:
    """Every field name in the JMESPath expressions of a definition."""
    if isinstance(value, dict):
        return set().union(*map(words, value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(words, value))
    return set(re.findall(r"[a-z_]+", value)) if isinstance(value, str) else set()


LISTS = DEFINITION.statuses.model_dump()
STATUSES = sorted(status for group in LISTS.values() for status in group)
NAMES = st.sampled_from(sorted(words(DEFINITION.read.model_dump())))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from(STATUSES),
    st.sampled_from(STATUSES).map(str.upper),
    st.sampled_from(["50%", "https://cdn.example/v.mp4?se=2025", "comp\0leted", "task_not_exist", "passed", ""]),
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6)
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=8)
PAGES = st.sampled_from(
    [
        b"<!doctype html><title>502 Bad Gateway</title>",
        b"<html>completed</html>",
        b"error code: 520",
        b"",
        b" \r\n",
        b"OK",
    ]
)
DUMPED = (OBJECTS | JSON).map(lambda value: json.dumps(value).encode())
BODIES = st.one_of(
    DUMPED,
    DUMPED.map(lambda raw: b"\xef\xbb\xbf" + raw),
    st.tuples(DUMPED, st.floats(0, 1)).map(lambda cut: cut[0][: int(len(cut[0]) * cut[1])]),
    OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16", "replace")),
    PAGES,
    st.binary(max_size=200),
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "location", "content-type", "content-encoding"]),
    st.text(max_size=30) | st.sampled_from(["5", "9" * 400, "Wed, 21 Oct 2015 07:28:00 GMT"]),
)
CODES = (
    st.just(200) | st.sampled_from([201, 204, 302, 400, 401, 402, 403, 404, 408, 429, 500, 503]) | st.integers(0, 999)
)


def texts(value: Any) -> list[str]:
    """Every text in a JSON value, as a status would be compared."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value.replace("\0", "").strip().lower()] if isinstance(value, str) else []


def words(reading: Reading) -> bytes:
    """All that a reading says but the answer itself."""
    return orjson.dumps(reading._replace(body=None, aside=None)._asdict())


def check(reading: Reading, status: int, body: bytes) -> None:
    """That a reading is one of the closed set, and ends a task only with the upstream's own explicit word."""
    assert type(reading) is Reading
    assert isinstance(reading.kind, Kind)
    if reading.kind in (Kind.COMPLETED, Kind.FAILED):
        assert 200 <= status < 300
        assert reading.status in LISTS[reading.kind]
        document = json.loads(reading.body or b"")
        assert reading.status in texts(document) or not {"Resp", "done", "data", "response"}.isdisjoint(document)
    assert (reading.result is not None) == (reading.kind is Kind.COMPLETED)
    assert (reading.error is None) == (reading.kind in (Kind.PENDING, Kind.COMPLETED))
    assert reading.progress is None or 0 <= reading.progress <= 1
    assert reading.retry_after is None or reading.retry_after >= 0
    assert not reading.limited or (reading.kind is Kind.NOT_ANSWERED and status in (402, 403, 429))
    if reading.status is not None:
        assert 0 < len(reading.status) <= MAX_STATUS
    if reading.error is not None:
        assert set(reading.error) == {"code", "message"}
        assert 0 < len(reading.error["code"]) <= MAX_STATUS
        assert 0 < len(reading.error["message"]) <= MAX_TEXT
    kept = [one for one in (reading.body, reading.aside) if one is not None]
    assert not reading.repaired or kept
    assert (reading.body is not None) == (reading.kind in (Kind.PENDING, Kind.COMPLETED, Kind.FAILED))
    assert len(kept) <= 1
    assert all(isinstance(orjson.loads(one), dict) for one in kept)
    assert reading.http_status == (status if kept else 200)
    assert b"\\u0000" not in words(reading)


@settings(QUIET, max_examples=400)
@given(CODES, HEADERS, BODIES, st.booleans())
@example(200, {}, b'{"status":"\\u0000completed"}', False)
@example(404, {"retry-after": "9" * 400}, b"", False)
@example(302, {"location": "\0"}, b"", False)
@example(200, {}, b'{"status":"completed","video_url":"https://[/?se=1"}', False)
def test_whatever_comes_back_is_a_reading(code: int, headers: dict[str, str], body: bytes, truncated: bool) -> None:
    check(READER.read(Answer(code, headers, body, truncated), NOW), code, body)


@settings(QUIET, max_examples=250)
@given(OBJECTS, st.sampled_from(STATUSES))
def test_any_object_with_a_status_is_a_reading(fields: dict[str, Any], status: str) -> None:
    body = json.dumps({**fields, "status": status}).encode()
    check(READER.read(Answer(200, {}, body), NOW), 200, body)


@pytest.mark.parametrize("opening", [b"[", b'{"status":', b'{"status":"completed","detail":', b'{"data":'])
@pytest.mark.parametrize("code", [200, 404, 429])
def test_nesting_of_a_hundred_thousand_levels(opening: bytes, code: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    reading = read(opening * 100_000 + b'"completed"' + closing * 100_000, code)
    assert reading.kind is (Kind.NOT_UNDERSTOOD if code == 200 else Kind.NOT_ANSWERED)


TEN_MEGABYTES = [
    pytest.param(b'{"status":"completed","x":[%s0]}' % (b'"%s",' % (b"x" * 1000) * 10_000), id="texts"),
    pytest.param(b'{"x":[%s0],"status":"completed"}' % (b"[]," * 3_333_333), id="empty lists"),
]


@pytest.mark.parametrize("body", TEN_MEGABYTES)
def test_of_ten_megabytes_nothing_is_parsed(body: bytes) -> None:
    answer = Answer(200, {}, body[:MAX_KEPT], truncated=True)
    reading, peak = measured(answer)
    assert (reading.kind, reading.body) == (Kind.NOT_UNDERSTOOD, None)
    assert peak < 100_000


@pytest.mark.parametrize("unit", [b'"%s",' % (b"x" * 1000), b"[],", b"0,"])
def test_the_longest_answer_that_is_read_takes_bounded_memory(unit: bytes) -> None:
    """orjson takes 13 times the length for itself, and empty lists as much again."""
    body = b'{"status":"pending","x":[%s0]}' % (unit * ((MAX_KEPT - 100) // len(unit)))
    reading, peak = measured(Answer(200, {}, body))
    assert (reading.kind, reading.body) == (Kind.PENDING, body)
    assert peak < 40 * MAX_KEPT


def measured(answer: Answer) -> tuple[Reading, int]:
    """A reading and the most memory that it took."""
    tracemalloc.start()
    try:
        return READER.read(answer, NOW), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------- when a link expires


@pytest.mark.parametrize(
    ("query", "expires_at"),
    [
        ("se=2025-10-12T15%3A04%3A21Z&sig=x", "2025-10-12T15:04:21.000Z"),
        ("se=2025-10-12T15:04:21Z", "2025-10-12T15:04:21.000Z"),
        ("se=2025-10-12T15%3A04%3A21.1234567Z", "2025-10-12T15:04:21.123Z"),
        ("se=2025-10-12T15%3A04%3A21%2B02%3A00", "2025-10-12T13:04:21.000Z"),
        ("se=2025-10-12", "2025-10-12T00:00:00.000Z"),
        ("SE=2025-10-12", "2025-10-12T00:00:00.000Z"),
        ("Expires=1760281461&Signature=x&Key-Pair-Id=y", "2025-10-12T15:04:21.000Z"),
        ("OSSAccessKeyId=x&Expires=1760281461&Signature=y", "2025-10-12T15:04:21.000Z"),
        ("X-Amz-Date=20251012T140421Z&X-Amz-Expires=3600&X-Amz-Signature=x", "2025-10-12T15:04:21.000Z"),
        ("X-Goog-Date=20251012T140421Z&X-Goog-Expires=3600", "2025-10-12T15:04:21.000Z"),
        ("x-oss-date=20251012T140421Z&x-oss-expires=3600", "2025-10-12T15:04:21.000Z"),
        ("X-Tos-Date=20251012T140421Z&X-Tos-Expires=3600", "2025-10-12T15:04:21.000Z"),
        ("", None),
        ("token=abc", None),
        ("se=", None),
        ("se=soon", None),
        ("se=1760281461", None),
        ("Expires=never", None),
        ("Expires=1760281461000", None),
        ("Expires=" + "9" * 5000, None),
        ("Expires=-99999999999999", None),
        ("X-Amz-Expires=3600", None),
        ("X-Amz-Date=20251012T140421Z", None),
        ("X-Amz-Date=yesterday&X-Amz-Expires=3600", None),
        ("X-Amz-Date=20251012T140421Z&X-Amz-Expires=" + "9" * 30, None),
        ("X-Amz-Date=20251012T140421Z&X-Goog-Expires=3600", None),
        ("se=0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("se=0001-01-01T00:00:00%2B23:59", None),
        ("se=%00", None),
        ("%ff=%ff", None),
    ],
)
def test_link_expiry(query: str, expires_at: str | None) -> None:
    assert link_expiry(f"https://cdn.example/v.mp4?{query}") == expires_at


def test_a_date_without_a_zone_is_utc_wherever_relay_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        expiries = [link_expiry(f"https://a.example/?se={date}") for date in ("2025-10-12", "2025-10-12T15:04:21")]
    time.tzset()
    assert expiries == ["2025-10-12T00:00:00.000Z", "2025-10-12T15:04:21.000Z"]


@pytest.mark.parametrize(
    "url", ["", "?", "https://[", "https://cdn.example/v.mp4#se=2025-10-12", "\0", "http://a:b/?c"]
)
def test_link_expiry_of_what_has_none(url: str) -> None:
    assert link_expiry(url) is None


@QUIET
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["se", "Expires", "X-Amz-Date", "X-Amz-Expires", "X-Goog-Date", "X-Goog-Expires"]),
            st.text(max_size=20)
            | st.integers().map(str)
            | st.datetimes().map(lambda moment: moment.isoformat() + "Z")
            | st.datetimes().map(lambda moment: moment.strftime("%Y%m%dT%H%M%SZ")),
        ),
        max_size=4,
    )
)
def test_link_expiry_is_rfc3339_or_nothing(fields: list[tuple[str, str]]) -> None:
    expires_at = link_expiry("https://cdn.example/?" + "&".join(f"{name}={value}" for name, value in fields))
    assert expires_at is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", expires_at)
