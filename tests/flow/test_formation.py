"""Deployed like any Heroku-style service: the Procfile's formation, what it refuses, PgBouncer, the build's files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import sqlalchemy as sa

from relay.cli import cli
from relay.errors import StoreUnavailable
from relay.providers.variables import variable
from relay.settings.options import Settings
from relay.settings.sources import load
from relay.store import Database, invariants, migrate, notifications
from tests.flow.formation import (
    COMMANDS,
    MOST_CONNECTIONS,
    PATIENCE,
    ROOT,
    Options,
    formation_test,
    free_port,
    platform,
    run,
)
from tests.support.deployment import SECRET, deployment, environment
from tests.support.parties import Receiver, Upstream, done, says, until
from tests.support.processes import serve

pytestmark = pytest.mark.anyio

TROUBLE = r"Traceback|\[(warning|error|critical)"
"""What a log has where something is wrong."""


# The formation


async def test_nothing_is_lost_while_the_formation_is_replaced(postgres: str, tmp_path: Path) -> None:
    """`python -m tests.flow.formation` does it at full size, and twice."""
    report = await formation_test(Options(folder=tmp_path), postgres)
    said = "\n".join(report.lines())
    assert {status for _, status in report.answers} <= {200, 201}, said
    assert {number for number, _ in report.answers} == {1, 2}, said
    assert report.broken == [], said
    assert report.long == 200, said
    assert 9 < report.connections <= MOST_CONNECTIONS, said
    assert max(report.stops) < PATIENCE - 5, said
    assert set(report.exits.values()) == {0}, said
    assert len(report.exits) == 6, said
    assert (report.lost, report.twice, report.early, report.unverified) == ([], [], [], 0), said
    assert report.check == 0, said
    assert report.complaints == [], said


@pytest.mark.parametrize("command", ["serve", "web", "worker"])
async def test_told_to_stop_a_process_ends_with_0_and_without_complaint(command: str, tmp_path: Path) -> None:
    async with serve(environment(f"sqlite:///{tmp_path / 'relay.db'}"), tmp_path, command) as process:
        await until(lambda: asyncio.to_thread(lambda: "ready" in process.log.read_text()))
        assert await process.stop() == 0
    assert not re.search(TROUBLE, process.log.read_text())
    assert "None" not in process.log.read_text(), "a worker has no address, and says none"


async def test_told_to_stop_a_process_does_not_go_on_waiting_for_its_database(tmp_path: Path) -> None:
    url = f"postgres://relay@127.0.0.1:{free_port()}/relay"
    async with serve(environment(url), tmp_path, "worker") as process:
        await until(lambda: asyncio.to_thread(lambda: "waiting for" in process.log.read_text()))
        assert await process.stop(within=5) == 1
    assert "Traceback" not in process.log.read_text()


# What a start refuses, and what it takes


async def started(command: str, folder: Path, **environ: str) -> tuple[int, str]:
    """What becomes of a command that a platform starts without a database."""
    variables = platform("", PORT="0") | environ
    return await run(
        {name: value for name, value in variables.items() if value}, folder, "python", "-m", *command.split()
    )


async def test_a_platform_without_a_database_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for command in ("relay serve", "relay migrate"):
        code, said = await started(command, tmp_path)
        assert code == 1
        (line,) = said.splitlines()
        assert "heroku addons:create heroku-postgresql" in line
        assert "RELAY_EPHEMERAL=1" in line


async def test_a_wrong_variable_is_told_in_one_line(tmp_path: Path) -> None:
    code, said = await started("relay serve", tmp_path, RELAY_EPHEMERAL="1", RELAY_POLL_INTERVAL="fast")
    assert code == 1
    assert re.fullmatch(r"relay: RELAY_POLL_INTERVAL: must be .*, not 'fast'\n", said)


async def test_an_unmigrated_postgresql_is_refused_with_the_command(postgres_url: str, tmp_path: Path) -> None:
    code, said = await started("relay serve", tmp_path, DATABASE_URL=postgres_url.replace("postgresql:", "postgres:"))
    assert code == 1
    (line,) = said.splitlines()
    assert "run 'relay migrate'" in line


async def test_processes_that_share_a_database_must_share_the_key(postgres_url: str, tmp_path: Path) -> None:
    """Each would make one of its own, and not open what the other has sealed."""
    code, said = await started("relay serve", tmp_path, DATABASE_URL=postgres_url, RELAY_SECRET_KEY="", DYNO="")
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("relay: RELAY_SECRET_KEY is not set")
    assert not (tmp_path / "relay.key").exists()


def children(pid: int) -> list[str]:
    """The processes that a process has started."""
    return [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


async def test_a_demo_may_be_thrown_away_and_is_one_process_whatever_web_concurrency_says(tmp_path: Path) -> None:
    environ = platform("", RELAY_EPHEMERAL="1", WEB_CONCURRENCY="2")
    async with serve({name: value for name, value in environ.items() if value}, tmp_path) as process:
        await process.ready()
        assert children(process.process.pid) == []
        assert (await process.http.get("/metrics")).status_code == 404, "deployed, and no token is set"
        assert await process.stop() == 0


# PostgreSQL, as platforms hand it out


async def test_sslmode_of_the_url_is_obeyed() -> None:
    """A server without TLS hears the question for TLS, is given nothing else, and is named as the reason."""
    asked: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readexactly(8))
        writer.write(b"N")
        with contextlib.suppress(ConnectionError):
            asked.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        db = Database(f"postgres://user:word@127.0.0.1:{port}/name?sslmode=require")
        with pytest.raises(StoreUnavailable, match="SSL"):
            await db.read(migrate.behind)
        await db.aclose()
        listening = asyncio.create_task(notifications.listen(db.url, lambda *_: None, lambda _: None))
        await until(lambda: asyncio.sleep(0, len(asked) == 4))
        listening.cancel()
    ssl_request = bytes.fromhex("0000000804d2162f")
    assert asked == [ssl_request, b""] * 2


def pgbouncer_binary() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture
def pgbouncer(postgres_url: str) -> Iterator[tuple[str, Path]]:
    """PgBouncer in transaction mode before an empty database, with two connections: its URL and its log."""
    (socket,) = parse_qs(urlsplit(postgres_url).query)["host"]
    name = sa.make_url(postgres_url).database
    # As root PgBouncer does not run; whoever PostgreSQL runs as can reach its socket.
    owner = Path(socket).stat()
    user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="relay-pgb-", dir="/tmp") as folder:
        config, log = Path(folder) / "pgbouncer.ini", Path(folder) / "log"
        config.write_text(
            f"""
            [databases]
            {name} = host={socket} user=postgres pool_size=2
            [pgbouncer]
            pool_mode = transaction
            auth_type = any
            listen_addr =
            listen_port = 6432
            unix_socket_dir = {folder}
            logfile = {log}
            """
        )
        for path in (Path(folder), config):
            os.chown(path, owner.st_uid, owner.st_gid)
        process = subprocess.Popen([str(pgbouncer_binary()), "-q", str(config)], stderr=subprocess.DEVNULL, **user)
        try:
            yield f"postgres://relay@/{name}?host={folder}&port=6432", log
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.skipif(pgbouncer_binary() is None, reason="there is no pgbouncer (Debian's package has it)")
async def test_the_main_job_through_pgbouncer_in_transaction_mode(
    pgbouncer: tuple[str, Path], postgres_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    """The release's migration, then two processes with six connections to it, which share two to PostgreSQL."""
    url, log = pgbouncer
    upstream.default = lambda n: done() if n >= 3 else says("pending")
    environ = environment(url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_POLL_INTERVAL="0.2")
    assert (await run({**platform(url)}, tmp_path, *COMMANDS["release"].split()))[0] == 0
    async with deployment(environ) as relay, serve(environ, tmp_path, "worker") as worker:
        await until(lambda: asyncio.to_thread(lambda: "ready" in worker.log.read_text()))
        await asyncio.gather(*(relay.register(f"task-{n}", f"{receiver.url}/a") for n in range(100)))
        await receiver.wait_for(100)
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            row = admin.execute(query).fetchone()
        assert await worker.stop() == 0
    receiver.verify(SECRET)
    assert row == (2,)
    assert len({post.webhook_id for post in receiver.posts}) == len(receiver.posts) == 100
    assert "a pooler is in between" in worker.log.read_text()
    assert not re.search("WARNING|ERROR|FATAL", log.read_text()), log.read_text()
    assert not re.search(TROUBLE, worker.log.read_text()), worker.log.read_text()
    db = Database(postgres_url)
    assert db.run_here(invariants.find_violations) == []
    db.close()


