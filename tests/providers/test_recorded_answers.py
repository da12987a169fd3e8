"""Every answer in tests/answers/NAME/cases.toml, read by the file of that name. One table for all providers."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from relay.model.reading import Kind, Reading
from relay.providers.definition import Definition, load_definition
from relay.providers.document import Answer
from relay.providers.recorded import Recorded, read_recorded

ROOT = Path(__file__).parents[2]
PROVIDERS = sorted(file.stem for file in (ROOT / "config/providers").glob("*.toml"))
RECORDED = ROOT / "tests/answers"
CASES = [
    pytest.param(file.parent, case, id=f"{file.parent.name}: {case['name']}")
    for file in sorted(RECORDED.glob("*/cases.toml"))
    for case in tomllib.loads(file.read_text("utf-8"))["case"]
]
ADDRESS = "https://upstream.example"
"""Of an upstream whose file has none."""


@cache
def definition(name: str) -> Definition:
    return load_definition(ROOT / f"config/providers/{name}.toml", {})


def read(name: str, case: dict[str, Any], folder: Path) -> Recorded:
    body = (folder / case["body_file"]).read_bytes() if "body_file" in case else case.get("body", "").encode()
    headers = {header.lower(): value for header, value in case.get("headers", {}).items()}
    names = {"task_id": case["task_id"]} if "task_id" in case else {}
    address = definition(name).request.base_url or ADDRESS
    answer = Answer(
        case.get("http_status", 200), headers, body, case.get("truncated", False), base_url=address, names=names
    )
    second = Answer(200, {}, case["follow"].encode(), base_url=address) if "follow" in case else None
    return read_recorded(definition(name), answer, second, 0)


def stated(reading: Reading) -> dict[str, Any]:
    """Return the result without what it does not say; `urls` only where it has more than `url`."""
    result: dict[str, Any] = dict(reading.result or {})
    if result.get("urls") == [result.get("url")]:
        del result["urls"]
    return {name: value for name, value in result.items() if value not in (None, False, [])}


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_an_answer_is_read_as_its_case_says(folder: Path, case: dict[str, Any]) -> None:
    reading, _ = read(folder.name, case, folder)
    error = dict(reading.error) if reading.error else None
    expected_error = case.get("error")
    if error and expected_error and "message" not in expected_error:
        assert error.pop("message")
    got = (reading.kind, reading.status, reading.progress, stated(reading), error, reading.retry_after)
    assert got == (
        case["kind"],
        case.get("status"),
        case.get("progress"),
        case.get("result", {}),
        expected_error,
        case.get("retry_after"),
    )
    if "limited" in case:
        assert reading.limited == case["limited"]
    if "asks" in case:
        without = {name: value for name, value in case.items() if name != "follow"}
        _, asks = read(folder.name, without, folder)
        assert ("no second request" if case["asks"] == "nothing" else f"GET {case['asks']}:") in asks


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "sandbox"])
def test_every_provider_has_an_answer_for_what_its_file_tells_apart(name: str) -> None:
    file = RECORDED / name / "cases.toml"
    cases = tomllib.loads(file.read_text("utf-8"))["case"]
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names)
    kinds = {case["kind"] for case in cases}
    assert {Kind.PENDING, Kind.COMPLETED} <= kinds
    statuses = definition(name).statuses
    if statuses.failed or "failed" in statuses.http.values():
        assert Kind.FAILED in kinds
    errors = definition(name).errors
    if statuses.unknown_task or errors.unknown_task_codes or errors.unknown_task_http or errors.task_names:
        assert Kind.UNKNOWN_TASK in kinds


def test_no_recorded_answer_is_without_its_file() -> None:
    assert {folder.name for folder in RECORDED.iterdir()} == set(PROVIDERS) - {"sandbox"}
