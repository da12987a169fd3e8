"""What the API takes, as models that validate; the OpenAPI document is made of these and of relay.web.api.answers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from relay.actions import WatchRequest
from relay.channels.targets import TargetIn
from relay.model.task_ids import CONTROL, WRITTEN, trimmed
from relay.store.learned import P95
from relay.store.registrations import MAX_TARGETS

MAX_METADATA = 4096
MAX_BATCH = 1000
MAX_BATCH_TARGETS = 10_000
"""Targets that the registrations of one batch may have together."""

TARGETS_PER_TOKEN = 20
"""Targets of a batch that cost as much as one request."""

MOST_DECODED = 4
"""Times that an id may be percent-decoded on its way: by proxies, by a framework, by the upstream."""

MAX_LATE_AFTER = 30 * 86400
"""The most seconds of `late_after`: no watch is longer."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2025-10-06T15:14:11.908Z"])]


_CONTROL = re.compile(f"[{CONTROL}]")


def _printable(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


def _without_blanks(value: str) -> str:
    if not (task_id := trimmed(value)):
        raise ValueError("must not be blank")
    return task_id


def _no_dots(value: str) -> str:
    """Refuse an id that leads elsewhere in a path, also where an upstream decodes it or takes a backslash for one."""
    if "." not in value and "%" not in value:
        return value
    read = value
    for _ in range(MOST_DECODED):
        if any(part in (".", "..") for part in re.split(r"[/\\]", read)):
            raise ValueError("must not contain '.' or '..' as a part between slashes or backslashes")
        read = unquote(read)
    return value


def _header_safe(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must be printable ASCII without spaces")
    return value


# Each pattern repeats in the document what a validator says in words.
PRINTABLE = rf"^[^{CONTROL}]*$"
TaskId = Annotated[
    str,
    Field(min_length=1, max_length=512, json_schema_extra={"pattern": WRITTEN}),
    AfterValidator(_without_blanks),
    AfterValidator(_printable),
    AfterValidator(_no_dots),
]


def _late_after(value: Any) -> int | str:
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_LATE_AFTER
    if not whole and value != P95:
        raise ValueError(f"must be whole seconds, 1 to {MAX_LATE_AFTER}, or '{P95}'")
    seconds: int | str = value
    return seconds


LateAfter = Annotated[
    Any,
    AfterValidator(_late_after),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_LATE_AFTER}, {"const": P95}]}),
]


class Request(BaseModel):
    """A request body: what it does not know, it refuses, so that a typo is not silently lost."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


def _metadata(value: dict[str, Any]) -> str:
    """Return metadata as compact JSON, whole numbers of any size kept as they are."""
    try:
        text = _ENCODER.encode(value)
    except (ValueError, RecursionError):
        raise ValueError("must be plain JSON") from None
    if (size := len(text.encode())) > MAX_METADATA:
        raise ValueError(f"must be at most {MAX_METADATA} bytes as JSON, not {size}")
    return text


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

if TYPE_CHECKING:
    Metadata = str
else:  # an object as the API documents it, and JSON as it is stored
    Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]


class WatchIn(Request):
    """A task to watch, and where to tell its end."""

    task_id: TaskId = Field(
        description="The task's id at the upstream, without blanks around it; no part between slashes or backslashes "
        "is '.' or '..', decoded or not.",
        examples=["sora-2:task_01k6x15vhrff09dkkqjrzwhm60"],
    )
    provider: str | None = Field(
        None, max_length=63, description="Which upstream to ask; the configured one by default."
    )
    targets: list[TargetIn] = Field(min_length=1, max_length=MAX_TARGETS)
    metadata: Metadata = Field(
        "{}", description="Comes back in every event; at most 4 KiB.", json_schema_extra={"default": {}}
    )
    expires_in: int | None = Field(None, ge=1, description="Seconds until relay stops watching.")
    late_after: LateAfter | None = Field(
        None,
        description="When to notify the targets that ask for `task.late`: seconds from the registration, or `p95`, the "
        "time within which 95 % of such tasks end, as far as relay knows of 20 of them.",
        json_schema_extra={"examples": [600, "p95"]},
    )
    upstream_key: (
        Annotated[
            str,
            Field(min_length=1, max_length=4096, json_schema_extra={"pattern": "^[!-~]+$"}),
            AfterValidator(_header_safe),
        ]
        | None
    ) = Field(None, description="The upstream's API key for this watch; kept sealed, never returned.", repr=False)

    def request(self) -> WatchRequest:
        """Return what is asked of relay."""

        return WatchRequest(
            task_id=self.task_id,
            targets=self.targets,
            provider=self.provider,
            metadata=self.metadata,
            expires_in=self.expires_in,
            upstream_key=self.upstream_key,
            late_after=self.late_after,
        )


class BatchIn(Request):
    """Up to 1,000 registrations; each is judged by itself."""

    watches: list[Any] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        json_schema_extra={"items": {"$ref": "#/components/schemas/WatchIn"}},
    )


class TestIn(Request):
    """A target to try."""

    target: TargetIn


class RetryIn(Request):
    """Which deliveries to send again."""

    state: Literal["dead", "delivered", "pending", "held"] = "dead"
    since: Time | None = Field(None, description="Made at or after this time (RFC 3339, with its zone).")
    until: Time | None = Field(None, description="Made before this time (RFC 3339, with its zone).")
    host: (
        Annotated[str, Field(max_length=253, json_schema_extra={"pattern": PRINTABLE}), AfterValidator(_printable)]
        | None
    ) = Field(
        None, description="Only those to this host; at any port, unless it is given with one (`app.example:8443`)."
    )