# The files that a build reads


def test_every_line_of_the_procfile_is_a_command_of_ours() -> None:
    commands = {command.name for command in cli.registered_commands}
    assert set(COMMANDS) == {"release", "web", "worker"}
    for line in COMMANDS.values():
        python, m, relay, command = line.split()
        assert (python, m, relay) == ("python", "-m", "relay")
        assert command in commands


APP = json.loads((ROOT / "app.json").read_text("utf-8"))
OPTIONS = {field.alias for field in Settings.model_fields.values()}
PROVIDERS = [file.stem for file in (ROOT / "config/providers").glob("*.toml")]


def test_app_json_is_what_the_platform_reads() -> None:
    known = {"name", "description", "keywords", "success_url", "stack", "buildpacks", "addons", "formation", "env"}
    assert APP.keys() <= known
    assert 3 <= len(APP["name"]) <= 30
    assert len(APP["description"]) <= 140
    assert APP["formation"].keys() <= COMMANDS.keys()
    assert all(one.keys() == {"quantity", "size"} for one in APP["formation"].values())
    assert [one["plan"] for one in APP["addons"]] == ["heroku-postgresql:essential-0"]
    for one in APP["env"].values():
        assert one.keys() <= {"description", "generator", "required", "value"}
        assert one.get("generator", "secret") == "secret"


