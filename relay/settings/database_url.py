"""What `DATABASE_URL` may be: a SQLite file or a PostgreSQL, with the options that hosts put behind it.

The options of other clients make PostgreSQL's library fail, and change which file SQLite opens. So each option is
passed on, or ignored because it means nothing here, or refused in one line that says what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qsl

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
CHOICES = {
    "sslmode": ("require", "verify-full", "verify-ca", "prefer", "allow", "disable"),
    "channel_binding": ("require", "prefer", "disable"),
    "gssencmode": ("require", "prefer", "disable"),
    "sslcertmode": ("require", "allow", "disable"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": TLS,
    "ssl_max_protocol_version": TLS,
    "target_session_attrs": ("any", "read-write", "primary"),
    "load_balance_hosts": ("disable", "random"),
} | dict.fromkeys(("keepalives", "sslsni", "sslcompression", "gssdelegation"), ("0", "1"))
NUMBERS = _words("connect_timeout tcp_user_timeout keepalives_idle keepalives_interval keepalives_count")
TEXTS = _words(
    """
    user password passfile host hostaddr port dbname service options application_name fallback_application_name
    sslcert sslkey sslpassword sslrootcert sslcrl sslcrldir sslkeylogfile require_auth requirepeer krbsrvname gsslib
    min_protocol_version max_protocol_version scram_client_key scram_server_key
    oauth_issuer oauth_client_id oauth_client_secret oauth_scope
    """
)
"""Options that PostgreSQL's library knows, by the kind of their values: one of a few, a whole number, any text."""

IGNORED = _words(
    """
    pgbouncer connection_limit pool_timeout socket_timeout statement_cache_size single_use_connections
    max_connection_lifetime max_idle_connection_lifetime supa workaround uselibpqcompat
    pool pool_size min_pool_size max_pool_size max_overflow pool_recycle pool_pre_ping pool_max_conns pool_min_conns
    pool_max_conn_lifetime pool_max_conn_idle_time reaping_frequency checkout_timeout idle_timeout max_lifetime
    prepared_statements prepared_statement_cache_size preparethreshold statement_cache_capacity binary_parameters
    default_query_exec_mode client_encoding encoding charset serverversion
    statement_timeout lock_timeout command_timeout timeout busy_timeout cache uri check_same_thread
    """
)
"""Options of other clients that mean nothing here: pools, statement caches, encodings, timeouts, how SQLite is opened.

relay has RELAY_DATABASE_POOL, prepares no statements, speaks UTF8, and sets its own timeouts.
"""

SCHEMA = frozenset({"schema", "search_path", "currentschema"})
OTHER_TLS = frozenset({"ssl", "tls", "ssl_mode", "usessl", "sslaccept", "sslrequire"})
FORM = "must be like postgres://user:password@host:5432/name, special characters escaped"


def database_url(value: str) -> str:
    """Return the URL of a database without the options that mean nothing here.

    Raises:
        ValueError: with one line that says what is wrong and what to write, and shows nothing of a password.
    """
    value = value.strip()
    if not re.match(r"(postgres(ql)?(\+psycopg)?|sqlite)://", value):
        raise ValueError("must begin with postgres://, postgresql:// or sqlite:///")
    if not value.isprintable():
        raise ValueError("must not hold a line break or another control character")
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):  # its text may hold a piece of the password
        raise ValueError(FORM) from None
    ignored = _check_file(url, value) if url.get_backend_name() == "sqlite" else _check_server(url)
    return url.difference_update_query(ignored).render_as_string(hide_password=False) if ignored else value


def _check_file(url: URL, value: str) -> list[str]:
    """Return the options to ignore in the URL of a SQLite file."""
    if url.host or url.port or url.username:
        raise ValueError("names a host, which SQLite has none of: sqlite:///relay.db, or sqlite:////var/lib/relay.db")
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        raise ValueError("must name a file, sqlite:///relay.db: what is in memory only would be lost")
    if url.database.startswith("file:"):
        raise ValueError("must name the file by its path: sqlite:///relay.db, or sqlite:////var/lib/relay.db")
    # Not url.query, which leaves out what has no value: a question mark in a file's name would shorten the name.
    options = dict(parse_qsl(value.partition("?")[2], keep_blank_values=True))
    for name, given in options.items():
        if (name, given) == ("mode", "ro"):
            raise ValueError("has the option mode=ro, and relay has to write to the file: leave mode=ro out")
        if name.lower() not in IGNORED and (name, given) not in (("mode", "rw"), ("mode", "rwc")):
            raise ValueError(f"has {_shown(name)} behind a question mark, which is no option here: leave it out")
    return list(options)


def _check_server(url: URL) -> list[str]:
    """Return the options to ignore in the URL of a PostgreSQL."""
    ignored = []
    for name, given in url.query.items():
        values = [given] if isinstance(given, str) else given
        if name.lower() in IGNORED or (name.lower() in SCHEMA and set(values) == {"public"}):
            ignored.append(name)
        elif name in CHOICES or name in NUMBERS or name in TEXTS:
            _check_values(name, values)
        else:
            _refuse(name, values)
    if "@" in f"{url.host}{url.database}":  # an @ in the password that is not escaped
        raise ValueError(FORM)
    return ignored


def _check_values(name: str, values: Sequence[str]) -> None:
    """Refuse what PostgreSQL's library would refuse when it connects."""
    if len(values) > 1 and name not in ("host", "port"):
        raise ValueError(f"has the option {name} more than once: leave all but one out")
    if name in CHOICES and values[0] not in CHOICES[name]:
        first, *others = CHOICES[name]
        raise ValueError(f"has a wrong {name}: write {name}={first}, or one of {', '.join(others)}")
    if name in NUMBERS and not re.fullmatch(r"-?\d{1,9}", values[0], re.ASCII):
        raise ValueError(f"has a wrong {name}: write a whole number")


def _refuse(name: str, values: Sequence[str]) -> None:
    if any("@" in value for value in values):  # a piece of a password that is not escaped
        raise ValueError(FORM)
    if name.lower() in SCHEMA:
        raise ValueError(f"has the option {name}: write options=-csearch_path%3D and the schema's name instead")
    if name.lower() in OTHER_TLS:
        raise ValueError(f"has the option {name} of another client: write sslmode=require, or sslmode=disable, instead")
    raise ValueError(f"has {_shown(name)} behind a question mark, which PostgreSQL does not know: leave it out")


def _shown(name: str) -> str:
    """Return an option's name as an error may show it: what does not look like a name may be a piece of a secret."""
    return f"'{name}'" if re.fullmatch(r"[A-Za-z_][\w.-]{0,39}", name, re.ASCII) else "something"
