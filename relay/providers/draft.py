"""A first provider file, made of recorded answers: by the words of other files, and by what fields are called."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from relay.providers.envelope import went_well
from relay.providers.fields import links_in, progress_of, text_of

MAX_DEPTH = 6
"""Objects inside each other that are looked into."""

MAX_ITEMS = 3
"""Items of a list that are looked at."""

MEANINGS = ("pending", "completed", "failed", "unknown_task")

_STATUS = re.compile("(?:.*(?:status|state)|phase|done)")
_PROGRESS = re.compile(r"(?:.*progress.*|percent(?:age)?|percentcomplete|completion|pct.*)")
_ID = re.compile("(?:task|job|request|run|generation|prediction)?(?:id|uuid)|name")
_STILL = re.compile(".*(?:thumb|cover|poster|still).*")
_NO_RESULT = re.compile(
    ".*(?:callback|webhook|notify|status|cancel|stream|log|self|source|input|doc|response|origin).*"
)
_KINDS = ("video", "audio", "song", "", "image")
"""What a link leads to, by its name: the first of these is the result, the others belong to it."""

_TEXT = re.compile("(?:full|output|generated)?(?:text|transcript|transcription|content|markdown|answer)")
_REASON = re.compile("(?:fail|error|failure|status)?(?:reason|message|msg|detail|description)|error")
_CODE = re.compile("(?:error|fail)?(?:code|type)")


class Leaf(NamedTuple):
    """A value of an answer that holds no others: where it stands, and what it is called there."""

    path: str
    name: str
    value: Any


class Draft(NamedTuple):
    """A file that is well-formed, and what people should know of it.

    Attributes:
        guessed: what was found, and where.
        open: what only people can say.
    """

    text: str
    guessed: dict[str, str]
    open: list[str]


def known_words(files: Iterable[Path]) -> dict[str, str]:
    """Return what statuses mean in most of these provider files. A file that cannot be read knows none."""
    votes: dict[str, Counter[str]] = {}
    for file in files:
        try:
            statuses = tomllib.loads(file.read_text("utf-8")).get("statuses", {})
        except (OSError, ValueError):
            continue
        for meaning in MEANINGS:
            for word in statuses.get(meaning, ()):
                votes.setdefault(str(word).lower(), Counter())[meaning] += 1
    return {word: votes_of.most_common(1)[0][0] for word, votes_of in votes.items()}


def draft(name: str, answers: Sequence[Any], words: Mapping[str, str]) -> Draft:
    """Return a provider file that reads these answers.

    Args:
        name: of the provider.
        answers: JSON objects or lists, as the upstream sent them.
        words: what statuses mean.
    """
    told = [list(_leaves(answer)) for answer in answers]
    status = _status(told, words)
    said = [_word(_at(status, leaves)) for leaves in told]
    ends = {
        meaning: [leaves for leaves, word in zip(told, said, strict=True) if words.get(word) == meaning]
        for meaning in MEANINGS
    }
    read = {"progress": _first(told, _PROGRESS, lambda value: progress_of(value) is not None)}
    links = [leaf for leaves in ends["completed"] for leaf in leaves if links_in(leaf.value) and leaf.path]
    stills = [leaf.path for leaf in links if _STILL.fullmatch(_plain(leaf.name))]
    results = [leaf.path for leaf in links if not _NO_RESULT.fullmatch(_plain(leaf.path)) and leaf.path not in stills]
    results.sort(key=_kind)
    result: dict[str, Any] = {"url": list(dict.fromkeys(results)), "thumbnail_url": _one(stills)}
    if not results:
        result["text"] = _first(ends["completed"], _TEXT, lambda value: text_of(value) is not None)
    error = {
        "code": _first(ends["failed"], _CODE, lambda value: type(value) in (str, int) and not went_well(str(value))),
        "message": _first(ends["failed"], _REASON, lambda value: bool(text_of(value)) and not went_well(value)),
    }
    lists = {meaning: sorted({word for word in said if words.get(word) == meaning}) for meaning in MEANINGS}
    unlisted = sorted({word for word in said if word and word not in words})
    guessed = {
        "id": _first(told, _ID, lambda value: isinstance(value, str)),
        "status": _indexed(status),
        "progress": read["progress"],
        **{f"result.{what}": ", ".join(where) if isinstance(where, list) else where for what, where in result.items()},
        **{f"error.{what}": where for what, where in error.items()},
        **{meaning: ", ".join(found) for meaning, found in lists.items()},
    }
    text = _file(name, _indexed(status) or "status", read, result, error, lists)
    return Draft(
        text, {what: where for what, where in guessed.items() if where}, _open(status, lists, unlisted, result)
    )


def _leaves(value: Any, path: str = "", name: str = "", depth: int = MAX_DEPTH) -> Iterator[Leaf]:
    """Yield the values of an answer that hold no others, and lists of links as the one value that a path finds."""
    if isinstance(value, dict) and depth:
        for inner_name, inner in value.items():
            plain = re.fullmatch(r"[A-Za-z_]\w*", inner_name, re.ASCII)
            member = inner_name if plain else orjson.dumps(inner_name).decode()
            yield from _leaves(inner, f"{path}.{member}" if path else member, inner_name, depth - 1)
    elif isinstance(value, list) and depth:
        for inner in value[:MAX_ITEMS]:
            yield from _leaves(inner, f"{path}[]", name, depth - 1)
    elif not isinstance(value, dict | list):
        yield Leaf(path, name, value)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _status(told: Sequence[Sequence[Leaf]], words: Mapping[str, str]) -> str:
    """Return the path of the status: of the names that could be one, that which says most."""
    values: dict[str, list[str]] = {}
    for leaves in told:
        for leaf in leaves:
            if _STATUS.fullmatch(_plain(leaf.name)) and (word := _word(leaf.value)):
                values.setdefault(leaf.path, []).append(word)

    def says(path: str) -> tuple[int, int, int]:
        known = [word for word in values[path] if word in words]
        return len(set(known)), len(known), -path.count(".") - path.count("[")

    return max(values, key=says, default="")


def _kind(path: str) -> int:
    return next((rank for rank, kind in enumerate(_KINDS) if kind and kind in path.lower()), _KINDS.index(""))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.strip().lower() if isinstance(value, str) and len(value) <= 64 else ""


def _at(path: str, leaves: Sequence[Leaf]) -> Any:
    return next((leaf.value for leaf in leaves if leaf.path == path), None)


def _first(told: Sequence[Sequence[Leaf]], names: re.Pattern[str], usable: Any) -> str:
    """Return the path that most answers have of those whose name fits and whose value is usable."""
    paths = Counter(
        leaf.path
        for leaves in told
        for leaf in leaves
        if names.fullmatch(_plain(leaf.name)) and not links_in(leaf.value) and usable(leaf.value)
    )
    return _indexed(max(paths, key=lambda path: (paths[path], -path.count(".")), default=""))


def _one(paths: Sequence[str]) -> str:
    return paths[0] if paths else ""


def _indexed(path: str) -> str:
    """Return a path that finds the first of a list rather than all."""
    return path.replace("[]", "[0]")


def _open(status: str, lists: Mapping[str, list[str]], unlisted: list[str], result: Mapping[str, Any]) -> list[str]:
    left = ["base_url and path: where the upstream is asked about a task, and headers: how it wants its key"]
    if not status:
        left.append("status: no answer has one that is known here")
    left += [f"statuses: what '{word}' means; until then relay goes on watching" for word in unlisted]
    missing = [meaning for meaning in ("pending", "completed", "failed") if not lists[meaning]]
    if missing:
        left.append(f"statuses: no answer was {' or '.join(missing)}: give one with --answer, or write its words")
    if lists["completed"] and not any(result.values()):
        left.append("result: no link and no text was found, so 'completed' is believed at once (bare_after = 1)")
    return left


def _file(
    name: str,
    status: str,
    read: Mapping[str, str],
    result: Mapping[str, Any],
    error: Mapping[str, str],
    lists: Mapping[str, list[str]],
) -> str:
    completed = lists["completed"] or ["completed"]
    bare = [] if any(result.values()) else ["", "[caution]", "bare_after = 1"]
    lines = [
        f"# A task of {name}. To be said: what that is, where its API describes the query, whether it has webhooks.",
        "# Made of recorded answers by 'relay providers new'.",
        "",
        f"title = {_toml(name)}",
        "",
        "[request]",
        '# base_url = "https://api.example"   # to be said, or set by NAME_BASE_URL',
        'path = "/v1/tasks/{task_id}"         # to be said',
        'headers = { Accept = "application/json", Authorization = "Bearer {key}" }',
        "",
        "[read]",
        f"status = {_toml(status)}",
        *(f"{what} = {_toml(where)}" for what, where in read.items() if where),
        *_table("read.result", result),
        *_table("read.error", error),
        "",
        "[statuses]",
        *(f"{meaning} = {_toml(found)}" for meaning, found in {**lists, "completed": completed}.items() if found),
        *bare,
    ]
    return "\n".join(lines) + "\n"


def _table(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    if any(values.values()):
        yield from ("", f"[{name}]")
        yield from (f"{what} = {_toml(where)}" for what, where in values.items() if where)


def _toml(value: str | list[str]) -> str:
    """Write a text or a list of texts; JSON writes both as TOML does."""
    return orjson.dumps(value).decode().replace('","', '", "').replace("\x7f", "\\u007f")
