"""Sending: one event to one target of any channel, signed, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from relay.channels.base import Channel, Message, Preview
from relay.errors import NotFound
from relay.model.delivery import Attempt, Outcome, Verdict
from relay.model.event import EventType, event_body
from relay.model.ids import new_id
from relay.model.times import Millis
from relay.outbound.shares import on_behalf_of
from relay.security import app_keys
from relay.security.vault import Vault
from relay.store import Database, apps, watches
from relay.store.outbox import DeliveryClaim
from relay.telemetry.tracing import Tracing

SECRETS_CACHE: Millis = 1000
"""Milliseconds for which an app's signing secrets are kept after they were read: a new one signs no later than this."""

SECRETS_REFRESH: Millis = 500
"""Milliseconds after which they are read again meanwhile, so that no message has to wait for them."""


class Sender:
    """Sends one message at a time, in the way of its target's channel.

    Args:
        channels: by the type of their targets.
        db: where the signing secrets are.
        vault: opens addresses and signing secrets.
        clock: returns the milliseconds since the epoch.
        tracing: traces attempts.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel[Any]],
        db: Database,
        vault: Vault,
        clock: Callable[[], Millis],
        tracing: Tracing,
    ) -> None:
        self._channels = channels
        self._db = db
        self._vault = vault
        self._clock = clock
        self._tracing = tracing
        self._known_secrets: dict[str, tuple[Millis, list[app_keys.Secret]]] = {}
        self._reading: dict[str, asyncio.Task[list[app_keys.Secret]]] = {}

    async def deliver(self, claim: DeliveryClaim) -> Attempt:
        """Try a delivery once.

        Raises:
            StoreUnavailable: the signing secrets cannot be read; nothing was sent.
        """
        parents = await self._db.read(watches.traceparents, [claim.watch_id]) if self._tracing.on else {}
        message = Message(
            id=claim.webhook_id,
            type=claim.event_type,
            body=claim.body,
            address=orjson.loads(self._vault.open(claim.address, claim.target_id)),
            secrets=await self.secrets(claim.app_id),
            at=self._clock(),
            target_id=claim.target_id,
            traceparent=parents.get(claim.watch_id),
            again=claim.attempts > 0,
        )
        with on_behalf_of(claim.app_id):
            return await self._attempt(claim.target_type, message, claim.attempts + 1)

    async def test(
        self, app_id: str, target_type: str, address: dict[str, Any], text: str, traceparent: str | None = None
    ) -> tuple[str, Attempt]:
        """Send a `relay.test` event to a target now, signed like any other event.

        Args:
            address: the content of the target's `Address`.

        Returns:
            Its `webhook-id`, and the attempt.
        """
        message = Message(
            id=new_id("evt"),
            type=EventType.TEST,
            body=event_body(EventType.TEST, self._clock(), {"message": text}),
            address=address,
            secrets=await self.secrets(app_id),
            at=self._clock(),
            traceparent=traceparent,
        )
        with on_behalf_of(app_id):
            return message.id, await self._attempt(target_type, message, 1)

    async def preview(
        self, app_id: str, target_type: str, address: dict[str, Any], event: tuple[str, str, bytes], at: Millis
    ) -> Preview | None:
        """Return what an attempt to send an event at a time looks like; None if its channel has no such thing.

        Args:
            address: the content of the target's `Address`.
            event: its `webhook-id`, its type and its body.
        """
        channel = self._channels.get(target_type)
        secrets = await self.secrets(app_id)
        if channel is None:
            return None
        return channel.preview(Message(*event, address=address, secrets=secrets, at=at))

    async def _attempt(self, target_type: str, message: Message, number: int) -> Attempt:
        """Send a message to a target of a type, as attempt `number`."""
        started = time.monotonic()
        with self._tracing.span("deliver", "client", message.traceparent) as span:
            outcome = await self._outcome(target_type, replace(message, traceparent=span.traceparent))
            failed = None if outcome.verdict is Verdict.DELIVERED else outcome.error or outcome.verdict
            span.note(
                {
                    "webhook_id": message.id,
                    "event": message.type,
                    "target": target_type,
                    "attempt": number,
                    "verdict": outcome.verdict,
                    "status": outcome.status,
                },
                failed,
            )
        return Attempt(number, message.at, round((time.monotonic() - started) * 1000), outcome)

    async def _outcome(self, target_type: str, message: Message) -> Outcome:
        channel = self._channels.get(target_type)
        if channel is None:
            return Outcome(Verdict.RETRY, "not_configured", note=f"this deployment has no channel '{target_type}'")
        return await channel.send(message)

    async def secrets(self, app_id: str) -> list[str]:
        """Return the app's signing secrets that are valid now, newest first."""
        now = self._clock()
        read_at, stored = self._known_secrets.get(app_id, (now, []))
        age = now - read_at
        if not stored or not 0 <= age <= SECRETS_CACHE:
            stored = await asyncio.shield(self._secrets_read(app_id))
        elif age > SECRETS_REFRESH:
            self._secrets_read(app_id)
        return [secret["secret"] for secret in app_keys.valid(stored, now)]

    def _secrets_read(self, app_id: str) -> asyncio.Task[list[app_keys.Secret]]:
        """Read an app's signing secrets: once for all messages that ask for them meanwhile."""
        task = self._reading.get(app_id)
        if task is None:
            task = self._reading[app_id] = asyncio.create_task(self._read_secrets(app_id))
            task.add_done_callback(partial(self._secrets_are_read, app_id))
        return task

    def _secrets_are_read(self, app_id: str, task: asyncio.Task[list[app_keys.Secret]]) -> None:
        del self._reading[app_id]
        if not task.cancelled():
            task.exception()  # raised for those that wait; others ask again

    async def _read_secrets(self, app_id: str) -> list[app_keys.Secret]:
        now = self._clock()
        sealed = await self._db.read(apps.secrets, app_id)
        if sealed is None:
            raise NotFound(f"there is no app '{app_id}'")
        stored: list[app_keys.Secret] = orjson.loads(self._vault.open(sealed, app_id))
        self._known_secrets[app_id] = (now, stored)
        return stored
