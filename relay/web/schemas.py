"""What the API takes, as models that validate; the OpenAPI document is made of these and of relay.web.answers."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from relay.store.watches import MAX_TARGETS

MAX_METADATA = 4096
MAX_BATCH = 1000
MAX_HEADERS = 10

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2025-10-06T15:14:11.908Z"])]


def _printable(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("must not contain control characters")
    return value


def _no_dots(value: str) -> str:
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError("must not contain '.' or '..' as a part between slashes")
    return value


def _header_safe(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must be printable ASCII without spaces")
    return value


# Each pattern repeats in the document what a validator says in words.
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
TaskId = Annotated[
    str,
    Field(min_length=1, max_length=512, json_schema_extra={"pattern": PRINTABLE}),
    AfterValidator(_printable),
    AfterValidator(_no_dots),
]
EventName = Literal["task.completed", "task.failed", "task.expired", "task.lost", "task.progress"]
Events = Annotated[
    list[EventName],
    Field(min_length=1, description="What this target wants to hear. Every terminal event, if left out."),
]
ALL_ENDS: list[EventName] = ["task.completed", "task.failed", "task.expired", "task.lost"]


def split_url(url: str) -> SplitResult:
    """The parts of an absolute http(s) URL.

    Raises:
        ValueError: in words, when it is anything else or carries a password.
    """
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\<>\"^`{|}]", url):
        raise ValueError("must be a URL in ASCII without spaces: percent-encode its path, write its host in punycode")
    parts = urlsplit(url)
    if "%" in parts.netloc:
        raise ValueError("must not percent-encode its host")
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https://")
    if not parts.hostname or parts.port == 0:
        raise ValueError("must name a host, and a port between 1 and 65535 if any")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password: only a webhook target's headers can carry them")
    try:
        _ = httpx.URL(url).host
    except (httpx.InvalidURL, UnicodeError):  # 0177.0.0.1, 999.1.1.1, xn--a: what could not be called is not taken
        raise ValueError("must name a host, or an address as it is usually written") from None
    return parts


def _url(value: str) -> str:
    split_url(value)
    return value


Url = Annotated[str, Field(max_length=2048, json_schema_extra={"format": "uri"}), AfterValidator(_url)]


class Request(BaseModel):
    """A request body: what it does not know, it refuses, so that a typo is not silently lost."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


HEADER_NAME, HEADER_VALUE = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$", r"^[ -~]{1,4096}$"
FORBIDDEN_HEADERS = re.compile(
    "webhook-.*|content-.*|host|user-agent|traceparent|date|expect|te|trailer|transfer-encoding"
    "|connection|keep-alive|upgrade|proxy-authorization"
)


def _headers(value: dict[str, str]) -> dict[str, str]:
    if len({name.lower() for name in value}) != len(value):
        raise ValueError("must not name a header twice")
    for name, text in value.items():
        if not re.fullmatch(HEADER_NAME, name):
            raise ValueError(f"'{name[:40]}' is not a header name")
        if FORBIDDEN_HEADERS.fullmatch(name.lower()):
            raise ValueError(f"'{name}' is relay's own to set")
        if not re.fullmatch(HEADER_VALUE, text):
            raise ValueError(f"the value of '{name}' must be 1 to 4096 printable ASCII characters")
    return value


class WebhookTarget(Request):
    """A URL that gets a signed POST (Standard Webhooks)."""

    type: Literal["webhook"]
    url: Url = Field(description="https://; http:// only where RELAY_ALLOWED_NETWORKS allows the address", repr=False)
    events: Events = ALL_ENDS
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default={},
        max_length=MAX_HEADERS,
        description="Static headers to send along; kept sealed, shown masked. None that relay sets (`webhook-*`, "
        "`content-*`, `Host`, `User-Agent`, `Traceparent`, `Date`) or that belong to the connection.",
        repr=False,
        json_schema_extra={
            "propertyNames": {"pattern": HEADER_NAME},
            "additionalProperties": {"type": "string", "pattern": HEADER_VALUE},
        },
    )


CHANNEL = r"^[#@]?[^\s#@<>&,\x00-\x1f\x7f]{1,80}$"


def _channel(value: str) -> str:
    if not re.fullmatch(CHANNEL, value):
        raise ValueError("must be the name of a channel, such as '#renders', or its id")
    return value


class SlackTarget(Request):
    """A Slack channel (through this deployment's bot) or an incoming webhook; exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [one], "properties": {one: {"type": "string"}, other: {"type": "null"}}}
                for one, other in (("channel", "webhook_url"), ("webhook_url", "channel"))
            ]
        }
    )

    type: Literal["slack"]
    channel: Annotated[str, Field(json_schema_extra={"pattern": CHANNEL}), AfterValidator(_channel)] | None = None
    webhook_url: Url | None = Field(None, repr=False)
    events: Events = ALL_ENDS

    @model_validator(mode="after")
    def _one(self) -> SlackTarget:
        if (self.channel is None) == (self.webhook_url is None):
            raise ValueError("give either 'channel' or 'webhook_url'")
        return self


TargetIn = Annotated[WebhookTarget | SlackTarget, Field(discriminator="type")]


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json_text(value).encode())
    except (ValueError, RecursionError):
        raise ValueError("must be plain JSON") from None
    if size > MAX_METADATA:
        raise ValueError(f"must be at most {MAX_METADATA} bytes as JSON, not {size}")
    return value


def json_text(value: Any) -> str:
    """`value` as compact JSON, whole numbers of any size kept as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class WatchIn(Request):
    """A task to watch, and where to tell its end."""

    task_id: TaskId = Field(
        description="The task's id at the upstream; no part of it between slashes is '.' or '..'.",
        examples=["sora-2:task_01k6x15vhrff09dkkqjrzwhm60"],
    )
    provider: str | None = Field(
        None, max_length=63, description="Which upstream to ask; the configured one by default."
    )
    targets: list[TargetIn] = Field(min_length=1, max_length=MAX_TARGETS)
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] = Field(
        default={}, description="Comes back in every event; at most 4 KiB."
    )
    expires_in: int | None = Field(None, ge=1, description="Seconds until relay stops watching.")
    upstream_key: (
        Annotated[
            str,
            Field(min_length=1, max_length=4096, json_schema_extra={"pattern": "^[!-~]+$"}),
            AfterValidator(_header_safe),
        ]
        | None
    ) = Field(None, description="The upstream's API key for this watch; kept sealed, never returned.", repr=False)


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
