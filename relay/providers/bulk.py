"""`[bulk]`: one query about several tasks, for APIs that have one. midjourney-proxy, new-api (Suno), Volcano Ark.

What each task is said to be is read by the rules of the file, as if it were the answer of a query of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import orjson
from pydantic import Field, field_validator, model_validator

from relay.model.reading import Kind, Problem, Reading
from relay.providers.document import Answer, document_of
from relay.providers.paths import Path, Table, as_path
from relay.providers.placeholders import names_in, unknown_in

IDS = "{task_ids}"
"""Stands for the ids: a list of them in JSON, one parameter each in `query`."""

MAX_QUERY = 6000
"""Characters that the ids may have in an address: servers refuse longer ones than 8 KiB."""

MISSING = Problem(code="missing", message="an answer about several tasks left this one out")
"""Why a poll told nothing about a task that others were asked about with. It is asked about alone the next time."""


class SharedReading(NamedTuple):
    """What one query about several tasks came to.

    Attributes:
        of_tasks: what it says of each task, by its id, as far as it says something.
        otherwise: what it is for each of the others: a poll that told nothing.
        refused: the upstream has no list for several tasks.
    """

    of_tasks: Mapping[str, Reading]
    otherwise: Reading
    refused: bool = False


class Bulk(Table):
    """`[bulk]`: asked with POST if it has `json`, else with GET; headers and the rest are those of `[request]`.

    Attributes:
        each: the list of tasks in the answer.
        id: the id of a task, in an item of that list.
        most: ids in one query, at most.
    """

    path: str = Field(pattern=r"^/[!-~]*$")
    query: dict[str, str] = Field({})
    json_body: dict[str, Any] | None = Field(None, alias="json")
    each: Path
    id: Path
    most: int = Field(50, ge=2, le=1000)

    _paths = field_validator("each", "id", mode="before")(as_path)

    @model_validator(mode="after")
    def _asks_about_tasks(self) -> Self:
        if unknown := unknown_in([self.path, *(value for value in self.query.values() if value != IDS)], ()):
            raise ValueError(f"'{unknown}' is no placeholder here: {IDS} can stand as a value of 'query' or in 'json'")
        in_query = IDS in self.query.values()
        if in_query == ("task_ids" in names_in(self.json_body)):
            raise ValueError(f"needs {IDS} as a value of either 'query' or 'json'")
        if in_query and self.json_body is not None:
            raise ValueError(f"asks with POST because of 'json', so {IDS} belongs there")
        return self

    def fitting(self, task_ids: Sequence[str]) -> int:
        """Return how many of these ids fit into one query: one at least."""
        if self.json_body is not None:
            return min(len(task_ids), self.most)
        name = next(len(name) for name, value in self.query.items() if value == IDS)
        lengths = accumulate(len(quote(task_id, safe="")) + name + 2 for task_id in task_ids[: self.most])
        return max(1, sum(length <= MAX_QUERY for length in lengths))

    def target(self, task_ids: Sequence[str]) -> str:
        """Return path and query of a query about these tasks."""
        values = [(name, task_ids if value == IDS else [value]) for name, value in self.query.items()]
        query = "&".join(f"{quote(name, safe='')}={quote(one, safe='')}" for name, many in values for one in many)
        return f"{self.path}?{query}" if query else self.path

    def body(self, task_ids: Sequence[str]) -> bytes:
        """Return the body of a query about these tasks."""
        return b"" if self.json_body is None else orjson.dumps(_with_ids(self.json_body, list(task_ids)))

    def items(self, answer: Answer) -> dict[str, bytes] | None:
        """Return what an answer says of each task, by its id; None if the answer has no list of tasks."""
        document = document_of(answer)
        listed = self.each.raw(document.value) if document else None
        if not isinstance(listed, list):
            return None
        items = {}
        for item in listed:
            task_id = self.id.raw(item)
            if isinstance(item, dict) and isinstance(task_id, str | int) and not isinstance(task_id, bool):
                items[str(task_id)] = orjson.dumps(item)
        return items


def unshared(whole: Reading, answer: Answer) -> Reading:
    """Return what a query about several tasks is for each of them, if its answer has no list of tasks.

    It says nothing about any: nothing of it is kept or repeated, since it may speak of the tasks of other apps.
    """
    message = f"a query about several tasks was answered with HTTP {answer.status}, and without a list of them"
    if whole.kind is Kind.NOT_ANSWERED and whole.error is not None:
        error = Problem(code=whole.error["code"], message=message)
        return Reading(whole.kind, error=error, retry_after=whole.retry_after, limited=whole.limited)
    return Reading(Kind.NOT_UNDERSTOOD, error=Problem(code="no_list", message=message))


def _with_ids(template: Any, task_ids: list[str]) -> Any:
    if isinstance(template, dict):
        return {name: _with_ids(value, task_ids) for name, value in template.items()}
    if isinstance(template, list):
        return [_with_ids(value, task_ids) for value in template]
    return task_ids if template == IDS else template
