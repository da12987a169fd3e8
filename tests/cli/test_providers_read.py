"""`relay providers read`: how a recorded answer is read, without a network."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli import cli
from relay.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILE = str(ROOT / "config/providers/unified-video.toml")
PROCESSING = b'{"status":"SUCCESS","detail":{"status":"processing","progress":"20%","state":"polishing"}}'


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_CONFIG", str(ROOT / "config"))


def run(*words: str, body: bytes = b"") -> Any:
    result = CliRunner().invoke(cli, ["providers", "read", *words], input=body)
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("provider", ["unified-video", FILE])
def test_it_prints_exactly_what_the_contract_says(provider: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_bytes(PROCESSING)
    result = run(provider, str(answer), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "kind": "pending",
        "status": "processing",
        "progress": 0.2,
        "result": None,
        "error": None,
        "retry_after": None,
        "limited": False,
    }


def test_status_and_headers_are_read_too() -> None:
    words = ("unified-video", "-", "--status", "429", "--header", "Retry-After: 5", "--header", "X-Other: 1", "--json")
    reading = json.loads(run(*words, body=b"").stdout)
    assert (reading["kind"], reading["retry_after"], reading["limited"]) == ("not_answered", 5.0, True)


def test_an_answer_that_relay_would_not_read_whole_is_not_read_here_either() -> None:
    body = b'{"status":"completed","x":"%s"}' % (b"x" * 17_000_000)
    assert json.loads(run("unified-video", "-", "--json", body=body).stdout)["kind"] == "not_understood"


def test_a_completed_answer_comes_with_its_whole_result() -> None:
    body = b'{"status":"completed","videos":[{"url":"https://a.example/1"},{"url":"https://a.example/2"}]}'
    result = json.loads(run("unified-video", "-", "--json", body=body).stdout)["result"]
    assert result["urls"] == ["https://a.example/1", "https://a.example/2"]
    assert (result["url"], result["text"], result["ref"], result["key_needed"]) == (
        result["urls"][0],
        None,
        None,
        False,
    )


def test_people_see_which_path_found_what_and_which_status_nobody_lists() -> None:
    output = run("unified-video", "-", body=PROCESSING).stdout
    assert "read as pending" in output
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "status status (completed) success" in lines
    assert "detail.status status (pending) processing" in lines
    assert "detail.state status (in no list) polishing" in lines
    assert "detail.progress progress 20%" in lines
    assert "in no list of [statuses], so watched on: polishing" in lines


def test_people_see_where_links_and_reasons_stand_and_that_it_was_repaired() -> None:
    completed = run("unified-video", "-", body=b'{"status":"completed","video":{"url":"https://a.example/1"},"x":NaN}')
    assert "video.url result.url https://a.example/1" in " ".join(completed.stdout.split())
    assert '"upstream_repaired": true' in completed.stdout
    failed = run("unified-video", "-", body=b'{"status":"failed","data":{"reason":"no \\u001b[2J capacity"}}')
    assert "data.reason error.message no [2J capacity" in " ".join(failed.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ("unified-video", "-", "--header", "no colon"),
        ("unified-video", "-", "--status", "99"),
        ("unified-video", "-", "--status", "many"),
        ("unified-video",),
        (),
    ],
)
def test_wrong_usage_is_2(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere", "-"), "there is no definition"),
        (("nowhere.toml", "-"), "there is no definition"),
        (("unified-video", "/nowhere/answer.json"), "No such file or directory; give the file of an answer"),
        (("unified-video", "/"), "Is a directory"),
    ],
)
def test_what_cannot_be_read_is_one_line(words: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(cli, ["providers", "read", *words])
    assert isinstance(result.exception, ConfigError)
    assert says in result.exception.detail
    assert "\n" not in result.exception.detail


def test_a_result_behind_a_second_request_is_read_from_both_answers(tmp_path: Path) -> None:
    first = b'{"status":"Success","file_id":"f-1"}'
    second = tmp_path / "second.json"
    second.write_bytes(b'{"file":{"download_url":"https://cdn.example/film.mp4"}}')
    both = json.loads(run("minimax-v1", "-", "--follow", str(second), "--json", body=first).stdout)
    assert (both["kind"], both["result"]["url"]) == ("completed", "https://cdn.example/film.mp4")
    without = run("minimax-v1", "-", body=first)
    assert "read as completed" in without.stdout
    assert "GET /v1/files/retrieve?file_id=f-1: give the answer to it with --follow" in without.stdout
    assert json.loads(run("minimax-v1", "-", "--json", body=first).stdout)["kind"] == "completed"
    assert "no [follow]" in run("unified-video", "-", "--follow", str(second), body=PROCESSING).stdout
    assert run("minimax-v1", "-", "--follow", "-", body=first).exit_code == 2
