"""What each refusal of Slack's means: some end a target, some end a delivery, some end nothing.

https://docs.slack.dev/reference/methods/chat.postMessage#errors
https://docs.slack.dev/reference/methods/chat.update#errors
https://docs.slack.dev/reference/methods/conversations.replies#errors
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks#handling_errors
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase


class Refusal(StrEnum):
    """What a refusal means; the whole set.

    After a safe refusal nothing was posted; after an ambiguous one, something may have been. Credentials, destination,
    payload and an ended hook need a person, slow refusals need time. A message that is gone is posted again, a frozen
    one cannot be edited, one without a thread gets no reply. What Slack does not take for its layout goes plainer.
    """

    RATE_LIMIT = "rate_limit"
    SAFE = "safe"
    AMBIGUOUS = "ambiguous"
    SLOW = "slow"
    CREDENTIALS = "credentials"
    DESTINATION = "destination"
    LAYOUT = "layout"
    PAYLOAD = "payload"
    HOOK_ENDED = "hook_ended"
    GONE = "gone"
    FROZEN = "frozen"
    NO_THREAD = "no_thread"
    UNKNOWN = "unknown"


GIVEN_UP = frozenset(
    (
        Refusal.CREDENTIALS,
        Refusal.DESTINATION,
        Refusal.LAYOUT,
        Refusal.PAYLOAD,
        Refusal.HOOK_ENDED,
        Refusal.NO_THREAD,
    )
)
"""What no retry mends."""

TOKEN = "set SLACK_BOT_TOKEN to the bot token (xoxb-…) from 'OAuth & Permissions' of the app"  # noqa: S105
REINSTALL = f"install the app in the workspace again and {TOKEN}"
ADMIN = "ask an administrator of the workspace to let the app post there, or choose another channel"
NAME = "check the channel's name, or give its id (C…); if it is private, invite the app: /invite @relay"
SHARING = "an administrator does not allow such links in shared channels: choose another channel"
ARCHIVED = "unarchive the channel, or register another"
MIGRATION = "the workspace is being moved into an organization"
NEW_HOOK = "create a new webhook in Slack and register it"
OUR_BUG = "Slack does not take the message as relay builds it: please report this as a bug of relay"
OLD = "Slack has changed how it is called: upgrade relay"

TOO_LONG = "msg_too_long"

# The codes that Slack documents for chat.postMessage, chat.update, conversations.* and incoming webhooks, each with
# what a person can do about it. A code that ends in * stands for all codes that begin like it.
REFUSALS: dict[Refusal, dict[str, str | None]] = {
    Refusal.RATE_LIMIT: dict.fromkeys(("ratelimited", "rate_limited")),
    Refusal.SAFE: dict.fromkeys(("request_timeout", "update_failed", "streaming_state_conflict")),
    Refusal.AMBIGUOUS: dict.fromkeys(
        ("internal_error", "fatal_error", "service_unavailable", "rollup_error", "messaging_processing_failed")
    ),
    Refusal.SLOW: {
        "message_limit_exceeded": "the workspace has sent as many messages as its plan allows",
        "external_channel_migrating": "the channel is being moved into another organization",
        "team_added_to_org": MIGRATION,
        "org_login_required": MIGRATION,
        "migration_in_progress": MIGRATION,
    },
    Refusal.CREDENTIALS: {
        "invalid_auth": TOKEN,
        "not_authed": TOKEN,
        "not_allowed_token_type": TOKEN,
        "metadata_must_be_sent_from_app": TOKEN,
        "as_user_not_supported": TOKEN,
        "account_inactive": REINSTALL,
        "token_revoked": REINSTALL,
        "token_expired": f"switch off token rotation for the app, {REINSTALL}",
        "missing_scope": "give the app the scope chat:write under 'OAuth & Permissions' and install it again",
        "access_denied": "ask an administrator of the workspace to approve the app",
        "accesslimited": "allow relay's address under 'Restrict API Token Usage' of the app",
        "two_factor_setup_required": "set up two-factor authentication for the account that installed the app",
        "team_access_not_granted": "ask an administrator of the organization to give the app this workspace",
        "enterprise_is_restricted": "install the app in a workspace of the organization, and use that token",
    },
    Refusal.DESTINATION: {
        "channel_not_found": NAME,
        "team_not_found": NAME,
        "user_not_found": NAME,
        "users_not_found": NAME,
        "method_not_supported_for_channel_type": NAME,
        "not_in_channel": "invite the app to the channel: /invite @relay",
        "is_archived": ARCHIVED,
        "channel_is_archived": ARCHIVED,
        "is_inactive": ARCHIVED,
        "no_permission": ADMIN,
        "action_prohibited": ADMIN,
        "ekm_access_denied": ADMIN,
        "posting_to_channel_denied": ADMIN,
        "posting_to_general_channel_denied": ADMIN,
        "restricted_action*": ADMIN,
        "user_is_restricted": ADMIN,
        "messages_tab_disabled": "switch on the Messages Tab under 'App Home' of the app, or choose a channel",
        "cannot_dm_bot": "relay cannot write to another app: choose a channel",
        "slack_connect_*": SHARING,
    },
    Refusal.LAYOUT: dict.fromkeys(
        (
            TOO_LONG,
            "invalid_blocks",
            "invalid_blocks_format",
            "msg_blocks_too_long",
            "block_mismatch",
            "alt_txt_too_large",
            "invalid_arguments",
            "invalid_payload",
        ),
        OUR_BUG,
    ),
    Refusal.PAYLOAD: {
        **dict.fromkeys(
            (
                "no_text",
                "missing_text_or_fallback_or_attachments",
                "markdown_text_conflict",
                "attachment_payload_limit_exceeded",
                "invalid_attachments",
                "too_many_attachments",
                "too_many_contact_cards",
                "metadata_too_large",
                "invalid_metadata_*",
                "duplicate_*_not_found",
                "cant_broadcast_message",
                "no_dual_broadcast_content_update",
                "message_not_in_streaming_state",
                "send_on_behalf_not_allowed",
                "blocked_file_type",
                "file_*",
                "max_file_sharing_exceeded",
                "missing_file_data",
                "unable_to_share_files",
                "missing_argument",
                "missing_post_type",
                "invalid_arg_name",
                "invalid_array_arg",
                "invalid_charset",
                "invalid_cursor",
                "invalid_form_data",
                "invalid_json",
                "invalid_limit",
                "invalid_post_type",
                "invalid_ts_*",
                "invalid_types",
                "json_not_object",
            ),
            OUR_BUG,
        ),
        **dict.fromkeys(("deprecated_endpoint", "method_deprecated", "unknown_method", "upgrade_required"), OLD),
    },
    Refusal.GONE: {"message_not_found": None},
    Refusal.FROZEN: dict.fromkeys(("cant_update_message", "edit_window_closed", "message_not_owned_by_app")),
    Refusal.NO_THREAD: dict.fromkeys(
        (
            "thread_not_found",
            "cannot_reply_to_message",
            "restricted_action_non_threadable_channel",
            "restricted_action_thread_locked",
        ),
        "replies are not possible there: choose another channel",
    ),
}

HOOK_ENDED = {
    "invalid_token": f"the webhook was revoked: {NEW_HOOK}",
    "no_service": f"the webhook was removed or switched off: {NEW_HOOK}",
    "no_service_id": f"the webhook's address is not complete: {NEW_HOOK}",
    "no_active_hooks": f"the webhook was switched off: {NEW_HOOK}",
    "no_team": f"the webhook's workspace is gone: {NEW_HOOK}",
    "team_disabled": f"the webhook's workspace is closed: {NEW_HOOK}",
    "user_not_found": f"the person that the webhook writes to is gone: {NEW_HOOK}",
    "channel_not_found": f"the webhook's channel is gone: {NEW_HOOK}",
    "channel_is_archived": f"the webhook's channel is archived: {NEW_HOOK}",
}
"""The codes that end an incoming webhook. A webhook belongs to one channel, which cannot be changed."""

_SORTED = {code: (refusal, note) for refusal, codes in REFUSALS.items() for code, note in codes.items()}


def meaning(code: str | None, status: int, *, hook: bool) -> tuple[Refusal, str | None]:
    """Return what a refusal means, and what a person can do about it.

    Args:
        code: Slack's code, if there is one.
        status: of HTTP; most refusals of the Web API have 200.
        hook: whether it comes from an incoming webhook.
    """
    if hook and code in HOOK_ENDED:
        return Refusal.HOOK_ENDED, HOOK_ENDED[code]
    if hook and status == 410:
        return Refusal.HOOK_ENDED, f"the webhook is gone: {NEW_HOOK}"
    if status == 429:
        return Refusal.RATE_LIMIT, None
    unknown = Refusal.AMBIGUOUS if status >= 500 else Refusal.UNKNOWN
    if code in _SORTED:
        return _SORTED[code]
    similar = (refusal for pattern, refusal in _SORTED.items() if fnmatchcase(code or "", pattern))
    return next(similar, (unknown, None))
