"""What is stored in short, in whole sentences for people: why a delivery has not arrived, and where it goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from relay.channels.base import DEADLINE
from relay.channels.targets import Targets
from relay.errors import ConfigError
from relay.model.delivery import DeliveryState
from relay.store.schema import AnyRow
from relay.store.watches import StoredTarget

REASONS = {
    "timeout": f"the receiver did not answer within {DEADLINE:g} s",
    "dns": "the receiver's name was not found",
    "connect": "the receiver took no connection",
    "tls": "the receiver has no certificate that can be trusted",
    "disconnected": "the receiver closed the connection without an answer",
    "blocked": "relay may not connect to the receiver's address",
    "protocol": "what the receiver answered is not HTTP",
}

HELD = "held: "


def why(reason: str, path: str = "") -> str:
    """Return why a delivery has not arrived; what is a sentence already stays as it is.

    Args:
        path: where at the receiver it goes.
    """
    if reason.startswith(HELD):
        return HELD + why(reason.removeprefix(HELD), path)
    at = f" at {path}" if path else ""
    if status := re.fullmatch(r"http_(\d{3})", reason):
        return f"the receiver answered {status[1]}{at}"
    return f"{REASONS[reason]}{at if reason == 'timeout' else ''}" if reason in REASONS else reason


def stored_target(row: AnyRow) -> StoredTarget:
    """Return a target from its own row, or from that of a delivery to it with its type and address."""
    target_id = row.target_id if "target_id" in row._mapping else row.id
    return StoredTarget(target_id, row.type, row.address, row.place, row.host, (), DeliveryState.WAITING, None)


def title(targets: Targets, target: StoredTarget) -> str:
    """Return what people call a target; its host if its address cannot be opened."""
    try:
        return targets.title(target)
    except ConfigError:  # a key of the vault is missing: the page says what it can
        return target.host


def path_of(called: str) -> str:
    """Return the path of a target's URL, without what may be secret in its query; none if it is no URL."""
    try:
        parts = urlsplit(called)
    except ValueError:
        return ""
    return parts.path or "/" if parts.scheme in ("http", "https") else ""


def place(targets: Targets, target: StoredTarget) -> str:
    """Return where a delivery goes: host and path, so that two of one host are told apart; or a channel's name."""
    called = title(targets, target)
    path = path_of(called)
    if path:
        return target.host + path
    return target.host if called == target.host else f"{called} ({target.host})"


def paths(targets: Targets) -> Callable[[StoredTarget], str]:
    """Return a function for templates that returns the path of a target."""
    return lambda target: path_of(title(targets, target))
