"""`relay providers show`: one provider file, for people and for scripts."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli import cli
from relay.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "config/providers").glob("*.toml"))
KEY = "sk-of-the-deployment"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_CONFIG", str(ROOT / "config"))


def show(*words: str) -> str:
    result = CliRunner().invoke(cli, ["providers", "show", *words])
    assert result.exit_code == 0, result.exception
    return result.stdout


def facts(name: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(show(name, "--json"))
    return shown


def test_a_script_reads_what_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BATCH_API_KEY", KEY)
    shown = facts("openai-batch")
    assert shown["name"] == "openai-batch"
    assert (shown["title"], shown["noun"]) == ("OpenAI batch", "Batch")
    assert shown["about"].startswith("Batches of OpenAI's Batch API")
    assert shown["asks"] == "GET https://api.openai.com/v1/batches/{task_id}"
    assert shown["address"] == {"variable": "OPENAI_BATCH_BASE_URL", "set": False}
    assert shown["key"] == {"variable": "OPENAI_BATCH_API_KEY", "set": True}
    assert shown["links_need_key"] is True
    assert shown["reads"]["status"] == ["status"]
    assert shown["reads"]["progress.of"] == ["request_counts.total"]
    assert shown["reads"]["result.ref"] == ["output_file_id", "error_file_id"]
    assert shown["statuses"]["failed"] == ["failed", "expired", "cancelled"]
    assert (shown["cadence"]["first"], shown["cadence"]["steady"]) == (30, 120)
    assert shown["budget"] == {"concurrency": 100, "per_second": None}


def test_a_scale_is_shown_with_what_stands_on_it() -> None:
    shown = facts("tripo")["reads"]
    assert (shown["progress.done"], shown["progress.of"]) == (["data.progress"], ["100"])


def test_a_person_reads_it_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BATCH_API_KEY", KEY)
    lines = [" ".join(line.split()) for line in show("openai-batch").splitlines()]
    assert lines[0] == "openai-batch: OpenAI batch (Batch)"
    assert "key OPENAI_BATCH_API_KEY is set" in lines
    assert "failed failed, expired, cancelled" in lines
    assert "asked after 30 s, in the end 120 s" in lines
    assert "links open only with the provider's key" in lines
    assert not [line for line in lines if line.startswith("address")], "it has one"


def test_what_has_to_be_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = show("jenkins-build")
    assert "JENKINS_BUILD_BASE_URL is not set" in before
    assert "JENKINS_BUILD_API_KEY is not set" in before
    monkeypatch.setenv("JENKINS_BUILD_BASE_URL", "https://builds.example")
    after = show("jenkins-build")
    assert "JENKINS_BUILD_BASE_URL is set" in after
    assert "GET https://builds.example/" in after


def test_a_key_of_several_parts_is_shown_with_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRBYTE_JOB_BASE_URL", "https://airbyte.example")
    shown = facts("airbyte-job")
    assert shown["key_form"] == "CLIENT_ID:CLIENT_SECRET"
    assert shown["tokens"] == {
        "from": "https://airbyte.example/v1/applications/token",
        "variable": "AIRBYTE_JOB_TOKEN_URL",
        "set": False,
    }
    monkeypatch.setenv("AIRBYTE_JOB_TOKEN_URL", "https://tokens.example/")
    assert facts("airbyte-job")["tokens"]["from"] == "https://tokens.example/"
    lines = [" ".join(line.split()) for line in show("kling").splitlines()]
    assert "key KLING_API_KEY is not set" in lines
    assert "form of the key ACCESS_KEY:SECRET_KEY" in lines
    assert facts("openai-batch")["key_form"] is None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_can_be_shown(file: Path) -> None:
    assert show(str(file)).startswith(f"{file.stem}: ")
    assert facts(str(file))["reads"]["status"]


def test_no_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSEMBLYAI_API_KEY", KEY)
    assert KEY not in show("assemblyai") + show("assemblyai", "--json")


def test_the_sandbox_needs_nothing() -> None:
    assert facts("sandbox")["key"] is None


def test_a_name_that_nothing_has_is_an_error_that_says_so() -> None:
    result = CliRunner().invoke(cli, ["providers", "show", "nobody"])
    assert isinstance(result.exception, ConfigError)
    assert "relay providers list" in result.exception.detail


def test_what_is_asked_beside_the_task_itself() -> None:
    assert facts("minimax-v1")["asks_for_result"] == "GET https://api.minimax.io/v1/files/retrieve?file_id={file_id}"
    assert facts("fal-queue")["asks_for_result"] == "GET response_url"
    assert facts("minimax-v1")["reads"]["result.url"] == ["file.download_url", "file.backup_download_url"]
    assert facts("volc-ark")["asks_about_many"].startswith("GET https://ark.cn-beijing.volces.com/api/v3/contents/")
    assert facts("runway")["asks_about_many"] is None
    assert facts("together-queue")["id"] == "{model_path}/{request_id}"
    assert "for the result" in show("fal-queue")
    assert "POST /mj/task/list-by-condition" in show("midjourney-proxy")


def test_check_tells_every_mistake(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text('colour = 1\n[request]\npath = 7\n[read]\nstatus = "s"\n[statuses]\ncompleted = []\n')
    result = CliRunner().invoke(cli, ["providers", "check", str(file)])
    told = f"{result.output}{result.exception}"
    for mistake in ("request.path: must be a text (line 3)", "statuses.completed: must name", "colour: is no key"):
        assert told.count(f"{file}: {mistake}") == 1
    as_json = CliRunner().invoke(cli, ["providers", "check", str(file), "--json"])
    assert as_json.exit_code == 1
    assert len(json.loads(as_json.output)["mistakes"]) == 3
