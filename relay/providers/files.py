"""The provider files of a deployment. There are many, and most are never used: each is parsed when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import structlog

from relay.errors import ConfigError
from relay.providers.provider import Provider

log = structlog.stdlib.get_logger(__name__)


class ProviderFiles(Mapping[str, Provider]):
    """The providers that may be used, by name. Lookups may come from any thread.

    Iterating gives the names, and parses nothing. A file that is wrong is logged once, when it is first looked up; a
    lookup finds no provider then, and `missing` gives the reason.

    Args:
        files: the files by the names of their providers.
        make: makes the provider of a file. It raises a `ConfigError` if the file, its address or its key is wrong.
    """

    def __init__(self, files: Mapping[str, Path], make: Callable[[Path], Provider]) -> None:
        self._files = files
        self._make = make
        self._providers: dict[str, Provider] = {}
        self._wrong: set[str] = set()
        self._parsing = threading.Lock()

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
                self._wrong.add(name)
                log.error("provider cannot be used", provider=name, mistake=error.detail)
                raise KeyError(name) from None

    def _parsed(self, name: str) -> Provider:
        if name not in self._providers:
            self._providers[name] = self._make(self._files[name])
        return self._providers[name]
