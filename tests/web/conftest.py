"""Two relays per database for all of tests/web, because starting one costs more than a test; an app for each test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support import databases, parties
from tests.support.deployment import Deployment, deployment, environment
from tests.web.callers import Caller, caller
from tests.web.dashboard.visitors import PASSWORD, send


@dataclass
class NewDatabase:
    """URLs of new, migrated databases: files in a folder, or on a PostgreSQL."""

    folder: Path
    server: str | None

    def __call__(self) -> str:
        if self.server:
            return databases.migrated_database(self.server)
        return databases.migrated_file(self.folder / f"{uuid.uuid4().hex}.db")


@pytest.fixture(scope="package")
async def upstream() -> AsyncIterator[parties.Upstream]:
    """Answers any id that no test has given a script with "pending"."""
    async with parties.upstream() as party:
        yield party


@pytest.fixture(scope="package")
async def receiver() -> AsyncIterator[parties.Receiver]:
    """Takes everything at any path: each test has paths of its own."""
    async with parties.receiver() as party:
        yield party


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewDatabase:
    """Makes migrated, empty databases of one kind."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    return NewDatabase(tmp_path_factory.mktemp("web"), server)


@pytest.fixture(scope="package")
async def _working(new_database: NewDatabase, upstream: parties.Upstream) -> AsyncIterator[Deployment]:
    async with deployment(environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url)) as running:
        yield running


ANY_CHANNEL = {"SLACK_BOT_TOKEN": "xoxb-never-used", "RELAY_SLACK_CHANNELS": "*=*"}


@pytest.fixture(scope="package")
async def _idle(new_database: NewDatabase, upstream: parties.Upstream) -> AsyncIterator[Deployment]:
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url, **ANY_CHANNEL)
    async with deployment(environ, working=False) as running:
        yield running


@pytest.fixture
async def relay(_working: Deployment) -> AsyncIterator[Caller]:
    """A relay that polls and delivers, and an app of the test's own; what it still watches is stopped afterwards."""
    async with caller(_working) as new:
        yield new
        while left := (await new.http.get("/v1/watches?state=watching&limit=200")).json()["data"]:
            for watch in left:
                await new.http.delete(f"/v1/watches/{watch['id']}")


@pytest.fixture
async def api(_idle: Deployment) -> AsyncIterator[Caller]:
    """A relay that only answers (`relay web`), so that what is registered stays as it is."""
    async with caller(_idle) as new:
        yield new


@pytest.fixture
async def stranger(_idle: Deployment) -> AsyncIterator[Caller]:
    """Another app on the relay of `api`."""
    async with caller(_idle) as new:
        yield new


@pytest.fixture
def name() -> str:
    """A name that no other test uses: for task ids and paths."""
    return uuid.uuid4().hex[:12]


@pytest.fixture(scope="package")
async def locked(new_database: NewDatabase) -> AsyncIterator[Deployment]:
    """A relay with a password."""
    async with deployment(environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD), working=False) as running:
        yield running


@pytest.fixture
async def visitor(locked: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    """A browser, as far as HTTP can tell, that has not logged in."""
    async with httpx.AsyncClient(base_url=locked.url, verify=False) as client:
        yield client


@pytest.fixture
async def operator(locked: Deployment, visitor: httpx.AsyncClient) -> httpx.AsyncClient:
    """One that has."""
    response = await send(visitor, "/login", password=PASSWORD)
    assert response.status_code == 303
    return visitor


@pytest.fixture
async def here(api: Caller) -> AsyncIterator[httpx.AsyncClient]:
    """A browser of this machine at a relay without a password that polls nothing."""
    async with httpx.AsyncClient(base_url=api.url, verify=False) as client:
        yield client
