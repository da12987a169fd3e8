"""Checks of a message, because the SDK's model classes accept much that Slack refuses.

A check takes a value and its JSON pointer and yields problems in Slack's own words. Checks are composed of each other,
up to `BLOCKS`. A type of block that `BLOCK` does not list is refused, so that nothing passes unchecked.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from relay.simulators.slack.errors import SlackError

Block = dict[str, Any]
Check = Callable[[Any, str], Iterator[str]]
FetchImage = Callable[[str], Awaitable[bool]]

TEXT_LIMIT = 4_000
"""Characters in a message's `text`. Slack posts a longer one but refuses to edit it; the simulator refuses both."""

BLOCKS_TEXT_LIMIT = 13_000
"""Characters in all texts of the blocks together. Slack does not publish the figure."""


def _problem(pointer: str, message: str) -> str:
    return f"{message} [json-pointer:{pointer}]"


def _string(most: int) -> Check:
    """Check for a string of 1 to `most` characters, not all of them blank."""

    def check(value: Any, pointer: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield _problem(pointer, "must provide a string")
        elif not value.strip():
            yield _problem(pointer, "must be more than 0 characters")
        elif len(value) > most:
            yield _problem(pointer, f"must be less than {most + 1} characters")

    return check


def _url(value: Any, pointer: str) -> Iterator[str]:
    problems = list(_string(3_000)(value, pointer))
    yield from problems
    if not problems and not (urlsplit(value).scheme and urlsplit(value).netloc):
        yield _problem(pointer, "invalid url")


def _boolean(value: Any, pointer: str) -> Iterator[str]:
    if not isinstance(value, bool):
        yield _problem(pointer, "must provide a boolean")


def _one_of(*allowed: str) -> Check:
    def check(value: Any, pointer: str) -> Iterator[str]:
        if value not in allowed:
            yield _problem(pointer, "must be a valid enum value")

    return check


def _items(most: int, item: Check, least: int = 1, unique: str = "") -> Check:
    """Check for an array of `item`. Two of them must not have the same value of the property `unique`."""

    def check(value: Any, pointer: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield _problem(pointer, "must provide an array")
        elif len(value) > most:
            yield _problem(pointer, f"no more than {most} items allowed")
        elif len(value) < least:
            yield _problem(pointer, f"must provide at least {least} items")
        else:
            seen = set()
            for index, entry in enumerate(value):
                yield from item(entry, f"{pointer}/{index}")
                identity = entry.get(unique) if isinstance(entry, dict) else None
                if identity in seen:
                    yield _problem(f"{pointer}/{index}/{unique}", f'`{unique}` "{identity}" already exists')
                elif identity:
                    seen.add(identity)

    return check


def _shape(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """Check that an object has these properties, a `type`, and no others."""
    known = {**required, **optional}

    def check(value: Any, pointer: str) -> Iterator[str]:
        for name in required:
            if name not in value:
                yield _problem(pointer, f"missing required field: {name}")
        for name, entry in value.items():
            if name in known:
                yield from known[name](entry, f"{pointer}/{name}")
            elif name != "type":
                yield _problem(pointer, f"invalid additional property: {name}")

    return check


def _typed(shapes: Mapping[str, Check]) -> Check:
    """Check for an object whose `type` says which shape it has."""

    def check(value: Any, pointer: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield _problem(pointer, "must provide an object")
        elif "type" not in value:
            yield _problem(pointer, "missing required field: type")
        elif value["type"] not in shapes:
            yield _problem(f"{pointer}/type", f"unsupported type: {value['type']}")
        else:
            yield from shapes[value["type"]](value, pointer)

    return check


def _plain(most: int) -> Check:
    return _typed({"plain_text": _shape({"text": _string(most)}, {"emoji": _boolean})})


def _text(most: int) -> Check:
    """Check for a text object, `plain_text` or `mrkdwn`. Slack names the failed choice first, then its problems."""
    text = _string(most)
    either = _typed(
        {
            "plain_text": _shape({"text": text}, {"emoji": _boolean}),
            "mrkdwn": _shape({"text": text}, {"verbatim": _boolean}),
        }
    )

    def check(value: Any, pointer: str) -> Iterator[str]:
        problems = list(either(value, pointer))
        if problems:
            yield _problem(pointer, "failed to match all allowed schemas")
        yield from problems

    return check


def _image(**optional: Check) -> Check:
    return _shape({"image_url": _string(3_000), "alt_text": _string(2_000)}, optional)


CONFIRM = _shape(
    {"title": _plain(100), "text": _text(300), "confirm": _plain(30), "deny": _plain(30)},
    {"style": _one_of("primary", "danger")},
)

BUTTON = _shape(
    {"text": _plain(75)},
    {
        "action_id": _string(255),
        "value": _string(2_000),
        "url": _url,
        "style": _one_of("primary", "danger"),
        "confirm": CONFIRM,
        "accessibility_label": _string(75),
    },
)

BLOCK_ID = {"block_id": _string(255)}

_section = _shape(
    {},
    {
        "text": _text(3_000),
        "fields": _items(10, _text(2_000)),
        "accessory": _typed({"button": BUTTON, "image": _image()}),
        "expand": _boolean,
        **BLOCK_ID,
    },
)


def _full_section(value: Any, pointer: str) -> Iterator[str]:
    if "text" not in value and "fields" not in value:
        yield _problem(f"{pointer}/type", "must define either `text` or `fields`")
    yield from _section(value, pointer)


def _context_element(value: Any, pointer: str) -> Iterator[str]:
    is_image = isinstance(value, dict) and value.get("type") == "image"
    yield from (_image() if is_image else _text(3_000))(value, pointer)


BLOCK = _typed(
    {
        "section": _full_section,
        "header": _shape({"text": _plain(150)}, BLOCK_ID),
        "divider": _shape({}, BLOCK_ID),
        "context": _shape({"elements": _items(10, _context_element)}, BLOCK_ID),
        "actions": _shape({"elements": _items(25, _typed({"button": BUTTON}), unique="action_id")}, BLOCK_ID),
        "image": _image(title=_plain(2_000), **BLOCK_ID),
    }
)

BLOCKS = _items(50, BLOCK, least=0, unique="block_id")


def _images(blocks: list[Block]) -> Iterator[tuple[str, str]]:
    """Yield pointer and URL of every image that Slack would fetch."""
    for index, block in enumerate(blocks):
        pointer = f"/blocks/{index}"
        holders = {pointer: block, f"{pointer}/accessory": block.get("accessory", {})}
        holders |= {f"{pointer}/elements/{n}": element for n, element in enumerate(block.get("elements", []))}
        for holder_pointer, holder in holders.items():
            if "image_url" in holder:
                yield f"{holder_pointer}/image_url", holder["image_url"]


def _text_length(value: Any) -> int:
    """Count the characters of all texts in blocks."""
    if isinstance(value, list):
        return sum(map(_text_length, value))
    if isinstance(value, dict):
        return sum(len(v) if k == "text" and isinstance(v, str) else _text_length(v) for k, v in value.items())
    return 0


async def check_message(text: str, blocks: list[Block], fetch_image: FetchImage) -> None:
    """Raise `SlackError` for what Slack refuses in a message, with Slack's own words."""
    if len(text) > TEXT_LIMIT:
        raise SlackError("msg_too_long")
    problems = list(BLOCKS(blocks, "/blocks"))
    if not problems:
        if _text_length(blocks) > BLOCKS_TEXT_LIMIT:
            raise SlackError("msg_blocks_too_long")
        problems = [
            _problem(pointer, "downloading image failed")
            for pointer, url in _images(blocks)
            if not await fetch_image(url)
        ]
    if problems:
        messages = [f"[ERROR] {problem}" for problem in problems]
        raise SlackError("invalid_blocks", errors=problems, response_metadata={"messages": messages})
