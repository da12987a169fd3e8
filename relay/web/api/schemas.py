"""What the API takes, as models that validate; the OpenAPI document is made of these and of relay.web.api.answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from relay.channels.targets import TargetIn
from relay.channels.urls import Url
from relay.channels.watch_request import WatchRequest
from relay.model.task_ids import CONTROL, MAX_ID, WRITTEN, checked
from relay.providers.expressions import MAX_PLAIN, judge_plain
from relay.providers.hosts import address_of
from relay.providers.inline import Inline
from relay.store.learned import P95
from relay.store.registrations import MAX_TARGETS

MAX_METADATA = 4096
MAX_BATCH = 1000
MAX_BATCH_TARGETS = 10_000
"""Targets that the registrations of one batch may have together."""

TARGETS_PER_TOKEN = 20
"""Targets of a batch that cost as much as one request."""

MAX_PROVIDER = 63
"""Characters of the name of a provider."""

MAX_LATE_AFTER = 30 * 86400
"""The most seconds of `late_after`: no watch is longer."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2025-10-06T15:14:11.908Z"])]


_CONTROL = re.compile(f"[{CONTROL}]")


def _printable(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


def _header_safe(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must be printable ASCII without spaces")
    return value


# Each pattern repeats in the document what a validator says in words.
PRINTABLE = rf"^[^{CONTROL}]*$"
TaskId = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID, json_schema_extra={"pattern": WRITTEN}),
    AfterValidator(checked),
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
        text = orjson.dumps(value)
    except orjson.JSONEncodeError:  # a number of more than 64 bits
        text = _encoded(value)
    if len(text) > MAX_METADATA:
        raise ValueError(f"must be at most {MAX_METADATA} bytes as JSON, not {len(text)}")
    return text.decode()


def _encoded(value: dict[str, Any]) -> bytes:
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, RecursionError):
        raise ValueError("must be plain JSON") from None


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

if TYPE_CHECKING:
    Metadata = str
else:  # an object as the API documents it, and JSON as it is stored
    Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]


Expression = Annotated[str, Field(min_length=1, max_length=MAX_PLAIN), AfterValidator(judge_plain)]


def _askable(url: str) -> str:
    if address_of(url) is None:
        raise ValueError("must be an address such as https://api.example/jobs/7, without a fragment")
    return url


class InlineIn(Request):
    """An upstream that no file declares: where to ask about this task, and what its end looks like."""

    url: Annotated[Url, AfterValidator(_askable)] = Field(
        description="Asked by GET, with `upstream_key` as `Authorization: Bearer`; judged as the URL of a target is.",
        examples=["https://api.example/jobs/7"],
    )
    completed: Expression = Field(
        description="JMESPath in the JSON of the answer: true once the task has succeeded. Of names, indexes, "
        "literals, comparisons, `&&`, `||` and `!` alone.",
        examples=["status == 'done'"],
    )
    failed: Expression | None = Field(
        None, description="True once the task has failed; looked at before `completed`.", examples=["status == 'error'"]
    )
    result: Expression | None = Field(None, description="Where the link to the result is.", examples=["output.url"])
    progress: Expression | None = Field(None, description="Where the progress is.", examples=["percent"])
    error: Expression | None = Field(None, description="Where it says why it failed.", examples=["message"])

    def definition(self) -> Inline:
        """Return what it says."""
        return Inline(**self.model_dump())


def _provider(value: object) -> str | InlineIn | None:
    """Validate a provider, without a word of pydantic's unions in the pointer of an error."""
    if value is None or isinstance(value, InlineIn):
        return value
    if isinstance(value, dict):
        return InlineIn.model_validate(value)
    if not isinstance(value, str):
        raise ValueError("must be a string, or an object")
    if len(value) > MAX_PROVIDER:
        raise ValueError(f"must have at most {MAX_PROVIDER} characters")
    return value


_GivenProvider = Annotated[str, Field(max_length=MAX_PROVIDER)] | InlineIn | None

if TYPE_CHECKING:
    GivenProvider = str | InlineIn | None
else:
    GivenProvider = Annotated[Any, PlainValidator(_provider, json_schema_input_type=_GivenProvider)]


def _name_one_task(schema: dict[str, Any]) -> None:
    """Say in the document that an inline definition names its task by itself."""
    schema["required"].remove("task_id")
    inline = {"required": ["provider"], "properties": {"provider": {"type": "object"}}}
    schema["anyOf"] = [{"required": ["task_id"]}, inline]


class WatchIn(Request):
    """A task to watch, and where to tell its end."""

    model_config = ConfigDict(json_schema_extra=_name_one_task)

    task_id: TaskId = Field(
        description="The task's id at the upstream, without blanks around it; no part between slashes or backslashes "
        "is '.' or '..', decoded or not.",
        examples=["sora-2:task_01k6x15vhrff09dkkqjrzwhm60"],
    )
    provider: GivenProvider = Field(
        None,
        description="Which upstream to ask; the configured one by default. Where RELAY_INLINE_PROVIDERS is on, it may "
        "be one that no file declares, and `task_id` may then be left out: it is the `url`.",
    )
    targets: list[TargetIn] = Field(min_length=1, max_length=MAX_TARGETS)
    metadata: Metadata = Field(
        "{}", description="Comes back in every event; at most 4 KiB.", json_schema_extra={"default": {}}
    )
    expires_in: int | None = Field(
        None, ge=1, description="Seconds until relay stops watching; else what the provider says, or RELAY_EXPIRES_IN."
    )
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
    ) = Field(
        None,
        description="The upstream's API key for this watch, as a variable would hold it; kept sealed, never returned.",
        repr=False,
    )
    upstream_base: str | None = Field(
        None,
        max_length=300,
        description="Where to ask about this task, within the `hosts` of the provider's file; by default its address.",
        examples=["https://shop-1.myshopify.com"],
    )

    @model_validator(mode="before")
    @classmethod
    def _inline_id(cls, value: Any) -> Any:
        provider = value.get("provider") if isinstance(value, Mapping) else None
        if not isinstance(provider, Mapping) or "task_id" in value:
            return value
        url = provider.get("url")
        return {**value, "task_id": url if isinstance(url, str) and url else "-"}  # what is no URL is told as that

    def request(self) -> WatchRequest:
        """Return what is asked of relay."""
        provider, inline = self.provider, None
        if isinstance(provider, InlineIn):
            inline = provider.definition()
            provider = inline.name
        return WatchRequest(
            task_id=self.task_id,
            targets=self.targets,
            provider=provider,
            inline=None if inline is None else inline.text,
            metadata=self.metadata,
            expires_in=self.expires_in,
            upstream_key=self.upstream_key,
            upstream_base=self.upstream_base,
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
