"""`relay check`: watches that nobody can ask about any more."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from relay.cli import cli
from relay.store import Database, polling
from relay.store.schema import watches
from tests.support import rows
from tests.support.databases import migrated_file

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database of the command."""
    url = migrated_file(tmp_path / "relay.db")
    monkeypatch.setenv("RELAY_CONFIG", str(CONFIG))
    monkeypatch.setenv("DATABASE_URL", url)
    db = Database(url)
    yield db
    db.close()


def test_watches_whose_provider_has_no_file_are_named_and_are_no_failure(stored: Database) -> None:
    app = rows.app(stored)
    orphan = rows.watch(stored, app, "task-1")  # of a provider 'p', which has no file
    other = rows.watch(stored, app, "task-2")
    change = sa.update(watches).where(watches.c.id == other).values(provider="unified-video")
    stored.run_here(lambda tx: tx.execute(change).rowcount)
    checked = CliRunner().invoke(cli, ["check", "--json"])
    assert checked.exit_code == 0
    assert json.loads(checked.stdout) == [
        {"what": "watching, but there is no file of the provider 'p'", "ids": [orphan]}
    ]
    in_words = CliRunner().invoke(cli, ["check"])
    assert in_words.exit_code == 0
    assert f"no file of the provider 'p': {orphan}" in in_words.stdout


def test_a_watch_that_has_ended_needs_no_file(stored: Database) -> None:
    rows.watch(stored, rows.app(stored), "task-1")
    (claim,) = rows.claim(stored)
    stored.run_here(polling.save, [rows.ended(claim)])
    assert json.loads(CliRunner().invoke(cli, ["check", "--json"]).stdout) == []
