"""The result of a completed task: its links, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from relay.model.reading import Result
from relay.providers.answer_paths import ResultPaths
from relay.providers.fields import MAX_LINKS, is_inline, link_expiry, links_in, text_of, whole_text_of
from relay.providers.paths import Find, Path, Place


def links_of(path: Path, places: Sequence[Place], names: Mapping[str, str]) -> tuple[list[str], Find | None]:
    """Return all links of a result, the first one first, and where that was found.

    Of the lists that hold the first link, it is the longest. Without any link, it is where a `data:` URL stands.

    Args:
        names: what the placeholders of links stand for.
    """
    lists: list[list[str]] = []
    first = None
    inline = None
    for _, group in groupby(path.finds(places), lambda find: find.where):
        finds = list(group)
        if links := [link for find in finds for link in links_in(find.value, names)]:
            lists.append(links)
            first = first or finds[0]
        elif any(is_inline(find.value) for find in finds):
            inline = inline or finds[0]
    if first is None:
        return [], inline
    fullest = max((links for links in lists if lists[0][0] in links), key=len)
    return list(dict.fromkeys([lists[0][0], *fullest]))[:MAX_LINKS], first


def stands_inside(paths: ResultPaths, urls: list[str], find: Find | None, places: Sequence[Place]) -> bool:
    """Return whether the result is in the answer itself: a `data:` URL, or a text."""
    return (find is not None and not urls) or paths.text.first(places) is not None


def result_of(paths: ResultPaths, urls: list[str], places: Sequence[Place], names: Mapping[str, str]) -> Result:
    """Return the result of a completed task, its links found already."""

    def links(path: Path) -> Iterator[str]:
        return (link for find in path.finds(places) for link in links_in(find.value, names))

    def link(path: Path) -> str | None:
        return next(links(path), None)

    def is_closed(url: str) -> bool:
        return url in links(paths.key_needed) if isinstance(paths.key_needed, Path) else paths.key_needed

    def size(path: Path) -> int | None:
        pixels = path.first(places)
        return pixels if type(pixels) is int and 0 < pixels < 1_000_000 else None

    return Result(
        url=urls[0] if urls else None,
        urls=urls,
        thumbnail_url=link(paths.thumbnail_url),
        preview_url=link(paths.preview_url),
        width=size(paths.width),
        height=size(paths.height),
        enhanced_prompt=text_of(paths.enhanced_prompt.first(places)),
        text=whole_text_of(paths.text.first(places)),
        ref=text_of(paths.ref.first(places)),
        key_needed=bool(urls) and is_closed(urls[0]),
        expires_at=link_expiry(urls[0]) if urls else None,
    )
