"""An answer of a query endpoint, read as its provider's definition says: bytes in, a `Reading` out, never an exception.

The rules (design, "Rules of reading") are caution bought with other people's money: only an explicit success is a
success, only an explicit failure is a failure, and whatever else comes back says nothing about the task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from relay.model import Kind, Millis, Problem, Reading, Result, rfc3339
from relay.retry import parse_retry_after
from relay.tables import Errors, Path, Read, Statuses

MAX_TEXT, MAX_LINK, MAX_STATUS = 4096, 16384, 64

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP. `headers` have names in lower case; `truncated` if the body went over the cap."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


class Reader:
    """Reads the answers of one provider.

    Args:
        read, statuses, errors: the tables of its definition.
    """

    def __init__(self, read: Read, statuses: Statuses, errors: Errors) -> None:
        self._read, self._errors = read, errors
        self._kinds: dict[str, Kind] = {
            **dict.fromkeys(statuses.pending, Kind.PENDING),
            **dict.fromkeys(statuses.completed, Kind.COMPLETED),
            **dict.fromkeys(statuses.failed, Kind.FAILED),
            **dict.fromkeys(statuses.unknown_task, Kind.UNKNOWN_TASK),
        }

    def read(self, answer: Answer, now: Millis) -> Reading:
        """What the answer says; `now` serves to understand a `Retry-After` that is a date."""
        document = _document(answer)
        reading = self._reading(answer, document, now)
        if document is None or reading.body is not None:
            return reading
        return replace(reading, aside=answer.body.removeprefix(BOM), http_status=answer.status)

    def _reading(self, answer: Answer, document: dict[str, Any] | None, now: Millis) -> Reading:
        if 200 <= answer.status < 300:
            return self._success(answer, document)
        if 300 <= answer.status < 400:
            where = _clean(answer.headers.get("location", "nowhere"))[:200]
            return _nothing(Kind.NOT_UNDERSTOOD, "redirected", f"HTTP {answer.status}, redirected to {where}")
        return self._http_error(answer, document, now)

    def _success(self, answer: Answer, document: dict[str, Any] | None) -> Reading:
        if document is None:
            why = "is longer than relay reads" if answer.truncated else "is not a JSON object"
            return _nothing(Kind.NOT_UNDERSTOOD, "not_json", f"HTTP {answer.status}, but the answer {why}")
        status = next((s for s in map(self._status, self._read.status.candidates(document)) if s), None)
        if status is None:
            message = self._problem(document, "", "the answer holds no status where the provider's file looks")[
                "message"
            ]
            if self._names(document, self._errors.unknown_task_codes):
                return _nothing(Kind.UNKNOWN_TASK, "unknown_task", message)
            return _nothing(Kind.NOT_UNDERSTOOD, "no_status", message)
        kind = self._kinds.get(status, Kind.PENDING)
        progress, body = _progress(self._read.progress.first(document)), answer.body.removeprefix(BOM)
        if kind is Kind.PENDING:
            return Reading(kind, status, progress, body=body, http_status=answer.status)
        if kind is Kind.COMPLETED:
            return Reading(kind, status, 1.0, result=self._result(document), body=body, http_status=answer.status)
        problem = self._problem(document, status, f"the upstream says '{status}'", "and no more")
        if kind is Kind.UNKNOWN_TASK:
            return Reading(kind, status, progress, error=Problem(code="unknown_task", message=problem["message"]))
        return Reading(kind, status, progress, error=problem, body=body, http_status=answer.status)

    def _http_error(self, answer: Answer, document: dict[str, Any] | None, now: Millis) -> Reading:
        code, message = f"http_{answer.status}", f"the upstream answered HTTP {answer.status}"
        found = self._problem(document, code, message)
        message = found["message"]
        asked = parse_retry_after(answer.headers.get("retry-after"), now)
        limited = False
        if answer.status in (402, 403, 429) and self._names(document, self._errors.quota_codes):
            code, limited = "quota_exhausted", True
        elif answer.status == 429:
            code, limited = "rate_limited", True
        elif answer.status in (401, 403):
            code = "unauthorized"
        elif answer.status < 500:
            return self._client_error(answer, document, found)
        return Reading(Kind.NOT_ANSWERED, error=Problem(code=code, message=message), retry_after=asked, limited=limited)

    def _client_error(self, answer: Answer, document: dict[str, Any] | None, found: Problem) -> Reading:
        """Any other 4xx: perhaps an unknown id. A page that is no JSON is rather a wrong address than that."""
        by_status = answer.status in self._errors.unknown_task_http and (document or not answer.body.strip())
        if by_status or self._names(document, self._errors.unknown_task_codes):
            return _nothing(Kind.UNKNOWN_TASK, "unknown_task", found["message"])
        return Reading(Kind.NOT_ANSWERED, error=found)

    def _names(self, document: Any, codes: Container[str]) -> bool:
        """Whether the answer holds one of these error codes."""
        return any(isinstance(code, str) and code in codes for code in self._read.error.code.candidates(document))

    def _status(self, value: Any) -> str | None:
        """A status in lower case. One that is no text (`"done": true`) counts only where the file lists it."""
        if isinstance(value, str):
            return _clean(value).strip().lower()[:MAX_STATUS] or None
        status = str(value).lower() if isinstance(value, bool | int) else ""
        return status if status in self._kinds else None

    def _code(self, value: Any) -> str | None:
        """An error code; the "success" of an envelope around the answer is none."""
        code = _clean(str(value))[:MAX_STATUS] if isinstance(value, str) or type(value) is int else ""
        return None if self._kinds.get(code.lower()) in (Kind.PENDING, Kind.COMPLETED) else code or None

    def _problem(self, document: Any, code: str, message: str, more: str = "") -> Problem:
        """The upstream's own code and message, or these; `more` is what the message goes on with without a code."""
        paths = self._read.error
        own = next((c for c in map(self._code, paths.code.candidates(document)) if c), None)
        said = next((m for m in map(_text, paths.message.candidates(document)) if m), None)
        more = f"with the code '{own}'" if own else more
        return Problem(code=own or code, message=said or f"{message} {more}".rstrip())

    def _result(self, document: Any) -> Result:
        paths = self._read.result

        def link(path: Path) -> str | None:
            return next((found for found in map(_link, path.candidates(document)) if found), None)

        def size(path: Path) -> int | None:
            found = path.first(document)
            return found if type(found) is int and 0 < found < 1_000_000 else None

        url = link(paths.url)
        return Result(
            url=url,
            thumbnail_url=link(paths.thumbnail_url),
            preview_url=link(paths.preview_url),
            width=size(paths.width),
            height=size(paths.height),
            enhanced_prompt=_text(paths.enhanced_prompt.first(document)),
            expires_at=link_expiry(url) if url else None,
        )


