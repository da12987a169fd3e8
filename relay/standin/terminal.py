"""A message as text, so that a terminal can show what people would see in Slack."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len, chop_cells

from relay.standin.blocks import Block
from relay.standin.mrkdwn import Spans, local, parse, time_of_day, with_emoji
from relay.standin.workspace import Message


def render_text(message: Message, *, width: int = 78, names: Mapping[str, str] | None = None) -> str:
    """A frame with author and time, then the message's blocks, or its text where it has none."""
    author = message.get("bot_profile", {}).get("name") or message.get("username", "")
    title = f"{author}  APP  {time_of_day(local(message['ts']))}"
    title += "  (edited)" * ("edited" in message) + "  (only visible to you)" * ("is_ephemeral" in message)
    blocks = message.get("blocks") or [{"type": "section", "text": {"type": "mrkdwn", "text": message["text"]}}]
    lines = [f"╭─ {title} ".ljust(width, "─")]
    for index, block in enumerate(blocks):
        if index and _is_spaced(blocks[index - 1], block):
            lines.append("│")
        lines += [f"│ {line}".rstrip() for line in _block(block, width - 2, names or {})]
    return "\n".join([*lines, "╰".ljust(width, "─")]).replace("\N{NO-BREAK SPACE}", " ")


def _is_spaced(before: Block, block: Block) -> bool:
    return before["type"] in ("header", "image", "video") or block["type"] != "context"


def _block(block: Block, width: int, names: Mapping[str, str]) -> Iterator[str]:
    match block["type"]:
        case "section":
            yield from _section(block, width, names)
        case "header":
            heading = _text(block["text"], names)
            yield from _wrapped(heading, width)
            yield "━" * min(cell_len(heading), width)
        case "divider":
            yield "─" * width
        case "context":
            elements = [_text(element, names) for element in block["elements"]]
            yield from _wrapped("  ".join(elements), width)
        case "actions":
            yield from _wrapped("  ".join(_button(element) for element in block["elements"]), width)
        case "image":
            yield from _picture(block, block["image_url"], width)
        case "video":
            yield from _picture(block, block["video_url"], width)


def _section(block: Block, width: int, names: Mapping[str, str]) -> Iterator[str]:
    if "text" in block:
        yield from _wrapped(_text(block["text"], names), width)
    fields = block.get("fields", [])
    half = (width - 2) // 2
    for left, right in zip(fields[::2], [*fields[1::2], {"text": ""}], strict=False):
        columns = [list(_wrapped(_text(field, names), half)) for field in (left, right)]
        for row in range(max(map(len, columns))):
            cells = [column[row] if row < len(column) else "" for column in columns]
            yield cells[0] + " " * (half + 2 - cell_len(cells[0])) + cells[1]
    accessory = block.get("accessory", {})
    if accessory.get("type") == "image":
        yield from _picture(accessory, accessory["image_url"], width)
    elif accessory:
        yield _button(accessory)


def _picture(holder: Mapping[str, Any], url: str, width: int) -> Iterator[str]:
    title = with_emoji(holder["title"]["text"]) if "title" in holder else "Image"
    yield f"┌─ {title} ─"
    for line in [*_wrapped(holder["alt_text"], width - 2), url]:
        yield f"│ {line}"
    yield "└─"


def _button(element: Mapping[str, Any]) -> str:
    return f"[ {with_emoji(element['text']['text'])} ]".replace(" ", "\N{NO-BREAK SPACE}")


def _text(text: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A text object, or an image among a context's elements, as plain text."""
    if "alt_text" in text:
        return f"({text['alt_text']})"
    if text.get("type") != "mrkdwn":
        return with_emoji(text["text"])
    drawn = []
    for part in parse(text["text"], names, verbatim=text.get("verbatim", False)):
        said = _said(part.spans)
        drawn.append(said if part.kind == "text" else "\n".join(f"▎ {line}" for line in said.split("\n")))
    return "\n".join(drawn)


def _said(spans: Spans) -> str:
    """Links show their label; only code and strike keep their marks."""
    marks = {"code": "`", "strike": "~"}
    return "".join(
        span if isinstance(span, str) else f"{marks.get(span.kind, '')}{_said(span.inside)}{marks.get(span.kind, '')}"
        for span in spans
    )


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Lines no wider than `width` cells, a quote's bar repeated on each. A no-break space does not break."""
    for whole in text.split("\n"):
        bar = "▎ " if whole.startswith("▎ ") else ""
        room, line = width - len(bar), ""
        for word in whole.removeprefix(bar).split(" "):
            joined = f"{line} {word}" if line else word
            if cell_len(joined) <= room:
                line = joined
                continue
            if line:
                yield bar + line
            *full, line = chop_cells(word, room) or [""]
            yield from (bar + piece for piece in full)
        yield bar + line
