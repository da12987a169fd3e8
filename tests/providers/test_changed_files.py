"""A running relay takes in provider files that are changed or added, and goes on with the former one if it is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.outbound.prepared import OverHttpx
from relay.providers.files import ProviderFiles
from relay.settings.sources import load
from relay.simulators.upstream import SandboxTransport
from relay.store import Database, migrate
from relay.wiring import load_providers
from tests.support.deployment import environment
from tests.support.parties import Receiver, Upstream, says, until
from tests.support.processes import serve

FILE = """[request]
base_url = "https://own.example"
path = "/tasks/{task_id}"
[read]
status = "status"
[statuses]
completed = ["done"]
failed = ["failed"]
"""
BROKEN = FILE + "[cadence\n"
CHILD = 'extends = "own"\ntitle = "Child"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configuration with two files, of which one extends the other."""
    providers = tmp_path / "config/providers"
    providers.mkdir(parents=True)
    write(providers.parent, "own", FILE)
    write(providers.parent, "child", CHILD)
    return providers.parent


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"providers/{name}.toml").write_text(text, "utf-8")


def started(folder: Path, **more: str) -> ProviderFiles:
    variables = {"RELAY_CONFIG": str(folder), "RELAY_PROVIDER": "own", **more}
    environ = environment(f"sqlite:///{folder.parent / 'relay.db'}", **variables)
    return load_providers(load(environ), OverHttpx(SandboxTransport()), environ)


def looked(providers: ProviderFiles) -> list[Mapping[str, Any]]:
    """Look twice, as a change has to settle. Return what is logged."""
    with capture_logs() as lines:
        providers.look()
        providers.look()
    return lines


def test_a_changed_file_is_read_again_and_those_that_extend_it(folder: Path) -> None:
    providers = started(folder)
    before = {name: providers[name] for name in ("own", "child")}
    assert looked(providers) == []
    assert all(providers[name] is provider for name, provider in before.items())
    write(folder, "own", FILE.replace('"done"', '"done", "ready"'))
    assert [line["provider"] for line in looked(providers)] == ["child", "own"]
    assert all("ready" in providers[name].definition.statuses.completed for name in before)
    assert providers["child"].definition.title == "Child"


def test_a_file_whose_meaning_is_the_same_leaves_its_provider(folder: Path) -> None:
    providers = started(folder)
    before = providers["own"]
    write(folder, "own", "# a comment\n" + FILE)
    assert looked(providers) == []
    assert providers["own"] is before


def test_a_file_that_is_being_written_is_not_read(folder: Path) -> None:
    providers = started(folder)
    with capture_logs() as lines:
        for text in (BROKEN, BROKEN + "]"):
            write(folder, "own", text)
            providers.look()
    assert lines == []


def test_a_mistake_is_logged_once_with_its_line_and_the_former_file_holds(folder: Path) -> None:
    providers = started(folder)
    before = providers["own"]
    write(folder, "own", FILE.replace("status =", "staus ="))
    (line,) = looked(providers)
    assert (line["log_level"], line["provider"]) == ("error", "own")
    assert f"{folder}/providers/own.toml" in line["mistake"]
    assert "line 4" in line["mistake"]
    assert providers["own"] is before
    write(folder, "child", CHILD + "\n")
    assert looked(providers) == [], "it was told"
    write(folder, "own", BROKEN)
    assert "line 9" in looked(providers)[0]["mistake"]
    assert providers["own"] is before
    write(folder, "own", FILE.replace('"done"', '"ready"'))
    assert [line["log_level"] for line in looked(providers)] == ["info"]
    assert providers["own"].definition.statuses.completed == ("ready",)


def test_a_file_that_was_wrong_when_it_was_first_used_is_mended(folder: Path) -> None:
    write(folder, "child", BROKEN)
    providers = started(folder)
    assert providers.get("child") is None
    assert "mistake" in providers.missing("child")
    write(folder, "child", CHILD)
    looked(providers)
    assert providers["child"].definition.title == "Child"


def test_a_new_file_is_used_and_one_that_is_gone_holds(folder: Path) -> None:
    providers = started(folder)
    before = providers["child"]
    write(folder, "new", FILE)
    (folder / "providers/child.toml").unlink()
    (line,) = looked(providers)
    assert (line["log_level"], line["provider"]) == ("warning", "child")
    assert list(providers) == ["child", "new", "own"]
    assert providers["child"] is before
    write(folder, "own", FILE + "\n")
    assert looked(providers) == [], "it was told"
    write(folder, "child", CHILD.replace("Child", "Back"))
    looked(providers)
    assert providers["child"].definition.title == "Back"


def test_a_new_file_that_may_not_be_used_stays_out(folder: Path) -> None:
    providers = started(folder, RELAY_PROVIDERS="own")
    write(folder, "new", FILE)
    looked(providers)
    assert list(providers) == ["own"]


def test_a_folder_that_is_away_changes_nothing(folder: Path) -> None:
    providers = started(folder)
    before = providers["own"]
    (folder / "providers").rename(folder / "away")
    looked(providers)
    assert providers["own"] is before
    (folder / "away").rename(folder / "providers")
    looked(providers)
    assert providers["own"] is before
    assert providers["child"].definition.title == "Child"


@pytest.mark.anyio
@pytest.mark.parametrize("roles", [["serve"], ["web", "worker"]], ids=" and ".join)
async def test_processes_take_in_a_change_and_watches_under_way_go_on(
    roles: list[str], folder: Path, upstream: Upstream, receiver: Receiver, postgres_url: str
) -> None:
    """A broken file in between stops nothing."""
    query = '[request]\npath = "/v1/video/query"\nquery = { id = "{task_id}" }\n'
    text = query + FILE[FILE.index("[read]") :]
    write(folder, "own", text)
    url = f"sqlite:///{folder.parent / 'relay.db'}" if roles == ["serve"] else postgres_url
    db = Database(url)
    db.run_here(migrate.upgrade)
    db.close()
    variables = {"RELAY_CONFIG": str(folder), "RELAY_PROVIDER": "own", "OWN_BASE_URL": upstream.url}
    environ = environment(url, RELAY_POLL_INTERVAL="0.2", **variables)
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(serve(environ, folder.parent, role)) for role in roles]
        http = processes[0].http
        await processes[0].ready()

        async def all_log(text: str) -> None:
            async def logged() -> bool:
                return all(text in process.log.read_text() for process in processes)

            await until(logged)

        body = {"task_id": "task", "targets": [{"type": "webhook", "url": f"{receiver.url}/hook"}]}
        watch = (await http.post("/v1/watches", json=body)).json()

        async def polled(times: int) -> int:
            async def is_polled() -> int:
                polls = int((await http.get(f"/v1/watches/{watch['id']}")).json()["polls"])
                return polls if polls >= times else 0

            return await until(is_polled)

        await polled(1)
        write(folder, "own", text + "[cadence\n")
        await all_log("changed provider file is wrong")
        await polled(await polled(1) + 2)
        upstream.default = says("ready")
        write(folder, "own", text.replace('"done"', '"ready"'))
        await all_log("provider file read again")
        (post,) = await receiver.wait_for(1)
        assert post.event["data"]["state"] == "completed"
        assert [await process.stop() for process in processes] == [0] * len(processes)
