"""The provider files of a deployment. There are many, and most are never used: each is parsed when it is first used.

A process that runs notices files that were changed or added. A mistake in one must not stop anything: what was read of
the file before holds until it is right again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from relay.errors import ConfigError
from relay.providers.provider import Provider

log = structlog.stdlib.get_logger(__name__)

LOOK_EVERY = 3.0
"""Seconds between two looks at the files. A change is read once two looks in a row have found the same."""

Stamps = dict[str, tuple[int, int, int] | None]
"""What tells by name whether a file has changed: the time of its last change, its size, its inode."""


class ProviderFiles(Mapping[str, Provider]):
    """The providers that may be used, by name. Lookups may come from any thread.

    Iterating gives the names, and parses nothing. A file that is wrong is logged once, when it is first looked up; a
    lookup finds no provider then, and `missing` gives the reason.

    Args:
        files: the files by the names of their providers.
        make: makes the provider of a file. It raises a `ConfigError` if the file, its address or its key is wrong.
        list_files: returns the files that there are now; None if none are added while the process runs.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        make: Callable[[Path], Provider],
        list_files: Callable[[], Mapping[str, Path]] | None = None,
    ) -> None:
        self._files = files
        self._make = make
        self._list_files = list_files or (lambda: files)
        self._providers: dict[str, Provider] = {}
        self._wrong: dict[str, str] = {}
        self._gone: set[str] = set()
        self._parsing = threading.Lock()
        self._last_look = self._read = _stamps(files)

    def __getitem__(self, name: str) -> Provider:
        provider = self._providers.get(name)
        return self._first_lookup(name) if provider is None else provider

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def load(self, name: str) -> Provider:
        """Return a declared provider.

        Raises:
            KeyError: none has this name.
            ConfigError: its file, its address or its key is wrong.
        """
        with self._parsing:
            return self._parsed(name)

    def readable(self) -> list[Provider]:
        """Return every provider whose file is right, by name. The first call parses all files: call it in a thread."""
        return [provider for name in sorted(self._files) if (provider := self.get(name)) is not None]

    def missing(self, name: str) -> str:
        """Return why a lookup finds no provider of this name, in words for an app."""
        if name in self._wrong:
            return f"'{name}' cannot be used here, because its file has a mistake: ask the operator of relay"
        return f"'{name}' is not declared here"

    def _first_lookup(self, name: str) -> Provider:
        with self._parsing:
            if name in self._wrong:
                raise KeyError(name)
            try:
                return self._parsed(name)
            except ConfigError as error:
                self._wrong[name] = error.detail
                log.error("provider cannot be used", provider=name, mistake=error.detail)
                raise KeyError(name) from None

    def _parsed(self, name: str) -> Provider:
        if name not in self._providers:
            self._providers[name] = self._make(self._files[name])
        return self._providers[name]

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Take in what changes in the files, while inside. A thread looks, so that a slow disk delays no event loop."""
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(LOOK_EVERY):
                try:
                    self.look()
                except Exception:  # whatever it is, the next change must still be noticed
                    log.exception("provider files not read again")

        threading.Thread(target=follow, name="provider-files", daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    def look(self) -> None:
        """Look at the files once, and read again what has changed and is not being written any more."""
        files = self._list_files()
        stamps = _stamps(files)
        settled = stamps == self._last_look
        self._last_look = stamps
        if not settled or stamps == self._read:
            return
        self._read = stamps
        self._take_in(files)

    def _take_in(self, files: Mapping[str, Path]) -> None:
        gone = self._providers.keys() - files.keys()
        for name in sorted(gone - self._gone):
            log.warning("provider file is gone; what was read of it holds until the next start", provider=name)
        self._gone = gone
        self._files = dict(sorted({**{name: self._files[name] for name in gone}, **files}.items()))
        # All that are in use, because a file may extend another one. One lock for each, so that lookups come between.
        for name in sorted(self._providers.keys() | self._wrong.keys()):
            if name in files:
                with self._parsing:
                    self._read_again(name)

    def _read_again(self, name: str) -> None:
        former = self._providers.get(name)
        try:
            provider = self._make(self._files[name])
        except ConfigError as error:
            if error.detail not in self._wrong.values():  # a mistake in a file is one of all that extend it, too
                held = "what was read before holds" if former else "the provider cannot be used"
                log.error(f"changed provider file is wrong; {held}", provider=name, mistake=error.detail)
            self._wrong[name] = error.detail
            return
        self._wrong.pop(name, None)
        if former is None or provider.definition != former.definition:
            self._providers[name] = provider
            log.info("provider file read again", provider=name)


def _stamps(files: Mapping[str, Path]) -> Stamps:
    """Return what tells whether files have changed. One that cannot be looked at has none."""
    stamps: Stamps = {}
    for name, file in files.items():
        try:
            status = file.stat()
            stamps[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            stamps[name] = None
    return stamps
