"""What a channel is given when a test calls it directly."""

from __future__ import annotations

from ipaddress import ip_network
from tempfile import mkdtemp

import httpx

from relay.channels.base import Resources, TargetTransport
from relay.channels.urls import UrlCheck
from relay.outbound.transport import Transport
from relay.security.guard import Guard
from relay.settings.sources import load
from relay.store import Database
from relay.wiring import now

LOOPBACK = Guard([ip_network("127.0.0.0/8")])


def noun_of(provider: str) -> str:
    """Return the noun of two providers."""
    return {"unified-video": "Video", "assemblyai": "Transcription"}.get(provider, "Task")


def resources(transport: httpx.AsyncBaseTransport | None = None, guard: Guard = LOOPBACK, **environ: str) -> Resources:
    """Make the resources of a deployment with these variables. No test that uses them reaches the database."""
    if transport is None:
        transport = TargetTransport(*(Transport(g, timeout=5, max_bytes=100) for g in (guard, guard.plain())))
    settings, db = load(environ), Database(f"sqlite:///{mkdtemp(prefix='relay-')}/unused.db")
    return Resources(settings, transport, UrlCheck(guard), guard, db, "test", now, noun_of)
