"""Setting Slack up: the app's manifest for this deployment, and what a token and a channel lack, in words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from relay.channels.base import DEADLINE
from relay.channels.slack_api import Answer, SlackApi, attempted
from relay.channels.slack_errors import meaning
from relay.errors import ConfigError

EXAMPLE = "https://relay.example"
"""Where the manifest in `config/` says that relay is."""

NEW_APP = "https://api.slack.com/apps?new_app=1&manifest_yaml="

SCOPES = {
    "chat:write": "post and edit messages",
    "commands": "the command /relay",
    "channels:read": "find a channel by its name",
    "channels:history": "find a message again after a crash, so that it is not posted twice",
    "groups:read": "find a private channel by its name",
    "groups:history": "the same as channels:history, in private channels",
}
"""What relay wants to be allowed, and for what; without the first it can do nothing."""

PAGES = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is well (None: not, but relay works), and what about it."""

    well: bool | None
    words: str


def manifest(file: Path, base_url: str) -> str:
    """The Slack app's manifest for a deployment.

    Args:
        file: `config/slack-manifest.yaml`.
        base_url: where Slack reaches relay.

    Raises:
        ConfigError: Slack could not reach it there, or the file cannot be read.
    """
    parts = urlsplit(base_url)
    if parts.scheme != "https" or not re.fullmatch(r"[\w.:-]+", parts.netloc):
        raise ConfigError("RELAY_BASE_URL: Slack has to reach relay for buttons and commands: set it to https://…")
    try:
        return file.read_text("utf-8").replace(EXAMPLE, base_url.rstrip("/"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None


def link(text: str) -> str:
    """The link that makes an app from a manifest with one click."""
    lines = (line.partition("  #")[0].rstrip() for line in text.splitlines() if not line.startswith("#"))
    return NEW_APP + quote("\n".join(lines), safe="")


async def check(api: SlackApi, channel: str) -> list[Finding]:
    """Looks at token, scopes and channel, without posting anything."""
    said = await _call(api, "auth.test", {})
    if isinstance(said, Finding):
        return [said]
    who = f"the token is good: {said.data.get('user')} in the workspace {said.data.get('team')}"
    found = [Finding(True, f"{who} ({said.data.get('team_id')})")]
    granted = {scope.strip() for scope in _header(said.headers, "x-oauth-scopes").split(",")}
    missing = [scope for scope in SCOPES if scope not in granted]
    found += [Finding(False if one == "chat:write" else None, _lacking(one)) for one in missing]
    if not missing:
        found.append(Finding(True, "it has every scope that relay wants"))
    return [*found, await _channel(api, channel)]


def _lacking(scope: str) -> str:
    return (
        f"the scope {scope} is missing ({SCOPES[scope]}): add it under 'OAuth & Permissions' and install the app again"
    )


async def _channel(api: SlackApi, channel: str) -> Finding:
    name = channel.removeprefix("#")
    if re.fullmatch("[CDG][A-Z0-9]{4,}", name):
        said = await _call(api, "conversations.info", {"channel": name})
        return said if isinstance(said, Finding) else _standing(channel, _object(said.data.get("channel")))
    types, cursor = "public_channel,private_channel", ""
    for _ in range(PAGES):
        about = {"types": types, "limit": "999", **({"cursor": cursor} if cursor else {})}
        said = await _call(api, "conversations.list", about)
        if isinstance(said, Finding):
            if types.count(",") and "groups:read" in said.words:
                types = "public_channel"
                continue
            return Finding(None, f"{channel} could not be looked up: {said.words}; its id (C…) would do")
        listed = said.data.get("channels")
        for one in listed if isinstance(listed, list) else []:
            if _object(one).get("name") == name:
                return _standing(channel, one)
        cursor = str(_object(said.data.get("response_metadata")).get("next_cursor") or "")
        if not cursor:
            break
    return Finding(False, f"there is no channel {channel} that the app can see: if it is private, /invite @relay there")


def _standing(channel: str, about: Mapping[str, Any]) -> Finding:
    if about.get("is_archived"):
        return Finding(False, f"{channel} is archived: unarchive it, or choose another")
    if not about.get("is_member"):
        return Finding(False, f"the app is not in {channel}: type '/invite @relay' there")
    return Finding(True, f"the app is in {channel} ({about.get('id')})")


async def _call(api: SlackApi, method: str, about: Mapping[str, str]) -> Answer | Finding:
    """The answer to a call, or why there is none."""
    try:
        async with asyncio.timeout(DEADLINE):
            answer = await attempted(api.call(method, about))
    except TimeoutError:
        return Finding(False, f"Slack did not answer within {DEADLINE:g} s")
    if not isinstance(answer, Answer):
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
