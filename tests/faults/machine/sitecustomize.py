"""What a machine does to a process that runs on it, and can be told to do while the process runs.

Python imports this module at the start of a process that has its folder in PYTHONPATH. While a file `no_resolver` is
in the folder that RELAY_TEST_MACHINE names, no name can be looked up; else all names below `machine.example` are
loopback. While there is a file `read_only`, SQLite refuses every write, as it does to a file that may only be read.
No signal, mount or mode does this to a file that is open already, whoever runs the tests.
"""

import os
import socket
import sqlite3
from pathlib import Path

_folder = Path(os.environ["RELAY_TEST_MACHINE"])
_look_up, _connect = socket.getaddrinfo, sqlite3.dbapi2.connect


def getaddrinfo(host, port, *args, **kwargs):  # type: ignore[no-untyped-def]
    """Look a name up."""
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name.endswith(".example"):
        if (_folder / "no_resolver").exists():
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        host = "127.0.0.1"
    return _look_up(host, port, *args, **kwargs)


class Connection(sqlite3.Connection):
    """A connection that may only read while the file is read-only."""

    def cursor(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Return a cursor."""
        super().execute(f"PRAGMA query_only={int((_folder / 'read_only').exists())}")
        return super().cursor(*args, **kwargs)


def connect(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Open a database."""
    return _connect(*args, factory=Connection, **kwargs)


socket.getaddrinfo = getaddrinfo
sqlite3.dbapi2.connect = connect  # type: ignore[assignment]
