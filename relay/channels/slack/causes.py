"""Why a task has no result, and what to do next: recognized by the words of upstreams, written for people."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """Why there is no result, recognized by these words of the upstream, and whether another try can help.

    Attributes:
        what: what happened, after the noun in the headline.
    """

    words: str
    then: str
    emoji: str = ":x:"
    what: str = "failed"


# The first match counts: in the error's code or, if the code says nothing ("failed"), in its message.
CAUSES = (
    Cause(
        r"content.?policy|moderat|safety|unsafe|nsfw|guardrail|sensitive|prohibited|inappropriate|copyright|similarity"
        "|不合规|审核|违规|敏感",
        "A retry cannot help as long as nothing changes: change the prompt or the input, then submit it anew.",
        ":no_entry:",
        "refused by the content filter",
    ),
    Cause(
        "insufficient|quota|credit|balance|billing|payment|http_402|余额|积分|额度",
        "The account at the provider has nothing left to spend: top it up, then submit the task again.",
    ),
    Cause(
        "unauthorized|authentication|api.?key|http_40[13]",
        "The provider does not accept the API key: check the key and what it may do, then submit the task again.",
    ),
    Cause(
        r"rate.?limit|too.?many|time.?out|timed.?out|overload|heavy.?load|busy|capacity|unavailable|internal.?error"
        r"|server.?error|try again|^expired$|http_(?:408|429|5\d\d)|繁忙|超时|稍后|负载",
        "A retry can help, this looks temporary: submit the same task again in a few minutes.",
    ),
    Cause(
        r"invalid|unsupported|not supported|must be|bad.?request|could not be downloaded|http_4(?:00|13|15|22)|参数",
        "A retry cannot help as long as nothing changes: correct the request, then submit it anew.",
    ),
    Cause(
        "^cancell?ed$",
        "If that was not meant, submit the task again.",
        ":black_square_for_stop:",
        "cancelled at the provider",
    ),
)

OTHER_CAUSE = Cause("", "One retry is worth it; after that, change the request.")
NO_CAUSE = Cause("", "The provider gives no reason. One retry is worth it; after that, change the request.")

EXPIRED = Cause(
    "",
    "relay has stopped watching, but the task may still finish at the provider: look it up there, or register it again"
    " to go on watching.",
    ":hourglass:",
    "not finished in time",
)

LOST = Cause(
    "",
    "The provider no longer knows the task, so no result will come. Check that its id is right and that the API key"
    " belongs to the account that made it; if so, submit it again.",
    ":grey_question:",
    "lost",
)


def cause_of(*texts: str) -> Cause:
    """Return the cause that the first of these texts names.

    Args:
        texts: the code of an error and its message, which is shown above what this says.
    """
    for text in texts:
        for cause in CAUSES:
            if re.search(cause.words, text, re.IGNORECASE):
                return cause
    return OTHER_CAUSE if texts[-1] else NO_CAUSE
