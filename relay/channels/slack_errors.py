"""What each of Slack's refusals means: some end a target, some a delivery, and some nothing at all.

https://docs.slack.dev/reference/methods/chat.postMessage#errors
https://docs.slack.dev/reference/methods/chat.update#errors
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase


class Refusal(StrEnum):
    """What a refusal means; the whole set.

    After a safe one nothing was posted, after an ambiguous one perhaps. Credentials, destination, payload and an ended
    hook need a person, the slow ones time. A message that is gone is posted anew, a frozen one cannot be edited.
    """

    RATE_LIMIT = "rate_limit"
    SAFE = "safe"
    AMBIGUOUS = "ambiguous"
    SLOW = "slow"
    CREDENTIALS = "credentials"
    DESTINATION = "destination"
    PAYLOAD = "payload"
    HOOK_ENDED = "hook_ended"
    GONE = "gone"
    FROZEN = "frozen"
    UNKNOWN = "unknown"


TOKEN = "set SLACK_BOT_TOKEN to the bot token (xoxb-…) from 'OAuth & Permissions' of the app"  # noqa: S105
REINSTALL = f"install the app in the workspace again and {TOKEN}"
ADMIN = "ask an administrator of the workspace to let the app post there, or choose another channel"
NEW_HOOK = "create a new webhook in Slack and register it"
OUR_BUG = "Slack does not take the message as relay builds it: please report this as a bug of relay"

# The codes of https://docs.slack.dev/reference/methods/chat.postMessage and of incoming webhooks, each with what mends
# it where somebody has to. A code that ends in * stands for all that begin so.
REFUSALS: dict[Refusal, dict[str, str | None]] = {
    Refusal.RATE_LIMIT: {"ratelimited": None, "rate_limited": None},
    Refusal.SAFE: {"request_timeout": None, "update_failed": None},
    Refusal.AMBIGUOUS: {
        "internal_error": None,
        "fatal_error": None,
        "service_unavailable": None,
        "rollup_error": None,
    },
    Refusal.SLOW: {
        "message_limit_exceeded": "the workspace has sent as many messages as its plan allows",
        "team_added_to_org": "the workspace is being moved into an organization",
        "org_login_required": "the workspace is being moved into an organization",
    },
    Refusal.CREDENTIALS: {
        "invalid_auth": TOKEN,
        "not_authed": TOKEN,
        "not_allowed_token_type": TOKEN,
        "account_inactive": REINSTALL,
        "token_revoked": REINSTALL,
        "token_expired": f"switch off token rotation for the app, {REINSTALL}",
        "missing_scope": "give the app the scope chat:write under 'OAuth & Permissions' and install it again",
        "access_denied": "ask an administrator of the workspace to approve the app",
        "team_access_not_granted": "ask an administrator of the organization to give the app this workspace",
    },
    Refusal.DESTINATION: {
        "channel_not_found": "check the channel's name; if it is private, invite the app: /invite @relay",
        "not_in_channel": "invite the app to the channel: /invite @relay",
        "is_archived": "unarchive the channel, or register another",
        "is_inactive": "unarchive the channel, or register another",
        "restricted_action*": ADMIN,
        "no_permission": ADMIN,
        "posting_to_channel_denied": ADMIN,
        "action_prohibited": ADMIN,
        "cannot_reply_to_message": "replies are not possible there: choose another channel",
    },
    Refusal.PAYLOAD: dict.fromkeys(
        (
            "invalid_blocks",
            "invalid_blocks_format",
            "msg_blocks_too_long",
            "msg_too_long",
            "no_text",
            "invalid_arguments",
            "metadata_too_large",
            "invalid_metadata_*",
            "invalid_payload",
        ),
        OUR_BUG,
    ),
    Refusal.GONE: {"message_not_found": None},
    Refusal.FROZEN: {"cant_update_message": None, "edit_window_closed": None},
}

HOOK_ENDED = {
    "invalid_token": f"the webhook was revoked: {NEW_HOOK}",
    "no_service": f"the webhook was removed or switched off: {NEW_HOOK}",
    "no_active_hooks": f"the webhook was switched off: {NEW_HOOK}",
    "no_team": f"the webhook's workspace is gone: {NEW_HOOK}",
    "team_disabled": f"the webhook's workspace is closed: {NEW_HOOK}",
    "channel_not_found": f"the webhook's channel is gone: {NEW_HOOK}",
    "channel_is_archived": f"the webhook's channel is archived: {NEW_HOOK}",
}
"""What ends an incoming webhook. It is bound to one channel, which cannot be changed."""

_SORTED = {code: (refusal, note) for refusal, codes in REFUSALS.items() for code, note in codes.items()}


def meaning(code: str | None, status: int, *, hook: bool) -> tuple[Refusal, str | None]:
    """What a refusal means, and what mends it if somebody has to.

    Args:
        code: Slack's word for it, if it said one.
        status: of HTTP; the Web API says most of its refusals with 200.
        hook: whether an incoming webhook said so.
    """
    if hook and code in HOOK_ENDED:
        return Refusal.HOOK_ENDED, HOOK_ENDED[code]
    if hook and status == 410:
        return Refusal.HOOK_ENDED, f"the webhook is gone: {NEW_HOOK}"
    if status == 429:
        return Refusal.RATE_LIMIT, None
    unknown = Refusal.AMBIGUOUS if status >= 500 else Refusal.UNKNOWN
    return next((found for known, found in _SORTED.items() if fnmatchcase(code or "", known)), (unknown, None))
