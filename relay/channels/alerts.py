"""Where the operator is notified: RELAY_ALERTS as targets, and the app that alerts belong to."""

from __future__ import annotations

import re
import secrets
from functools import partial
from urllib.parse import urlsplit

from pydantic import ValidationError

from relay.channels.base import Target
from relay.channels.slack.target import SlackTarget
from relay.channels.targets import Targets
from relay.channels.webhook import WebhookTarget
from relay.errors import ConfigError, Conflict
from relay.model.ids import new_id
from relay.model.times import Millis
from relay.security import app_keys, signing
from relay.security.vault import Vault
from relay.settings.options import Settings
from relay.store import Database, alerts, apps


def declare_alerts(db: Database, vault: Vault, settings: Settings, targets: Targets, at: Millis) -> None:
    """Have alerts sent to where RELAY_ALERTS says, and signed with RELAY_SIGNING_SECRET or with a secret of their own.

    They belong to an app that is made when it is first needed. `relay apps rotate-secret` prints its secret.

    Raises:
        ConfigError: RELAY_ALERTS is wrong.
    """
    wanted = _given(settings)
    app = db.run_here(apps.by_name, apps.ALERTS_APP)
    if app is None:
        if not wanted:
            return
        app_id = new_id("app")
        sealed = app_keys.sealed(vault, app_id, app_keys.rotated([], _alert_secret(settings), at, app_keys.OVERLAP))
        key_hash = app_keys.hash_key(secrets.token_urlsafe(32))  # no one has it
        try:
            db.run_here(apps.create, app_id, apps.ALERTS_APP, key_hash, sealed, at)
        except Conflict:  # with a process that started at the same moment
            app = db.run_here(apps.by_name, apps.ALERTS_APP)
            app_id = app_id if app is None else app.id
    else:
        app_id = app.id
        known = app_keys.opened(vault, app)
        if settings.signing_secret is not None and known[0]["secret"] != settings.signing_secret:
            renewed = app_keys.rotated(known, settings.signing_secret, at, app_keys.OVERLAP)
            db.run_here(partial(apps.change, secrets=app_keys.sealed(vault, app_id, renewed)), app_id)
    db.run_here(alerts.declare, app_id, [targets.seal(app_id, target) for target in wanted], at)


def _alert_secret(settings: Settings) -> str:
    return settings.signing_secret or signing.new_secret()


def _given(settings: Settings) -> list[Target]:
    """Return the targets that RELAY_ALERTS names: channels of Slack, incoming webhooks, and URLs.

    Raises:
        ConfigError: a part is none of these, or there is no bot for a channel.
    """
    return [_target(text, settings) for text in settings.alerts]


def _target(text: str, settings: Settings) -> Target:
    try:
        if re.match("https?://", text):
            if _hosts(text) & set(settings.slack_hook_hosts):
                return SlackTarget.model_validate({"type": "slack", "webhook_url": text})
            return WebhookTarget(type="webhook", url=text)
        if re.fullmatch("#.+|[CDG][A-Z0-9]{4,}", text):
            if settings.slack_bot_token is None:
                raise ConfigError(f"RELAY_ALERTS: to post to '{text}', relay needs SLACK_BOT_TOKEN; or give a webhook")
            return SlackTarget.model_validate({"type": "slack", "channel": text})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"RELAY_ALERTS: a part of it {why}") from None
    raise ConfigError(
        "RELAY_ALERTS: each part must be a channel of Slack (#ops), an incoming webhook or a URL of yours (https://…)"
    )


def _hosts(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
        return {parts.hostname or "", parts.netloc}
    except ValueError:
        return set()
