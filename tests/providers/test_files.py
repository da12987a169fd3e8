"""Which provider files a deployment reads, when, and what it says about one that is wrong or needs a key."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.errors import ConfigError
from relay.outbound.prepared import OverHttpx
from relay.providers.files import ProviderFiles
from relay.settings.sources import load
from relay.simulators.upstream import SandboxTransport
from relay.wiring import load_providers
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Receiver, Upstream, until

SHIPPED = Path(__file__).parents[2] / "config/providers"

WRONG = "[request]\npath = 1\n"
"""What stops whoever reads it."""

OPEN = """
[request]
base_url = "https://open.example"
path = "/tasks/{task_id}"
[read]
status = "status"
[statuses]
completed = ["done"]
failed = ["failed"]
"""
"""A file that needs no key."""


TARGET = {"type": "webhook", "url": "http://127.0.0.1:9/"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of configuration with three files as they are shipped, one that needs no key, and one that is wrong."""
    providers = tmp_path / "config/providers"
    providers.mkdir(parents=True)
    for name in ("unified-video", "sandbox", "runway"):
        shutil.copy(SHIPPED / f"{name}.toml", providers)
    (providers / "open.toml").write_text(OPEN, "utf-8")
    (providers / "wrong.toml").write_text(WRONG, "utf-8")
    return providers.parent


def environ_of(folder: Path, **more: str) -> dict[str, str]:
    return environment(f"sqlite:///{folder.parent / 'relay.db'}", RELAY_CONFIG=str(folder), **more)


def started(folder: Path, **more: str) -> ProviderFiles:
    """What a start loads."""
    environ = environ_of(folder, **more)
    return load_providers(load(environ), OverHttpx(SandboxTransport()), environ)


def refusal(folder: Path, **more: str) -> str:
    with pytest.raises(ConfigError) as refused:
        started(folder, **more)
    assert "\n" not in refused.value.detail
    return refused.value.detail


async def registered(
    relay: Deployment, task_id: str, provider: str | None, **fields: Any
) -> tuple[int, dict[str, Any]]:
    body = {"task_id": task_id, "targets": [TARGET], **fields}
    answer = await relay.http.post("/v1/watches", json={**body, **({"provider": provider} if provider else {})})
    return answer.status_code, answer.json()


# ------------------------------------------------------------------------------------------------- when files are read


def test_a_start_reads_no_file_that_nothing_uses(folder: Path) -> None:
    providers = started(folder)
    assert sorted(providers) == ["open", "runway", "sandbox", "unified-video", "wrong"]
    assert providers["open"] is providers["open"], "parsed once"


@pytest.mark.parametrize(
    "used",
    [
        {"RELAY_PROVIDER": "wrong"},
        {"WRONG_API_KEY": "sk-1"},
        {"WRONG_BASE_URL": "https://wrong.example"},
        {"WRONG_API_KEY_FILE": "/dev/null"},
    ],
)
def test_a_wrong_file_that_is_certainly_used_stops_the_start(used: dict[str, str], folder: Path) -> None:
    assert refusal(folder, **used).startswith(f"{folder}/providers/wrong.toml: request.path: ")


def test_a_wrong_address_and_a_key_file_that_is_not_there_stop_the_start(folder: Path) -> None:
    assert refusal(folder, RUNWAY_BASE_URL="nowhere").startswith("RUNWAY_BASE_URL: ")
    assert refusal(folder, RUNWAY_API_KEY_FILE="/nowhere").startswith("RUNWAY_API_KEY_FILE: ")


