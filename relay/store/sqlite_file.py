"""What relay needs of the file of a SQLite database, and of its folder: that they can be written, by relay alone.

This is asked for at the start, because there is someone then who can mend it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from relay.errors import ConfigError

PRIVATE = 0o600
"""The mode of the file and of SQLite's own beside it."""

MEND = "let the user that runs relay own it, or name another file"


def prepare(file: Path) -> None:
    """Make the file if it is not there, and keep it from other users of the machine.

    Raises:
        ConfigError: with what is wrong, where.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"DATABASE_URL: the folder '{folder}' is not there: create it, or name another one")
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, PRIVATE))
    except (PermissionError, IsADirectoryError) as error:
        raise ConfigError(f"DATABASE_URL: '{file}': {error.strerror}, for user {os.geteuid()}: {MEND}") from None
    except OSError:  # such as a full disk, which may have room again: SQLite says so in time
        return
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ConfigError(
            f"DATABASE_URL: user {os.geteuid()} may not write to the folder '{folder}', in which SQLite keeps its log: "
            f"{MEND}"
        )
    for part in (file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm"))):
        with contextlib.suppress(OSError):  # not there, or of another user
            if part.stat().st_mode & 0o077:
                part.chmod(PRIVATE)
