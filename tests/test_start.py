"""A start is quick because it imports what it needs, and no more: a killed process has polls that are overdue."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from relay import __version__
from relay.store import Database, migrate
from tests.support.deployment import environment
from tests.support.processes import CONFIG

LATER = ("aiohttp", "alembic", "jinja2", "opentelemetry", "psycopg", "relay.simulators", "relay.web.site", "slack_sdk")
"""What a process imports when it is first used: large, and not needed for a poll."""

FOR_SERVERS = ("apscheduler", "cryptography", "httpx", "pydantic", "sqlalchemy", "starlette", "uvicorn")
"""What a command that asks nothing and stores nothing does not need."""

VERSION = """
import contextlib
from relay.cli import main
sys.argv = ["relay", "--version"]
with contextlib.suppress(SystemExit):
    main()
"""

STARTED = """
import os
from relay.app import Relay
from relay.settings.sources import load
Relay(load(os.environ), os.environ)
"""

SERVED = """
from relay.cli import processes
processes.run_async = lambda coroutine: coroutine.close()
processes.worker()
"""

FIRST_CALL = """
import asyncio
from relay.channels.slack.api import SlackApi, attempted
from relay.wiring import EVERYWHERE
from tests.support.processes import no_descriptors

async def call():
    api = SlackApi(EVERYWHERE, "xoxb-token", "http://127.0.0.1:9/api/")
    with no_descriptors():
        starved = await attempted(api.call("api.test", {}))
    assert starved.unsent, starved
    refused = await attempted(api.call("api.test", {}))
    assert not refused.unsent and refused.error == "connect", refused
    await api.aclose()

asyncio.run(call())
"""


def loaded(program: str, folder: Path, **environ: str) -> set[str]:
    """Return the modules that an interpreter has loaded once it has run a program."""
    report = "\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}{report}"],
        env={"PATH": os.environ["PATH"], "RELAY_CONFIG": CONFIG, **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("program", "unwanted"), [("import relay.app", LATER), (VERSION, LATER + FOR_SERVERS)], ids=["app", "version"]
)
def test_what_is_large_is_imported_when_it_is_used(program: str, unwanted: tuple[str, ...], tmp_path: Path) -> None:
    modules = loaded(program, tmp_path)
    assert "relay" in modules
    assert not modules & set(unwanted)


def test_a_process_whose_database_is_up_to_date_needs_no_more(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    db = Database(url)
    db.run_here(migrate.upgrade)
    db.close()
    modules = loaded(
        STARTED, tmp_path, **environment(url, RELAY_SANDBOX="0", UNIFIED_VIDEO_BASE_URL="http://127.0.0.1")
    )
    assert "relay.store.migrate" in modules
    assert not modules & set(LATER)


def test_no_package_is_asked_whether_it_is_a_plugin_of_pydantic(tmp_path: Path) -> None:
    """Some other package of the machine may be one: it would see every value that relay checks, and slow the start."""
    information = tmp_path / "elsewhere-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pydantic]\nelsewhere = elsewhere\n")
    (tmp_path / "elsewhere.py").write_text("")
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", PYTHONPATH=str(tmp_path))
    modules = loaded(SERVED, tmp_path, **environ)
    assert "relay.app" in modules
    assert "elsewhere" not in modules


def test_a_first_call_of_slack_without_a_descriptor_is_no_attempt(tmp_path: Path) -> None:
    modules = loaded(FIRST_CALL, tmp_path, PYTHONPATH=str(Path(__file__).parent.parent))
    assert "slack_sdk" in modules


def test_it_runs_where_only_its_dependencies_are_installed(tmp_path: Path) -> None:
    """As on Heroku and in the container: the tree is there, and no metadata of an installed relay."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("relay_bridge", "_editable", "__editable")) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    tree = Path(__file__).parent.parent
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "DATABASE_URL": f"sqlite:///{tmp_path}/r.db"}

    def run(*command: str) -> str:
        # -S leaves out the folder of this interpreter's own packages, and relay's metadata with it.
        done = subprocess.run(
            [sys.executable, "-S", "-m", "relay", *command],
            env=environ,
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run("--version") == __version__
    run("migrate")
    assert "Nothing is lost" in run("check")