def not_answered(code: str, message: str) -> Reading:
    """The reading of a query that brought no answer at all."""
    return _nothing(Kind.NOT_ANSWERED, code, message)


def _nothing(kind: Kind, code: str, message: str) -> Reading:
    return Reading(kind, error=Problem(code=code, message=message))


def _document(answer: Answer) -> dict[str, Any] | None:
    """The body as a JSON object, or None. (orjson bounds nesting, and refuses NaN and what is not UTF-8.)"""
    if answer.truncated:
        return None
    try:
        document = orjson.loads(answer.body.removeprefix(BOM))
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _text(value: Any) -> str | None:
    return (_clean(value)[:MAX_TEXT] or None) if isinstance(value, str) and value.strip() else None


def _clean(text: str) -> str:
    """Without NUL, which PostgreSQL refuses in a text."""
    return text.replace("\0", "")


def _link(value: Any) -> str | None:
    if isinstance(value, str) and len(value) <= MAX_LINK and re.match(r"(?i)https?://[^\s<>\"\0-\x1f]+\Z", value):
        return value
    return None


def _progress(value: Any) -> float | None:
    """0 to 1 from `0.93`, `93`, `93.0` or `"93%"`; the whole number 1 is one per cent."""
    scale = 1.0
    if isinstance(value, str):
        scale = 100.0 if value.strip().endswith("%") else 1.0
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    elif value == 1 and isinstance(value, int):
        scale = 100.0
    if not math.isfinite(value):
        return None
    if scale == 1.0 and value > 1:
        scale = 100.0
    fraction = value / scale
    return fraction if 0 <= fraction <= 1 else None


def link_expiry(url: str) -> str | None:
    """When a signed link stops working, read from its own signature, as RFC 3339; None when it does not say.

    Azure's `se` (a date), CloudFront's and OSS's `Expires` (unix seconds), S3's and GCS's `X-…-Date` + `X-…-Expires`.
    """
    try:
        query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        if "se" in query:
            moment = datetime.fromisoformat(query["se"])
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        elif "expires" in query:
            moment = datetime.fromtimestamp(int(query["expires"]), UTC)
        else:
            vendor = next(v for v in ("x-amz", "x-goog", "x-oss", "x-tos") if f"{v}-expires" in query)
            signed = datetime.strptime(query[f"{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            moment = signed + timedelta(seconds=int(query[f"{vendor}-expires"]))
        return rfc3339(round(moment.timestamp() * 1000))
    except (ValueError, OverflowError, KeyError, StopIteration, OSError):
        return None