@pytest.mark.anyio
async def test_a_wrong_file_is_told_to_who_uses_it_and_logged_once(folder: Path) -> None:
    with capture_logs() as lines:
        async with deployment(environ_of(folder), working=False) as relay:
            for _ in range(2):
                status, problem = await registered(relay, "task", "wrong")
                assert (status, problem["errors"][0]["pointer"]) == (422, "/provider")
                assert "ask the operator" in problem["detail"]
                assert str(folder) not in problem["detail"]
            assert (await registered(relay, "task", "open"))[0] == 201
            listed = (await relay.http.get("/v1/providers")).json()["data"]
            assert [provider["name"] for provider in listed] == ["open", "runway", "sandbox", "unified-video"]
            assert (await relay.http.get("/")).status_code == 200
    (line,) = [line for line in lines if line["event"] == "provider cannot be used"]
    assert (line["provider"], line["log_level"]) == ("wrong", "error")
    assert "wrong.toml: request.path: " in line["mistake"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (WRONG, "'open' cannot be used here, because its file has a mistake"),
        (None, "'open' is not declared here"),
        (OPEN.replace("[read]", 'headers = { X-Key = "{key}" }\n[read]'), "'open' has no API key here"),
    ],
    ids=["wrong", "gone", "keyless"],
)
async def test_polls_that_cannot_be_made_any_more_are_put_off(
    text: str | None, reason: str, folder: Path, receiver: Receiver
) -> None:
    target = {"type": "webhook", "url": f"{receiver.url}/hook"}
    async with deployment(environ_of(folder), working=False) as relay:
        status, _ = await registered(relay, "task", "open", targets=[target], expires_in=1)
        assert status == 201
    file = folder / "providers/open.toml"
    if text is None:
        file.unlink()
    else:
        file.write_text(text, "utf-8")
    async with deployment(environ_of(folder)):
        (post,) = await receiver.wait_for(1)
    data = post.event["data"]
    assert (data["state"], data["error"]["code"]) == ("expired", "deadline_passed")
    assert reason in data["error"]["message"]


# ---------------------------------------------------------------------------------------------- which files may be used


@pytest.mark.anyio
async def test_files_that_may_not_be_used_are_as_if_not_declared(folder: Path) -> None:
    assert sorted(started(folder, RELAY_PROVIDERS="runway, unified-video")) == ["runway", "unified-video"]
    environ = environ_of(folder, RELAY_PROVIDERS="unified-video,sandbox", RUNWAY_API_KEY="sk-1")
    async with deployment(environ, working=False) as relay:
        status, problem = await registered(relay, "task", "runway")
        assert (status, problem["errors"][0]["pointer"]) == (422, "/provider")
        assert "'runway' is not declared here; GET /v1/providers lists what is" in problem["detail"]
        assert "did you mean 'unified-video'?" in (await registered(relay, "task", "Unified_Video"))[1]["detail"]
        assert (await registered(relay, "sandbox:never", "sandbox"))[0] == 201


def test_a_provider_that_there_is_not_stops_the_start_with_what_was_perhaps_meant(folder: Path) -> None:
    where = f"{folder}/providers"
    assert refusal(folder, RELAY_PROVIDERS="runwey,sandbox") == (
        f"RELAY_PROVIDERS: 'runwey' is not declared in {where}; did you mean 'runway'?"
    )
    assert refusal(folder, RELAY_PROVIDER="unified_video") == (
        f"RELAY_PROVIDER: 'unified_video' is not declared in {where}; did you mean 'unified-video'?"
    )
    assert refusal(folder, RELAY_PROVIDERS="zzz").endswith("; there is open, runway, sandbox, unified-video, wrong")


@pytest.mark.anyio
async def test_the_default_provider_has_to_be_among_those_that_may_be_used_if_it_is_set(folder: Path) -> None:
    assert refusal(folder, RELAY_PROVIDER="unified-video", RELAY_PROVIDERS="runway") == (
        "RELAY_PROVIDER: 'unified-video' is not among RELAY_PROVIDERS; there is runway"
    )
    async with deployment(environ_of(folder, RELAY_PROVIDERS="open"), working=False) as relay:
        status, problem = await registered(relay, "task", None)
        assert (status, problem["errors"][0]["pointer"]) == (422, "/provider")
        assert (await registered(relay, "task", "open"))[0] == 201


def test_the_sandbox_is_not_declared_where_it_is_off(folder: Path) -> None:
    assert "sandbox" not in list(started(folder, RELAY_SANDBOX="0"))
    assert started(folder, RELAY_SANDBOX="0", SANDBOX_BASE_URL="https://s.example")["sandbox"].host == "s.example"


# ---------------------------------------------------------------------------------------------------- which need a key


