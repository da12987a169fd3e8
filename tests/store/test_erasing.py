"""Erased means erased: no file of a SQLite database holds a byte of it, and the files are nobody else's."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from relay.errors import ConfigError
from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.store import Database, cleanup, migrate, outbox, polling, watches
from tests.store.test_claims import tried
from tests.support import rows
from tests.support.rows import NOW

MARK = "MARKED-7f3a"


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path / 'relay.db'}")
    db.run_here(migrate.upgrade)
    yield db
    db.close()


def marks(folder: Path) -> dict[str, int]:
    """How often each file of the database holds the mark."""
    return {file.name: count for file in folder.iterdir() if (count := file.read_bytes().count(MARK.encode()))}


def fill(db: Database, app: str, count: int, mark: str) -> list[str]:
    """Watches with long ids, answers that came and went, ends and attempts: all of it marked."""
    chance = random.Random(7)
    ids = [rows.watch(db, app, f"{mark}-{n}-{'x' * chance.randrange(200)}") for n in range(count)]
    for _ in range(3):
        claimed = rows.claim(db, most=10_000)
        body = [f'{{"prompt": "{mark} {"p" * chance.randrange(9000)}"}}'.encode() for _ in claimed]
        polled = [
            polling.Polled(one, one.watch, NOW, NOW, answer=answer, answer_hash=n, changed=True)
            for n, (one, answer) in enumerate(zip(claimed, body, strict=True))
        ]
        db.run_here(polling.save, polled)
    claimed = rows.claim(db, most=10_000)
    ends = [rows.ended(one) for one in claimed]
    ends = [
        end._replace(event=replace(end.event, body=f"{mark} {'e' * chance.randrange(3000)}".encode()))
        for end in ends
        if end.event is not None
    ]
    db.run_here(polling.save, ends)
    said = Outcome(Verdict.DELIVERED, status=200, answer=f"{mark} {'a' * 2000}".encode())
    told = [
        replace(tried(one, DeliveryState.DELIVERED), attempt=Attempt(1, NOW, 5, said))
        for one in db.run_here(rows.claim_of, outbox, NOW, NOW + 60_000, "me.9", 10_000)
    ]
    db.run_here(outbox.record, told)
    return ids


def test_no_file_holds_a_byte_of_what_was_erased(embedded: Database, tmp_path: Path) -> None:
    """Of many watches among as many others, whose pages were split and joined."""
    app = rows.app(embedded)
    kept = fill(embedded, app, 150, "kept")
    erased = fill(embedded, app, 150, MARK)
    kept += fill(embedded, app, 50, "kept-too")
    assert sum(marks(tmp_path).values()) > 600
    random.Random(3).shuffle(erased)
    for watch_id in erased:
        embedded.run_here(watches.erase, app, watch_id, NOW)
    assert embedded.run_here(cleanup.empty_log)
    assert marks(tmp_path) == {}
    count = sa.text("SELECT count(*) FROM watches")
    assert embedded.run_here(lambda tx: tx.execute(count).scalar()) == len(kept)


def test_while_somebody_reads_the_log_stays_and_the_next_call_empties_it(embedded: Database, tmp_path: Path) -> None:
    app = rows.app(embedded)
    (watch_id,) = fill(embedded, app, 1, MARK)
    reader = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM watches").fetchone()
    embedded.run_here(watches.erase, app, watch_id, NOW)
    assert not embedded.run_here(cleanup.empty_log)
    assert rows.watch(embedded, app, "another"), "others go on"
    reader.close()
    assert embedded.run_here(cleanup.empty_log)
    assert marks(tmp_path) == {}


def test_postgresql_keeps_its_log_itself(postgres_url: str) -> None:
    db = Database(postgres_url)
    assert db.run_here(cleanup.empty_log)
    db.close()


# The files


def test_the_files_are_nobody_elses_also_those_of_an_earlier_release(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    before = os.umask(0o022)
    try:
        old = sqlite3.connect(file)
        old.execute("PRAGMA journal_mode=WAL")
        old.execute("CREATE TABLE one (x)")
        old.commit()
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        db = Database(f"sqlite:///{file}")
        db.run_here(migrate.upgrade)
        rows.app(db)
        modes = {part.name: stat.S_IMODE(part.stat().st_mode) for part in tmp_path.iterdir()}
        assert modes == dict.fromkeys(("relay.db", "relay.db-wal", "relay.db-shm"), 0o600)
        db.close()
        old.close()
        Database(f"sqlite:///{tmp_path / 'new.db'}").close()
        assert stat.S_IMODE((tmp_path / "new.db").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_what_is_wrong_with_a_file_or_its_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, words in (("nowhere/relay.db", "is not there: create it"), ("folder", "Is a directory")):
        with pytest.raises(ConfigError, match=words) as refused:
            Database(f"sqlite:///{tmp_path / name}")
        assert "\n" not in refused.value.detail


@pytest.mark.parametrize(("mode", "words"), [(None, "Permission denied"), (0o666, "keeps its log")])
def test_a_file_or_folder_of_another_user_is_named(mode: int | None, words: str) -> None:
    user = os.geteuid()
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own is closed to others
    database = place / "relay.db"
    if mode is not None:
        database.touch()
        database.chmod(mode)
    place.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=words) as refused:
            Database(f"sqlite:///{database}")
        assert str(os.geteuid()) in refused.value.detail
        assert str(place) in refused.value.detail
    finally:
        os.seteuid(user)
        place.chmod(0o755)
        database.unlink(missing_ok=True)
        place.rmdir()
