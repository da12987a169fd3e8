"""Lookups of names. One that is not answered takes its thread for half a minute, whoever has asked.

So those of upstreams, of Slack, of receivers and of registrations have threads of their own each, an app has its share
of them, and a name that no one waits for any more is not looked up.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, ip_address

from aiohappyeyeballs import AddrInfoType

from relay.outbound.descriptors import none_left, used_up
from relay.outbound.shares import OWNER, Shares

DNS_CACHE = 10.0
"""Seconds for which the addresses of a name are believed."""

FAILURE_CACHE = 3.0
"""Seconds for which it is believed that a name has none."""

Lookup = asyncio.Future[list[AddrInfoType]]


@dataclass(slots=True)
class _Turn:
    """A name that waits for a thread, for one owner, and how many callers wait with it."""

    task: asyncio.Task[Lookup]
    callers: int = 0


class Lookups:
    """Looks names up, each once for all who ask at the same time or soon after.

    Args:
        kind: what for, in the names of the threads.
        threads: names that are looked up at once.
    """

    def __init__(self, kind: str, threads: int) -> None:
        self._shares = Shares(threads)
        self._threads = ThreadPoolExecutor(threads, f"lookup-{kind}")
        self._lookups: dict[str, Lookup] = {}
        self._turns: dict[tuple[str, str], _Turn] = {}

    async def addresses(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """Return the addresses of a host, with the port.

        Raises:
            OSError, UnicodeError: there are none, for the reason that the resolver gives.
        """
        if literal := _literal(host, port):
            return [literal]
        lookup = self._lookups.get(host) or await self._begun(host)
        return [_with_port(address, port) for address in await asyncio.shield(lookup)]

    async def _begun(self, host: str) -> Lookup:
        """Return the lookup of a name, once it has its thread. Give the turn up with the last caller that leaves."""
        key = (OWNER.get(), host)
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = _Turn(asyncio.create_task(self._begin(*key)))
        turn.callers += 1
        try:
            return await asyncio.shield(turn.task)
        finally:
            turn.callers -= 1
            if not turn.callers:
                turn.task.cancel()
                if self._turns.get(key) is turn:
                    del self._turns[key]

    async def _begin(self, owner: str, host: str) -> Lookup:
        if not self._shares.take(owner):
            await self._shares.wait(owner)
        lookup = self._lookups.get(host)
        if lookup is not None:  # another owner's turn came first
            self._shares.give_back(owner)
            return lookup
        loop = asyncio.get_running_loop()
        lookup = self._lookups[host] = loop.run_in_executor(self._threads, _resolved, host)
        lookup.add_done_callback(partial(self._ended, owner, host))
        return lookup

    def _ended(self, owner: str, host: str, lookup: Lookup) -> None:
        """Free the thread, and remember for a while what came of it."""
        self._shares.give_back(owner)
        error = None if lookup.cancelled() else lookup.exception()
        believed = DNS_CACHE if error is None else 0.0 if used_up(error) else FAILURE_CACHE
        lookup.get_loop().call_later(believed, self._lookups.pop, host, None)


def _resolved(host: str) -> list[AddrInfoType]:
    """Ask the system's resolver, in a thread."""
    try:
        return [*socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        if none_left():  # it says of the name what is true of this process
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None
        raise


def _literal(host: str, port: int) -> AddrInfoType | None:
    """Return the address that a host is in its usual notation; None for a name, for which there is a resolver."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
    if address.scope_id is not None:
        return None
    return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)


def _with_port(address: AddrInfoType, port: int) -> AddrInfoType:
    family, kind, protocol, name, target = address
    return family, kind, protocol, name, (target[0], port, *target[2:])
