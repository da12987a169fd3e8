"""Task ids as people paste them into a command: in bold, as code, in the quotes of a phone's keyboard, as a link.

Slack passes on what was typed. An id can hold such characters itself, so nothing is taken away at once: a text has
several readings, and the first that names a task is the right one.

https://docs.slack.dev/interactivity/implementing-slash-commands
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from relay.model.task_ids import BLANK, ZERO_WIDTH, trimmed

MOST = 12
"""Readings of one text: each may cost a query."""

QUOTES = "\"'<>`´“”„‟‘’‚‛«»‹›「」『』＂＇"
OPENING = "([{（"
CLOSING = ".,;:!?…)]}。，、；：！？）"
FORMATS = "*_~"

LINK = re.compile(r"<[^<>|]+\|([^<>]+)>")
"""A link that Slack made of what was typed, which is its label."""

Layer = Callable[[str], str]


def command_of(text: str) -> tuple[str, str]:
    """Split what stands behind `/relay` into the verb, in lower case, and the rest."""
    verb, _, rest = re.sub(f"[{BLANK}]+", " ", trimmed(text), count=1).partition(" ")
    return verb.lower(), rest


def readings(text: str) -> list[str]:
    """Return the ids that a text may stand for: as it is given first, then with ever less around it."""
    given = trimmed(text)
    ids = list(dict.fromkeys((given, _unescaped(given))))
    layers = LAYERS
    while len(ids) < MOST and (layer := _outermost(ids[-1], layers)):
        # Slack formats nothing inside code, so `_id_` there has its underscores.
        layers = INSIDE_CODE if layer is _code else layers
        ids.append(trimmed(layer(ids[-1])))
    visible = re.sub(f"[{ZERO_WIDTH}]", "", ids[-1])
    return ids if visible in ("", ids[-1]) else [*ids, visible]


def _outermost(text: str, layers: Sequence[Layer]) -> Layer | None:
    """Return the layer that is outermost around a text; None if there is nothing around it, or nothing in it."""
    return next((layer for layer in layers if trimmed(layer(text)) not in ("", text)), None)


def _link(text: str) -> str:
    match = LINK.fullmatch(text)
    return match[1] if match else text


def _code(text: str) -> str:
    return text.strip("`") if text[:1] == text[-1:] == "`" else text


def _formatted(text: str) -> str:
    return text[1:-1] if text[:1] == text[-1:] and text[:1] in FORMATS else text


def _quoted(text: str) -> str:
    return text.strip(QUOTES)


def _in_a_sentence(text: str) -> str:
    return text.lstrip(OPENING).rstrip(CLOSING)


def _unescaped(text: str) -> str:
    """Undo what Slack does to its three special characters."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


INSIDE_CODE: tuple[Layer, ...] = (_in_a_sentence, _quoted)
LAYERS: tuple[Layer, ...] = (_link, _code, _formatted, *INSIDE_CODE)
"""What may stand around an id, in the order in which it is taken away."""
