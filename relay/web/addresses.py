"""Targets as apps give them, checked for where they lead, sealed for the store, and shown again without their secrets.

The check at registration is a courtesy, so that a mistake is told at once; the guard at every connection is what holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal

import orjson

from relay.guard import Guard, literal_address
from relay.ids import new_id
from relay.masking import MASK
from relay.settings import Settings
from relay.store.watches import FoundTarget, NewTarget
from relay.vault import Vault
from relay.web.answers import TargetOut
from relay.web.schemas import SlackTarget, WebhookTarget, split_url

RESOLVE_TIMEOUT, LOOKUPS = 2.0, 8
"""Seconds for which a name is looked up, and names at once: in threads that only registrations wait for."""

NEVER_PUBLIC = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".intranet")


class Refused(ValueError):
    """An address that a target may not have: which field says so, and why."""

    def __init__(self, field: str, detail: str) -> None:
        self.field = field
        super().__init__(detail)


class Addresses:
    """Judges, seals and shows the addresses of targets.

    Args:
        settings: which networks are allowed, and what Slack needs.
        guard: judges addresses.
        vault: seals.
    """

    def __init__(self, settings: Settings, guard: Guard, vault: Vault) -> None:
        self._settings, self._guard, self._vault = settings, guard, vault
        self._threads = ThreadPoolExecutor(LOOKUPS, "registration")

    async def check(self, target: WebhookTarget | SlackTarget) -> None:
        """Refuses a target that could never be reached, or must not be.

        Raises:
            Refused: with what to do about it.
        """
        if isinstance(target, WebhookTarget):
            await self._check_url("url", target.url)
        elif target.webhook_url is not None:
            parts = split_url(target.webhook_url)
            hosts = self._settings.slack_hook_hosts
            if parts.hostname not in hosts and parts.netloc not in hosts:
                raise Refused("webhook_url", f"must be at {' or '.join(hosts)}: SLACK_HOOK_HOSTS can allow others")
            await self._check_url("webhook_url", target.webhook_url)
        elif self._settings.slack_bot_token is None:
            raise Refused("channel", "this deployment has no SLACK_BOT_TOKEN: use a 'webhook_url', or set the token")

    async def _check_url(self, field: str, url: str) -> None:
        parts = split_url(url)
        host = (parts.hostname or "").rstrip(".").lower()
        private = "leads to an address that is not public: RELAY_ALLOWED_NETWORKS can allow it"
        literal = literal_address(host)
        if literal is not None:
            if not self._guard.permits(literal):
                raise Refused(field, private)
            if parts.scheme == "http" and not self._guard.allows(literal):
                raise Refused(field, "must begin with https:// (http:// only within RELAY_ALLOWED_NETWORKS)")
            return
        local = "." not in host or host.endswith(NEVER_PUBLIC)
        if parts.scheme == "https" and not local:
            return
        found = [ip_address(text) for text in await self._resolve(host)]
        if local and not (found and all(self._guard.permits(address) for address in found)):
            raise Refused(field, private)
        if parts.scheme == "http" and not (found and all(self._guard.allows(address) for address in found)):
            raise Refused(field, "must begin with https:// (http:// only within RELAY_ALLOWED_NETWORKS)")

    async def _resolve(self, host: str) -> Sequence[str]:
        """The addresses of a name; none when it has none, or none in time."""
        look_up = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except (OSError, TimeoutError, UnicodeError):
            return ()
        return [str(info[4][0]) for info in found]

    def seal(self, app_id: str, target: WebhookTarget | SlackTarget) -> NewTarget:
        """The target as it is stored for an app."""
        kind: Literal["webhook", "slack"] = target.type
        if isinstance(target, WebhookTarget):
            address: dict[str, Any] = {"url": target.url, "headers": target.headers}
            host = split_url(target.url).netloc.lower()
        elif target.webhook_url is not None:
            address, host = {"webhook_url": target.webhook_url}, split_url(target.webhook_url).netloc.lower()
        else:
            address, host = {"channel": target.channel}, "slack"
        living = isinstance(target, SlackTarget) and target.channel is not None and bool(self._settings.slack_bot_token)
        events = tuple(dict.fromkeys(target.events))
        plain = orjson.dumps(address, option=orjson.OPT_SORT_KEYS)
        fingerprint = hashlib.sha256(b"\0".join((kind.encode(), plain, ",".join(sorted(events)).encode()))).digest()
        place = address.get("url") or address.get("webhook_url") or address["channel"].lstrip("#")
        digest = hashlib.sha256(f"{app_id}\0{kind}\0{place}".encode()).hexdigest()
        target_id = new_id("tgt")
        sealed = self._vault.seal(plain, target_id)
        return NewTarget(target_id, kind, sealed, digest, host, events, fingerprint, living)

    def show(self, target: FoundTarget) -> TargetOut:
        """The target as its app sees it: header values and Slack's webhook secrets are masked."""
        address = orjson.loads(self._vault.open(target.address, target.id))
        shown = TargetOut(
            id=target.id,
            type="webhook" if target.type == "webhook" else "slack",
            events=list(target.events),
            delivery=target.delivery,
            reason=target.reason,
        )
        if "url" in address:
            shown["url"] = address["url"]
            shown["headers"] = dict.fromkeys(address["headers"], MASK)
        elif "webhook_url" in address:
            parts = split_url(address["webhook_url"])
            shown["webhook_url"] = f"{parts.scheme}://{parts.netloc}/{MASK}"
        else:
            shown["channel"] = address["channel"]
        return shown
