"""Task ids as callers write them: with blanks around them that are no part of the id.

An id that is copied brings the end of its line along, and one from a chat a hard blank or a character that shows
nothing. With them it would be another task, which no upstream knows.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MAX_ID = 512
"""Characters of a task id."""

MOST_DECODED = 4
"""Times that an id may be percent-decoded on its way: by proxies, by a framework, by the upstream."""

ZERO_WIDTH = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
)
"""Characters that show nothing and take no room, as the inside of a character class.

Variation selectors and tags are missing: they belong to the emoji before them.
"""

BLANK = rf"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000{ZERO_WIDTH}"
"""Characters that show nothing, as the inside of a character class. JavaScript reads it as Python does."""

CONTROL = r"\x00-\x1f\x7f"

WRITTEN = rf"^[{BLANK}]*[^{CONTROL}{BLANK}](?:[^{CONTROL}]*[^{CONTROL}{BLANK}])?[{BLANK}]*$"
"""The pattern of a task id with what may stand around it."""

_BLANK = re.compile(f"[{BLANK}]")
_CONTROL = re.compile(f"[{CONTROL}]")


def checked(text: str) -> str:
    """Return a task id without the blanks around it.

    Raises:
        ValueError: it can be no task's id, in words.
    """
    if not (task_id := trimmed(text)):
        raise ValueError("must not be blank")
    if len(task_id) > MAX_ID:
        raise ValueError(f"must have at most {MAX_ID} characters")
    if _CONTROL.search(task_id):
        raise ValueError("must not contain control characters")
    if leads_elsewhere(task_id):
        raise ValueError("must not contain '.' or '..' as a part between slashes or backslashes")
    return task_id


def leads_elsewhere(text: str) -> bool:
    """Return whether a text leads elsewhere in a path, also where an upstream decodes it or reads a backslash so."""
    if "." not in text and "%" not in text:
        return False
    for _ in range(MOST_DECODED):
        if any(part in (".", "..") for part in re.split(r"[/\\]", text)):
            return True
        text = unquote(text)
    return False


def trimmed(text: str) -> str:
    """Return a text without the blanks around it; an empty text if it has nothing else."""
    start = 0
    end = len(text)
    while start < end and _BLANK.match(text, start):
        start += 1
    while end > start and _BLANK.match(text, end - 1):
        end -= 1
    return text[start:end]
