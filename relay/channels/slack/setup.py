"""Setting Slack up: the app's manifest for this deployment, and a check of the token and a channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from relay.channels.base import DEADLINE
from relay.channels.slack.api import SlackAnswer, SlackApi, attempted
from relay.channels.slack.errors import meaning
from relay.errors import ConfigError
from relay.outbound.deadline import Deadline

EXAMPLE = "https://relay.example"
"""The address of relay in the manifest in `config/`."""

NEW_APP = "https://api.slack.com/apps?new_app=1&manifest_yaml="

SCOPES = {
    "chat:write": "post and edit messages",
    "commands": "the command /relay",
    "channels:read": "find a channel by its name",
    "channels:history": "find a message again after a crash, so that it is not posted twice",
    "groups:read": "find a private channel by its name",
    "groups:history": "the same as channels:history, in private channels",
}
"""The scopes that relay wants, and what for. Without the first it can do nothing."""

PAGES = 20
"""Pages of the list of channels that are read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the check.

    Attributes:
        well: whether this part is as it should be; None if it is not, but relay works.
        words: what was found, and what to do.
    """

    well: bool | None
    words: str


def manifest(file: Path, base_url: str) -> str:
    """Return the Slack app's manifest for a deployment.

    Args:
        file: `config/slack-manifest.yaml`.
        base_url: the address at which Slack reaches relay.

    Raises:
        ConfigError: Slack cannot reach that address, or the file cannot be read.
    """
    parts = urlsplit(base_url)
    if parts.scheme != "https" or not re.fullmatch(r"[\w.:-]+", parts.netloc):
        raise ConfigError("RELAY_BASE_URL: Slack has to reach relay for buttons and commands: set it to https://…")
    try:
        return file.read_text("utf-8").replace(EXAMPLE, base_url.rstrip("/"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None


def link(text: str) -> str:
    """Return the link that makes an app from a manifest with one click."""
    lines = (line.partition("  #")[0].rstrip() for line in text.splitlines() if not line.startswith("#"))
    return NEW_APP + quote("\n".join(lines), safe="")


async def check(api: SlackApi, channel: str) -> list[Finding]:
    """Check the token, its scopes and a channel, without posting anything."""
    answer = await _call(api, "auth.test", {})
    if isinstance(answer, Finding):
        return [answer]
    user = f"{answer.data.get('user')} in the workspace {answer.data.get('team')} ({answer.data.get('team_id')})"
    findings = [Finding(True, f"the token is good: {user}")]
    granted = {scope.strip() for scope in _header(answer.headers, "x-oauth-scopes").split(",")}
    missing = [scope for scope in SCOPES if scope not in granted]
    findings += [Finding(False if scope == "chat:write" else None, _missing(scope)) for scope in missing]
    if not missing:
        findings.append(Finding(True, "it has every scope that relay wants"))
    return [*findings, await _channel(api, channel)]


def _missing(scope: str) -> str:
    return (
        f"the scope {scope} is missing ({SCOPES[scope]}): add it under 'OAuth & Permissions' and install the app again"
    )


async def _channel(api: SlackApi, channel: str) -> Finding:
    """Check whether the app can post to a channel."""
    name = channel.removeprefix("#")
    if re.fullmatch("[CDG][A-Z0-9]{4,}", name):
        answer = await _call(api, "conversations.info", {"channel": name})
        return answer if isinstance(answer, Finding) else _membership(channel, _object(answer.data.get("channel")))
    types = "public_channel,private_channel"
    cursor = ""
    for _ in range(PAGES):
        about = {"types": types, "limit": "999", **({"cursor": cursor} if cursor else {})}
        answer = await _call(api, "conversations.list", about)
        if isinstance(answer, Finding):
            if types.count(",") and "groups:read" in answer.words:
                types = "public_channel"
                continue
            return Finding(None, f"{channel} could not be looked up: {answer.words}; its id (C…) would do")
        entries = answer.data.get("channels")
        for entry in entries if isinstance(entries, list) else []:
            if _object(entry).get("name") == name:
                return _membership(channel, entry)
        cursor = str(_object(answer.data.get("response_metadata")).get("next_cursor") or "")
        if not cursor:
            break
    return Finding(False, f"there is no channel {channel} that the app can see: if it is private, /invite @relay there")


def _membership(channel: str, about: Mapping[str, Any]) -> Finding:
    if about.get("is_archived"):
        return Finding(False, f"{channel} is archived: unarchive it, or choose another")
    if not about.get("is_member"):
        return Finding(False, f"the app is not in {channel}: type '/invite @relay' there")
    return Finding(True, f"the app is in {channel} ({about.get('id')})")


async def _call(api: SlackApi, method: str, about: Mapping[str, str]) -> SlackAnswer | Finding:
    """Return the answer to a call, or why there is none."""
    try:
        with Deadline(DEADLINE):
            answer = await attempted(api.call(method, about))
    except TimeoutError:
        return Finding(False, f"Slack did not answer within {DEADLINE:g} s")
    if not isinstance(answer, SlackAnswer):
        return Finding(False, f"Slack cannot be reached: {answer.note or answer.error}")
    if answer.taken:
        return answer
    if answer.code == "missing_scope":
        return Finding(False, f"the scope {answer.data.get('needed')} is missing")
    _, note = meaning(answer.code, answer.status, hook=False)
    return Finding(False, f"Slack says {answer.code or answer.status}" + (f": {note}" if note else ""))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")
