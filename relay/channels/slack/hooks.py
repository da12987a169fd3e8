"""What incoming webhooks answer. Slack's say `ok`; others that speak Slack's format say yes in words of their own.

A message that a hook has taken must not be posted again, so a success of HTTP counts as a yes unless the answer clearly
says no.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from relay.channels.slack.errors import Refusal, meaning

VERDICTS = ("ok", "success", "status", "result")
"""Members of a JSON answer that say whether the message was taken, the clearest first."""

YES = frozenset(("true", "ok", "success", "succeeded", "1"))
NO = frozenset(("false", "error", "fail", "failed", "failure"))

NUMBERS = ("errcode", "code", "StatusCode", "status_code")
"""Members of a JSON answer that hold a code, for some without a failing status of HTTP."""

GOOD_NUMBERS = frozenset((0, 1, *range(200, 300)))

FAILURE = re.compile(
    r"(?<![a-z])(error|fail|invalid|denied|refused|rejected|forbidden|unauthori[sz]ed|not[ _](found|allowed|authed))",
    re.IGNORECASE,
)


def read_answer(text: str) -> tuple[bool, str]:
    """Return whether the text of an answer says no, and the word that may be Slack's code for why."""
    text = text.strip()
    if text[:1] == "<":  # A page for people: a proxy or a login has answered, not the hook.
        return True, ""
    if text[:1] != "{":
        word = text.strip('"')
        return _refuses(word), word
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):  # It is cut short: it may say anything.
        return True, ""
    error = answer.get("error")
    return _is_refusal(answer), error if isinstance(error, str) else ""


def _refuses(word: str) -> bool:
    known, _ = meaning(word, 200, hook=True)
    return known is not Refusal.UNKNOWN or word == "false" or bool(FAILURE.search(word))


def _is_refusal(answer: Mapping[str, Any]) -> bool:
    for name in VERDICTS:
        verdict = str(answer.get(name)).lower()
        if verdict in YES or verdict in NO:
            return verdict in NO
    numbers = [answer[name] for name in NUMBERS if isinstance(answer.get(name), int)]
    return bool(answer.get("error") or answer.get("errors") or set(numbers) - GOOD_NUMBERS)