@pytest.mark.anyio
async def test_a_watch_that_would_be_asked_about_without_its_key_is_refused(folder: Path) -> None:
    (folder / "providers/child.toml").write_text('extends = "runway"\n', "utf-8")
    async with deployment(environ_of(folder), working=False) as relay:
        for provider, variable in {"runway": "RUNWAY_API_KEY", "child": "CHILD_API_KEY"}.items():
            status, problem = await registered(relay, "task", provider)
            assert (status, problem["errors"][0]["pointer"]) == (422, "/provider")
            assert f"set {variable}, or give the watch its own 'upstream_key'" in problem["detail"]
        assert (await registered(relay, "task", "runway", upstream_key="sk-own"))[0] == 201
        assert (await registered(relay, "task", "runway"))[0] == 200, "the watch has its key"
        assert (await registered(relay, "another", "runway"))[0] == 422
        watches = [{"task_id": "third", "provider": name, "targets": [TARGET]} for name in ("runway", "open")]
        batch = await relay.http.post("/v1/watches/batch", json={"watches": watches})
        assert [item["status"] for item in batch.json()["data"]] == [422, 201]
    async with deployment(environ_of(folder, RUNWAY_API_KEY="sk-1"), working=False) as relay:
        assert (await registered(relay, "another", "runway"))[0] == 201


@pytest.mark.anyio
async def test_a_gateway_whose_address_is_the_deployments_needs_no_key(folder: Path, upstream: Upstream) -> None:
    environ = environ_of(folder, UNIFIED_VIDEO_BASE_URL=upstream.url)
    del environ["UNIFIED_VIDEO_API_KEY"]
    async with deployment(environ) as relay:
        status, watch = await registered(relay, "task", None)
        assert status == 201
        assert (await relay.http.get("/v1/video/query?id=unwatched")).status_code == 200

        async def polled() -> bool:
            return (await relay.watch(watch["id"]))["polls"] > 0

        await until(polled)
    assert all("authorization" not in headers for _, headers in upstream.heads)


@pytest.mark.anyio
async def test_the_mirror_asks_nothing_without_the_key(folder: Path) -> None:
    async with deployment(environ_of(folder, RELAY_PROVIDER="runway"), working=False) as relay:
        answer = await relay.http.get("/v1/video/query?id=task")
    assert answer.status_code == 502
    assert answer.json()["detail"] == "'runway' needs an API key: set RUNWAY_API_KEY"


@pytest.mark.anyio
async def test_the_deadline_is_the_registrations_else_the_files_else_the_configured_one(folder: Path) -> None:
    (folder / "providers/long.toml").write_text('extends = "open"\n[cadence]\nexpires_in = "49h"\n', "utf-8")
    (folder / "providers/longer.toml").write_text('extends = "open"\n[cadence]\nexpires_in = "90d"\n', "utf-8")
    async with deployment(environ_of(folder), working=False) as relay:
        for provider, more, hours in [
            ("long", {"expires_in": 3600}, 1),
            ("long", {}, 49),
            ("longer", {}, 30 * 24),
            ("open", {}, 24),
        ]:
            status, watch = await registered(relay, f"task-{hours}", provider, **more)
            assert status == 201
            times = [datetime.fromisoformat(watch[name]) for name in ("created_at", "expires_at")]
            assert (times[1] - times[0]).total_seconds() == pytest.approx(hours * 3600, abs=1)


# ----------------------------------------------------------------------------------------- whose ids have several parts


@pytest.mark.anyio
async def test_an_id_that_lacks_a_part_is_refused_with_the_form(folder: Path) -> None:
    request = '[request]\nid = "{document}/{secret}"\npath = "/{document}"\nquery = { s = "{secret}" }\n'
    (folder / "providers/parted.toml").write_text(f'extends = "open"\n{request}', "utf-8")
    async with deployment(environ_of(folder, RELAY_PROVIDER="parted"), working=False) as relay:
        status, problem = await registered(relay, "only-one", "parted")
        assert (status, problem["errors"][0]["pointer"]) == (422, "/task_id")
        assert "must be of the form {document}/{secret}" in problem["errors"][0]["detail"]
        assert (await registered(relay, "one/other", "parted"))[0] == 201
        mirrored = await relay.http.get("/v1/video/query?id=only-one")
        assert (mirrored.status_code, mirrored.json()["errors"][0]["pointer"]) == (422, "/id")