def test_app_json_names_only_variables_that_there_are() -> None:
    of_providers = {variable(name, what) for name in PROVIDERS for what in ("BASE_URL", "API_KEY")}
    assert APP["env"].keys() <= OPTIONS | of_providers
    assert len(APP["env"].keys() & of_providers) <= 2, "the form asks for the default provider's alone"


def test_what_app_json_has_generated_is_taken() -> None:
    generated = {name: "0123456789abcdef" * 4 for name, one in APP["env"].items() if "generator" in one}
    of_one_app = {"RELAY_SECRET_KEY", "RELAY_API_KEY", "RELAY_SIGNING_SECRET"}
    assert generated.keys() == of_one_app | {"RELAY_ADMIN_PASSWORD", "RELAY_METRICS_TOKEN"}
    settings = load({"DYNO": "web.1", "DATABASE_URL": "postgres://user:word@host:5432/name", **generated})
    assert settings.deployed
    assert not settings.embedded


def test_there_is_exactly_one_lock_file() -> None:
    assert [
        name for name in ("uv.lock", "requirements.txt", "poetry.lock", "Pipfile.lock") if (ROOT / name).exists()
    ] == ["requirements.txt"]
    assert (ROOT / ".python-version").read_text().startswith("3.")


def test_no_file_names_where_packages_come_from() -> None:
    """That is a matter of the machine that installs."""
    hosts = "pypi .org|pythonhosted .org|npmjs .com|npmjs .org|ghcr .io|docker .io|quay .io|crates .io|golang .org"
    words = re.compile(hosts.replace(" .", r"\."), re.IGNORECASE)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if file.is_file() and b"\0" not in (read := file.read_bytes())[:8000]:
            found = words.search(read.decode("utf-8", "replace"))
            assert found is None, f"{name}: {found}"
    assert not re.search("index-url|find-links|trusted-host", (ROOT / "requirements.txt").read_text())


def test_the_venv_of_this_run_is_the_one_that_the_formation_uses() -> None:
    path = platform("")["PATH"]
    assert shutil.which("python", path=path) == str(Path(sys.executable).parent / "python")
