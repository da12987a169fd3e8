"""`DATABASE_URL`: what is passed on, what is ignored, and what is refused in one line that says what to write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from relay.settings.database_url import CHOICES, IGNORED, NUMBERS, TEXTS, database_url
from relay.store import Database
from tests.support.processes import CONFIG

SERVER = "postgres://relay:hunter2@db.example:5432/relay"


def refusal(url: str) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        database_url(url)
    line = str(caught.value)
    assert line.isprintable()
    assert "hunter2" not in line
    assert caught.value.__cause__ is None
    return line


@pytest.mark.parametrize(
    "options",
    [
        "",
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=system",
        "sslmode=require&channel_binding=require",
        "options=endpoint%3Dep-cool-1",
        "host=/var/run/postgresql",
        "host=a&host=b&target_session_attrs=read-write",
        "connect_timeout=3&keepalives=1&application_name=relay",
    ],
)
def test_what_libpq_knows_is_passed_on(options: str) -> None:
    url = f"{SERVER}?{options}".rstrip("?")
    assert database_url(url) == url


def test_every_option_that_is_passed_on_is_known_to_libpq() -> None:
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    assert {*CHOICES, *NUMBERS, *TEXTS} <= known
    assert not known & IGNORED - {"client_encoding"}


@pytest.mark.parametrize(
    "option",
    [
        *("pgbouncer=true", "connection_limit=1", "pool_timeout=10", "schema=public", "statement_cache_size=0"),
        *("supa=base-pooler.x", "serverVersion=16&charset=utf8", "encoding=unicode", "client_encoding=latin1"),
        *("prepareThreshold=0", "pool_max_conns=10", "pool=5", "uselibpqcompat=true", "prepared_statements=false"),
    ],
)
def test_what_hosts_hand_out_and_means_nothing_here_is_ignored(option: str) -> None:
    assert make_url(database_url(f"{SERVER}?{option}")) == make_url(SERVER)
    both = make_url(database_url(f"{SERVER}?sslmode=require&{option}"))
    assert both == make_url(f"{SERVER}?sslmode=require")


def test_the_password_survives_what_is_ignored() -> None:
    url = "postgres://us%40er:p%2Fa%25s+s%20w@db.example/relay"
    assert make_url(database_url(f"{url}?pgbouncer=true")) == make_url(url)


@pytest.mark.parametrize(
    ("options", "named", "instead"),
    [
        ("ssl=true", "ssl", "sslmode=require"),
        ("ssl=1", "ssl", "sslmode=require"),
        ("useSSL=false", "useSSL", "sslmode=disable"),
        ("sslmode=required", "sslmode", "sslmode=require"),
        ("sslmode=true", "sslmode", "sslmode=require"),
        ("sslmode=no-verify", "sslmode", "sslmode=require"),
        ("sslmode=require&sslmode=disable", "sslmode", "leave all but one out"),
        ("target_session_attrs=standby", "target_session_attrs", "read-write"),
        ("channel_binding=yes", "channel_binding", "channel_binding=require"),
        ("connect_timeout=5s", "connect_timeout", "a whole number"),
        ("schema=shop", "schema", "options=-csearch_path%3D"),
        ("currentSchema=shop", "currentSchema", "options=-csearch_path%3D"),
        ("nonsense=1", "'nonsense'", "leave it out"),
        ("autocommit=true", "'autocommit'", "leave it out"),
        ("replication=database", "'replication'", "leave it out"),
        ("hunter2%20hunter2=1", "something", "leave it out"),
        ("x=hunter2@db.example", "special characters", "escaped"),
    ],
)
def test_an_option_that_does_not_work_here_is_named_with_what_to_write(options: str, named: str, instead: str) -> None:
    line = refusal(f"{SERVER}?{options}")
    assert named in line
    assert instead in line


@pytest.mark.parametrize("url", ["postgres://relay:hun@ter2@db.example/relay", "postgres://relay:hunter2@a:x/relay"])
def test_a_password_that_is_not_escaped_is_not_shown(url: str) -> None:
    line = refusal(url)
    assert "escaped" in line
    assert "ter2" not in line


@pytest.mark.parametrize(
    "tail",
    ["\r", "\r\n", " ", "\t", "?mode=rwc", "?cache=shared&uri=true", "?timeout=abc", "?check_same_thread=maybe"],
)
def test_the_file_that_is_named_is_the_file_that_is_used(tail: str, tmp_path: Path) -> None:
    file = tmp_path / "re lay.db"
    db = Database(database_url(f"sqlite:///{file}{tail}"))
    db.run_here(lambda tx: tx.exec_driver_sql("CREATE TABLE t (a)"))
    db.close()
    assert {one.name for one in tmp_path.iterdir()} <= {"re lay.db", "re lay.db-wal", "re lay.db-shm"}
    assert file.exists()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:///relay.db?mode=ro", "mode=ro"),
        ("sqlite:///relay.db?mode=maybe", "'mode'"),
        ("sqlite:///relay.db?immutable=1", "'immutable'"),
        ("sqlite:///relay.db?nonsense", "'nonsense'"),
        ("sqlite:///what?.db", "something"),
        ("sqlite:///file:relay.db?uri=true", "by its path"),
        ("sqlite:///re\rlay.db", "control character"),
        ("sqlite:///relay.db\x00", "control character"),
    ],
)
def test_a_file_that_relay_would_not_use_as_it_is_named(url: str, why: str) -> None:
    assert why in refusal(url)


@given(st.text(max_size=40), st.sampled_from([SERVER, "sqlite:///relay.db", "postgres://", "sqlite:///"]))
def test_anything_is_taken_or_refused_in_one_line(text: str, before: str) -> None:
    line = ""
    try:
        url = database_url(f"{before}{text}")
        assert database_url(url) == url
    except ValueError as error:
        line = str(error)
    assert line.isprintable()
    assert "hunter2" not in line


@pytest.mark.parametrize("command", ["migrate", "serve", "check"])
@pytest.mark.parametrize("tail", ["?sslmode=required", "?nonsense=1"])
def test_commands_refuse_it_in_one_line(command: str, tail: str, tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL": f"{SERVER}{tail}",
        "RELAY_CONFIG": CONFIG,
        "RELAY_SECRET_KEY": "a-key-of-sixteen-characters",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "relay", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    (line,) = (ran.stdout + ran.stderr).splitlines()
    assert ran.returncode == 1
    assert line.startswith("relay: DATABASE_URL: ")
    assert "hunter2" not in line
