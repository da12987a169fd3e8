"""The file `relay.key`: the key of a deployment that has SQLite and no RELAY_SECRET_KEY.

It appears whole or not at all, whatever dies meanwhile, and processes that start at once agree on one key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from relay.errors import ConfigError

LEAST = 16
"""Characters of a key, at least, as of RELAY_SECRET_KEY."""


def read_or_make(file: Path) -> str:
    """Return the key in a file, which is made first if it is not there.

    Raises:
        ConfigError: the file cannot be made or read, or holds no key.
    """
    try:
        if not file.exists():
            _make(file)
        key = file.read_text("ascii").strip()
        _keep_private(file)
    except UnicodeDecodeError:
        key = ""
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; set RELAY_SECRET_KEY instead") from None
    if len(key) < LEAST or not key.isprintable():
        raise ConfigError(
            f"{file} holds no key of at least {LEAST} characters: restore it from a backup, since what is stored opens "
            "with no other key; only if nothing is stored yet, remove the file"
        )
    return key


def _make(file: Path) -> None:
    """Make the file with a new key, unless another process is first. The link is the moment in which it appears."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_urlsafe(32))
            new.flush()
            os.fsync(new.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        Path(temporary).unlink()
    _sync(file.parent)


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_private(file: Path) -> None:
    """Take the file away from other users of the machine, if it is ours."""
    with contextlib.suppress(PermissionError):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
