"""`relay providers new`: a first provider file, from recorded answers."""

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli import cli
from relay.errors import ConfigError
from relay.providers.definition import load_definition

ROOT = Path(__file__).parents[2]

RUNNING = {
    "code": "success",
    "data": {"taskId": "t1", "state": "RUNNING", "percent": 40, "callback_url": "https://a.b"},
}
DONE = {
    "code": "success",
    "data": {
        "taskId": "t1",
        "state": "SUCCEEDED",
        "percent": 100,
        "callback_url": "https://a.b/c",
        "input": {"image_url": "https://in.example/1.png"},
        "output": {
            "cover_url": "https://cdn.example/still.jpg",
            "videos": [{"video-url": "https://cdn.example/1.mp4"}, {"video-url": "https://cdn.example/2.mp4"}],
        },
    },
}
FAILED = {"code": "success", "data": {"taskId": "t1", "state": "FAILED", "failReason": "no such style", "failCode": 7}}
ODD = {"code": "success", "data": {"taskId": "t1", "state": "Grooming"}}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "config/providers", tmp_path / "config/providers")
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def new(folder: Path, *answers: Any, name: str = "my-video", as_json: bool = True) -> Any:
    words = ["providers", "new", name]
    for number, answer in enumerate(answers):
        file = folder / f"{number}.json"
        file.write_bytes(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        words += ["--answer", str(file)] if number % 2 == 0 else [str(file)]  # `--answer FILE FILE` is the same
    result = CliRunner().invoke(cli, words + ["--json"] * as_json)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result


def test_the_file_that_it_writes_reads_the_answers(config: Path, tmp_path: Path) -> None:
    said = json.loads(new(tmp_path, RUNNING, DONE, FAILED, ODD).stdout)
    definition = load_definition(config / "providers/my-video.toml", {"MY_VIDEO_BASE_URL": "https://up.example"})
    assert definition.statuses.lists["completed"] == ("succeeded",)
    assert said["guessed"]["id"] == "data.taskId"
    assert said["guessed"]["status"] == "data.state"
    kinds = [said["read"][str(tmp_path / f"{number}.json")].partition(",")[0] for number in range(4)]
    assert kinds == ["pending", "completed", "failed", "pending"]
    assert any("what 'grooming' means" in line for line in said["to_fill_in"])

    def read(number: int) -> Any:
        words = ["providers", "read", "my-video", str(tmp_path / f"{number}.json"), "--json"]
        return json.loads(CliRunner().invoke(cli, words).stdout)

    assert read(0)["progress"] == 0.4
    assert read(1)["result"]["urls"] == ["https://cdn.example/1.mp4", "https://cdn.example/2.mp4"]
    assert read(1)["result"]["thumbnail_url"] == "https://cdn.example/still.jpg"
    assert read(2)["error"] == {"code": "7", "message": "no such style"}
    checked = CliRunner().invoke(cli, ["providers", "check", str(config / "providers/my-video.toml")])
    assert checked.exit_code == 0
    assert "GET /v1/tasks/{task_id}" in checked.stdout


@pytest.mark.parametrize(
    ("answer", "guessed"),
    [
        ([{"status": "done", "text": "hello"}], {"status": "[0].status", "result.text": "[0].text"}),
        ({"done": True, "response": {"x": 1}}, {"status": "done"}),
        ({"an id": "t", "the-status": "done"}, {"status": '"the-status"'}),
        ({"nothing": 'said"\\\u007f\n'}, {}),
        ({"status": 'a"b\\'}, {}),
        ([], {}),
    ],
)
def test_whatever_the_answer_is_the_file_is_well_formed(
    answer: Any, guessed: dict[str, str], config: Path, tmp_path: Path
) -> None:
    said = json.loads(new(tmp_path, answer).stdout)
    assert guessed.items() <= said["guessed"].items()
    load_definition(config / "providers/my-video.toml", {})


def test_people_are_told_what_is_left_to_do(config: Path, tmp_path: Path) -> None:
    told = " ".join(new(tmp_path, RUNNING, as_json=False).stdout.split())
    assert "base_url and path" in told
    assert "no answer was completed or failed: give one with --answer" in told
    assert f"relay providers check {config / 'providers/my-video.toml'}" in told


def test_a_mistake_is_told_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        new(tmp_path, RUNNING, name="runway")
    with pytest.raises(ConfigError, match="is no JSON object"):
        new(tmp_path, b"<html>")
    assert new(tmp_path, RUNNING, name="My_Video").exit_code == 2
    assert new(tmp_path).exit_code == 2
    with pytest.raises(ConfigError, match="No such file"):
        CliRunner().invoke(cli, ["providers", "new", "x", "--answer", "/nowhere"], catch_exceptions=False)
    names = {file.name for file in (config / "providers").iterdir()}
    assert names == {file.name for file in (ROOT / "config/providers").iterdir()}


def test_what_it_writes_is_nobody_elses(config: Path, tmp_path: Path) -> None:
    answer = tmp_path / "done.json"
    answer.write_text(json.dumps(DONE))
    command = [sys.executable, "-m", "relay", "providers", "new", "my-video", "--answer", str(answer)]
    subprocess.run(command, check=True, capture_output=True, umask=0o022)
    assert stat.S_IMODE((config / "providers/my-video.toml").stat().st_mode) == 0o600
