"""What the statuses and the HTTP errors of an upstream mean."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from relay.providers.paths import Table


class Statuses(Table):
    """`[statuses]`: which statuses mean what, compared without case.

    `http` has those of HTTP that say how a task stands, where the answer itself has no status.
    """

    pending: tuple[str, ...] = ()
    completed: tuple[str, ...] = Field(min_length=1)
    failed: tuple[str, ...] = ()
    unknown_task: tuple[str, ...] = ()
    http: dict[int, Literal["pending", "completed", "failed"]] = Field({})

    @field_validator("pending", "completed", "failed", "unknown_task")
    @classmethod
    def _lower(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(value.lower() for value in values)

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """Return the statuses of each meaning."""
        return self.model_dump(exclude={"http"})

    def model_post_init(self, _context: Any) -> None:
        seen: set[str] = set()
        for status in (status for group in self.lists.values() for status in group):
            if status in seen:
                raise ValueError(f"the status '{status}' stands in two places")
            seen.add(status)
        if any(not (200 <= code < 300 or _speaks_of_a_task(code)) for code in self.http):
            raise ValueError(f"http: must be statuses from 200 to 299, or {OF_A_TASK}")
        if any(code >= 400 and kind == "completed" for code, kind in self.http.items()):
            raise ValueError("http: a status from 400 to 499 is no success")


OF_A_TASK = "from 400 to 499 that speak of a task: not 401, 402, 403, 408 or 429"


def _speaks_of_a_task(code: int) -> bool:
    return 400 <= code < 500 and code not in (401, 402, 403, 408, 429)


class Errors(Table):
    """`[errors]`: which HTTP errors say something about a task, or about the key."""

    unknown_task_http: tuple[int, ...] = ()
    unknown_task_codes: tuple[str, ...] = ()
    task_names: tuple[str, ...] = ()
    gateway_codes: tuple[str, ...] = ()
    quota_codes: tuple[str, ...] = ()
    limited_codes: tuple[str, ...] = ()
    fine_codes: tuple[str, ...] = ()

    @field_validator("unknown_task_http")
    @classmethod
    def _of_a_task(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not all(map(_speaks_of_a_task, values)):
            raise ValueError(f"must be statuses {OF_A_TASK}")
        return values
