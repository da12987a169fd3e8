"""Which of a provider's own calls a request is: a create, or the query about a task, and then about which.

relay is no open proxy: whatever a provider's file does not declare is nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from relay.providers.definition import Definition, RequestTable
from relay.providers.submit import Submit, names_in, path_of, pattern_of

_IDS = ("task_id", "task_path")
_MANIFOLD = ("task_path",)


class Create(NamedTuple):
    """A declared create.

    Attributes:
        names: what the names of its path stand for.
    """

    submit: Submit
    names: Mapping[str, str]


class QueryAddress:
    """The query of a provider, as programs that poll make it.

    Args:
        request: the table of its file.
    """

    def __init__(self, request: RequestTable) -> None:
        self._request = request
        self._path = pattern_of(request.path, _MANIFOLD)
        self.in_path = bool(self._path.groupindex)
        self.in_query = not self.in_path and any(_holds_id(value) for value in request.query.values())
        self._prefix = request.base_path

    @property
    def method(self) -> str:
        """Return its method."""
        return self._request.method

    def fits(self, path: str) -> bool:
        """Return whether this is the path of the query."""
        return names_in(self._path, path, _MANIFOLD) is not None

    def task_id(self, path: str, query: Sequence[tuple[str, str]], body: Any) -> str | None:
        """Return the task that is asked about.

        Args:
            body: the JSON that came; None where the id stands elsewhere.
        """
        if self.in_path:
            return _first(names_in(self._path, path, _MANIFOLD))
        if self.in_query:
            for name, template in self._request.query.items():
                values = [value for given, value in query if given == name]
                if _holds_id(template) and values:
                    return _within(template, values[0])
            return None
        return _in_json(self._request.json_body, body)

    def task_of(self, url: str) -> str | None:
        """Return the task whose query a URL is, such as that of a header; None if it is another one."""
        path = path_of(url)
        if self._prefix and path.startswith(f"{self._prefix}/"):
            path = path.removeprefix(self._prefix)
        return _first(names_in(self._path, path, _MANIFOLD)) if self.in_path else None


def creates_at(definition: Definition, path: str) -> list[Create]:
    """Return the creates that are declared at a path, of all methods."""
    found = ((submit, submit.names(path)) for submit in definition.submit)
    return [Create(submit, names) for submit, names in found if names is not None]


def _holds_id(template: str) -> bool:
    return any(f"{{{name}}}" in template for name in _IDS)


def _first(names: Mapping[str, str] | None) -> str | None:
    return next((names[name] for name in _IDS if name in names), None) if names else None


def _within(template: str, value: str) -> str | None:
    """Return the id that stands in a value as its template says."""
    found = pattern_of(template, _IDS).fullmatch(value)
    return _first(found.groupdict()) if found else None


def _in_json(template: Any, value: Any) -> str | None:
    """Return the id that stands in JSON where a template has it."""
    if isinstance(template, dict) and isinstance(value, dict):
        found = (_in_json(part, value.get(name)) for name, part in template.items())
        return next((one for one in found if one is not None), None)
    if isinstance(template, list) and isinstance(value, list):
        found = (_in_json(part, one) for part, one in zip(template, value, strict=False))
        return next((one for one in found if one is not None), None)
    if isinstance(template, str) and _holds_id(template):
        return _within(template, str(value)) if isinstance(value, str | int) else None
    return None


def decoded_query(raw: bytes) -> list[tuple[str, str]]:
    """Return the parameters of a query as it came, in their order."""
    pairs = (part.partition("=") for part in re.split("[&]", raw.decode("latin-1")) if part)
    return [(unquote(name.replace("+", " ")), unquote(value.replace("+", " "))) for name, _, value in pairs]
