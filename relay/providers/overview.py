"""What people want to know of a provider before they use it: `relay providers show` and docs/providers.md say it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path as File

from relay.model.cadence import Cadence
from relay.outbound.lane import Limit
from relay.providers.definition import SANDBOX, Definition
from relay.providers.paths import Path, Table
from relay.providers.variables import variable


def head_comment(file: File) -> str:
    """Return the comment that a provider file begins with, without its marks: what it watches, and what to know."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text("utf-8").splitlines())
    return "\n".join(line.removeprefix("#").strip() for line in lines)


def key_variable(definition: Definition) -> str | None:
    """Return the variable of the API key; None where no query carries one."""
    is_needed = definition.uses_key and definition.request.base_url != SANDBOX
    return variable(definition.name, "API_KEY") if is_needed else None


def to_set(definition: Definition) -> list[str]:
    """Return the variables that have to be set before the provider can be asked: its address and its key.

    There are none where each watch brings its own.
    """
    if definition.hosts and not definition.request.base_url:
        return []
    address = None if definition.request.base_url else variable(definition.name, "BASE_URL")
    return [name for name in (address, key_variable(definition)) if name]


def query_line(definition: Definition) -> str:
    """Write what one query asks: the method, and the URL as the file has it."""
    request = definition.request
    elsewhere = "" if request.asks_the_id else "".join(f"https://{host}" for host in definition.hosts[:1])
    query = "&".join(f"{name}={value}" for name, value in request.query.items())
    return f"{request.method} {request.base_url or elsewhere}{request.path}" + (f"?{query}" if query else "")


def bulk_line(definition: Definition) -> str | None:
    """Write what is asked about several tasks at once; None where nothing is."""
    bulk = definition.bulk
    if bulk is None:
        return None
    query = "&".join(f"{name}={value}" for name, value in bulk.query.items())
    method = "GET" if bulk.json_body is None else "POST"
    return f"{method} {definition.request.base_url}{bulk.path}" + (f"?{query}" if query else "")


def follow_line(definition: Definition) -> str | None:
    """Write what is asked for the result of a completed task; None where the first answer has it."""
    follow = definition.follow
    if follow is None:
        return None
    return f"GET {definition.request.base_url}{follow.path}" if follow.path else f"GET {follow.url.expressions[0]}"


def interval(cadence: Cadence) -> str:
    """Write how often a task is asked about: after how long at first, and how often in the end."""
    if cadence.first == cadence.steady:
        return f"{cadence.steady:g} s"
    return f"{cadence.first:g} s, in the end {cadence.steady:g} s"


def limits(budget: Limit) -> str:
    """Write how much the provider is asked at once."""
    rate = "" if budget.per_second is None else f", {budget.per_second:g} a second"
    return f"{budget.concurrency} at once{rate}"


def sources(table: Table, below: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield what is read of an answer, such as `result.url`, and the expressions that find it, in their order."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, Path) and value.expressions:
            yield f"{below}{name}", list(value.expressions)
        elif isinstance(value, float):
            yield f"{below}{name}", [f"{value:g}"]
        elif isinstance(value, Table) and not isinstance(value, Path):
            yield from sources(value, f"{below}{name}.")
