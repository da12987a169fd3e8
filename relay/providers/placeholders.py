"""Placeholders of a provider file: `{task_id}` and the like, in addresses and bodies of requests."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

_PLACEHOLDER = re.compile(r"\{\w+\}?")

_DOTS = re.compile(r"/\.\.?(?:/|$)")
"""Parts of a path that servers take for directions, also where they are percent-encoded."""


def texts_in(template: Any) -> Iterator[str]:
    """Yield every text of a template, names of tables and headers aside."""
    if isinstance(template, str):
        yield template
    elif isinstance(template, dict | list):
        for part in template.values() if isinstance(template, dict) else template:
            yield from texts_in(part)


def names_in(template: Any) -> list[str]:
    """Return the names of all placeholders in a template, in their order, each once."""
    return list(dict.fromkeys(name for text in texts_in(template) for name in re.findall(r"\{(\w+)\}", text)))


def unknown_in(template: Any, names: Collection[str]) -> str | None:
    """Return what looks like a placeholder in a template and is none of these; None if there is no such thing."""
    known = {f"{{{name}}}" for name in names}
    written = (mark for text in texts_in(template) for mark in _PLACEHOLDER.findall(text))
    return next((mark for mark in written if mark not in known), None)


def as_text(template: str) -> str:
    """Percent-encode all of a text but its placeholders."""
    return re.sub(r"%7B(\w+)%7D", r"{\1}", quote(template, safe=""))


def filled_url(template: str, names: Mapping[str, str]) -> str:
    """Return a part of an address with its placeholders filled, percent-encoded.

    A value whose name ends in `_path` is itself a path: its `/` and `:` are kept.
    """
    for name, value in names.items():
        mark = f"{{{name}}}"
        if mark in template:
            template = template.replace(mark, quote(value, safe="/:" if name.endswith("_path") else ""))
    return template


def filled(template: Any, names: Mapping[str, str]) -> Any:
    """Return a JSON value with its placeholders filled."""
    if isinstance(template, dict):
        return {name: filled(value, names) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, names) for value in template]
    if isinstance(template, str):
        return re.sub(r"\{(\w+)\}", lambda mark: names.get(mark[1], mark[0]), template)
    return template


def as_sent(target: str) -> bytes:
    """Return path and query as they are sent.

    Raises:
        httpx.LocalProtocolError: they would lead somewhere else. No id can be registered for which they do.
    """
    if "/." in target and _DOTS.search(target.partition("?")[0]):
        raise httpx.LocalProtocolError("a part of the id is '.' or '..', which leads to another address")
    return target.encode("ascii")
