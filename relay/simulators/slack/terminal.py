"""A message drawn as text, so that a terminal can show what people would see in Slack."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len, chop_cells

from relay.simulators.slack.blocks import Block
from relay.simulators.slack.mrkdwn import Spans, TextSpan, local_time, parse, time_of_day, with_emoji
from relay.simulators.slack.workspace import PostedMessage, author_name

QUOTE_BAR = "▎ "


def render_text(message: PostedMessage, *, width: int = 78, names: Mapping[str, str] | None = None) -> str:
    """Return a frame with author and time around the message's blocks, or its text if it has no blocks."""
    title = f"{author_name(message)}  APP  {time_of_day(local_time(message['ts']))}"
    if "edited" in message:
        title += "  (edited)"
    if "is_ephemeral" in message:
        title += "  (only visible to you)"
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
            yield from _image(block, width)


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
        yield from _image(accessory, width)
    elif accessory:
        yield _button(accessory)


def _image(image: Mapping[str, Any], width: int) -> Iterator[str]:
    title = with_emoji(image["title"]["text"]) if "title" in image else "Image"
    yield f"┌─ {title} ─"
    for line in [*_wrapped(image["alt_text"], width - 2), image["image_url"]]:
        yield f"│ {line}"
    yield "└─"


def _button(element: Mapping[str, Any]) -> str:
    return f"[ {with_emoji(element['text']['text'])} ]".replace(" ", "\N{NO-BREAK SPACE}")


def _text(text: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a text object, or an image among the elements of a context, as plain text."""
    if "alt_text" in text:
        return f"({text['alt_text']})"
    if text.get("type") != "mrkdwn":
        return with_emoji(text["text"])
    lines: list[str] = []
    for section in parse(text["text"], names, verbatim=text.get("verbatim", False)):
        bar = "" if section.kind == "text" else QUOTE_BAR
        lines += [bar + line for line in _plain(section.spans).split("\n")]
    return "\n".join(lines)


def _plain(spans: Spans) -> str:
    """Return spans as plain text. A link shows its label; only code and strike keep their marks."""
    return "".join(span if isinstance(span, str) else _plain_span(span) for span in spans)


def _plain_span(span: TextSpan) -> str:
    mark = {"code": "`", "strike": "~"}.get(span.kind, "")
    return f"{mark}{_plain(span.inside)}{mark}"


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield lines no wider than `width` cells, each with the bar of a quote. A no-break space does not break."""
    for paragraph in text.split("\n"):
        bar = QUOTE_BAR if paragraph.startswith(QUOTE_BAR) else ""
        room = width - len(bar)
        line = ""
        for word in paragraph.removeprefix(bar).split(" "):
            longer = f"{line} {word}" if line else word
            if cell_len(longer) <= room:
                line = longer
                continue
            if line:
                yield bar + line
            *full, line = chop_cells(word, room) or [""]
            yield from (bar + piece for piece in full)
        yield bar + line
