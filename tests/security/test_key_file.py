"""The file relay.key: whole or not there, one for all, and nobody else's."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from relay.errors import ConfigError
from relay.security import key_file
from relay.settings.sources import load
from relay.wiring import open_vault


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    start = Barrier(16)

    def one(_: int) -> str:
        start.wait()
        return key_file.read_or_make(tmp_path / "relay.key")

    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(one, range(16)))
    assert len(keys) == 1
    assert len(keys.pop()) > 40
    assert [file.name for file in tmp_path.iterdir()] == ["relay.key"]
    assert (tmp_path / "relay.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"too-short", b"\xff" * 40, b"a key\0with a nul in it"])
def test_a_file_without_a_key_is_refused_and_left(content: bytes, tmp_path: Path) -> None:
    """An empty one would be a key that everyone knows."""
    file = tmp_path / "relay.key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no key of at least 16 characters") as refused:
        open_vault(load({"DATABASE_URL": f"sqlite:///{tmp_path / 'relay.db'}"}))
    assert str(file) in refused.value.detail
    assert file.read_bytes() == content


@pytest.mark.parametrize("step", ["os.fsync", "os.link"])
def test_who_dies_on_the_way_leaves_no_key_behind_that_is_none(step: str, tmp_path: Path) -> None:
    """Killed before the file is synced, and before it has its name."""
    lines = (
        "import os, signal, sys",
        "from pathlib import Path",
        "from relay.security import key_file",
        f"{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
        "key_file.read_or_make(Path(sys.argv[1]))",
    )
    file = tmp_path / "relay.key"
    killed = subprocess.run([sys.executable, "-c", "\n".join(lines), str(file)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not file.exists()
    assert key_file.read_or_make(file) == file.read_text()


def test_a_key_that_others_could_read_is_taken_away_from_them(tmp_path: Path) -> None:
    file = tmp_path / "relay.key"
    file.write_text("a-key-of-an-earlier-release\n")
    file.chmod(0o644)
    assert key_file.read_or_make(file) == "a-key-of-an-earlier-release"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; set RELAY_SECRET_KEY instead"):
        key_file.read_or_make(tmp_path / "nowhere" / "relay.key")
