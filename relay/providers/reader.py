"""An answer of a query endpoint, read as its provider's definition says: bytes in, a `Reading` out, never an exception.

The rules (docs/lifecycle.md) are caution bought with other people's money: only an explicit success is a success, only
an explicit failure is a failure, and any other answer says nothing about the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import orjson

from relay.model.reading import Kind, Problem, Reading
from relay.model.retry import parse_retry_after
from relay.model.times import Millis
from relay.providers.answer_paths import Read
from relay.providers.document import Answer, Document, document_of
from relay.providers.envelope import members_within, places_of, went_well
from relay.providers.fields import clean, number_of, progress_of
from relay.providers.paths import Find, Path, Place
from relay.providers.reasons import Reasons
from relay.providers.results import links_of, result_of, stands_inside
from relay.providers.statuses import Errors, Statuses
from relay.security.redaction import redact

MAX_STATUS = 64
"""Characters of a status that are kept."""

_CAUTIOUS = (Kind.PENDING, Kind.FAILED, Kind.UNKNOWN_TASK, Kind.COMPLETED)
"""Of several statuses inside an envelope, the first of these counts."""


class Word(NamedTuple):
    """A status: what the file lists it as, where it was found, and the place that it is about."""

    status: str
    kind: Kind
    where: str
    place: Place


class Reader:
    """Reads the answers of one provider.

    Args:
        read, statuses, errors: the tables of its definition.
    """

    def __init__(self, read: Read, statuses: Statuses, errors: Errors) -> None:
        self._read = read
        self._errors = errors
        self._kinds: dict[str, Kind] = {
            **dict.fromkeys(statuses.pending, Kind.PENDING),
            **dict.fromkeys(statuses.completed, Kind.COMPLETED),
            **dict.fromkeys(statuses.failed, Kind.FAILED),
            **dict.fromkeys(statuses.unknown_task, Kind.UNKNOWN_TASK),
        }
        self._http = {code: Kind(kind) for code, kind in statuses.http.items()}
        self._reasons = Reasons(read.error, errors, self._kinds)

    def read(self, answer: Answer, now: Millis) -> Reading:
        """Return what the answer says; `now` serves to understand a `Retry-After` that is a date."""
        document = document_of(answer)
        reading = self._reading(answer, document, now)
        if document is None:
            return reading
        if reading.body is None and isinstance(document.value, dict):
            reading = reading._replace(aside=document.body, http_status=answer.status, repaired=document.repaired)
        return self._cut(reading, document, answer) if self._read.keep.expressions else reading

    def gives_reason(self, answer: Answer) -> bool:
        """Return whether an answer gives a reason for a refusal, where the file looks for one."""
        document = document_of(answer)
        return document is not None and self._reasons.given(places_of(document.value, self._read.envelope.members))

    def _cut(self, reading: Reading, document: Document, answer: Answer) -> Reading:
        """Leave of an answer what the file keeps of it; all of it, where that finds nothing."""
        kept = self._read.keep.first([Place("", (document.value,))])
        if kept is None:
            return reading
        body = redact(orjson.dumps(kept), answer.secrets)
        return reading._replace(body=reading.body and body, aside=reading.aside and body, cut=True)

    def _reading(self, answer: Answer, document: Document | None, now: Millis) -> Reading:
        if 200 <= answer.status < 300:
            return self._success(answer, document, now)
        if 300 <= answer.status < 400:
            where = clean(answer.headers.get("location", ""))[:200] or "nowhere"
            return _nothing(Kind.NOT_UNDERSTOOD, "redirected", f"HTTP {answer.status}, redirected to {where}")
        return self._http_error(answer, document, now)

    # 2xx: the task itself

    def _success(self, answer: Answer, document: Document | None, now: Millis) -> Reading:
        if document is None:
            if answer.status in self._http:
                return self._without_document(answer, now)
            return _nothing(Kind.NOT_UNDERSTOOD, "not_json", f"HTTP {answer.status}, but the answer {_flaw(answer)}")
        about = partial(Reading, body=document.body, http_status=answer.status, repaired=document.repaired)
        places = [Place("", (document.value,))]
        status = self._status(self._read.status.first(places))
        if status and self._kinds.get(status) is Kind.PENDING:  # nearly every answer
            return self._pending(about, answer, status, places, now)
        outer = next(self.words(self._read.status, places), None)
        places = places_of(document.value, self._read.envelope.members)
        if self._errors.limited_codes and self._reasons.names(places, self._errors.limited_codes):
            return self._limited(answer, places, "rate_limited", now)
        word = self._own_word(outer, places) or self._http_word(answer.status, places)
        if word is None:
            return self._no_status(places)
        places = _inside_first(word.place, places)
        if word.kind is Kind.PENDING:
            return self._pending(about, answer, word.status, places, now)
        if word.kind is Kind.COMPLETED:
            return self._completed(about, word, places, answer.link_names)
        problem = self._reasons.problem(places, word.status, f"the upstream says '{word.status}'", "and no more")
        if word.kind is Kind.FAILED:
            return about(Kind.FAILED, word.status, self._progress(places), error=problem)
        return self._unknown_status(word, problem, places)

    def _without_document(self, answer: Answer, now: Millis) -> Reading:
        """Read an answer of which only its HTTP status says how the task stands. A page never ends one."""
        status, kind = f"http_{answer.status}", self._http[answer.status]
        if kind is Kind.PENDING:
            return Reading(kind, status, retry_after=self._wait(answer, (), now))
        content_type = answer.headers.get("content-type", "text/html")
        # What is to be JSON and is not, though it is all there, is broken: that ends nothing either.
        no_file = content_type.startswith("text/") or ("json" in content_type and not answer.truncated)
        if kind is not Kind.COMPLETED or no_file or not answer.body:
            return _nothing(Kind.NOT_UNDERSTOOD, "not_json", f"HTTP {answer.status}, but the answer {_flaw(answer)}")
        return Reading(kind, status, 1.0, result=result_of(self._read.result, [], (), {}), inline=True)

    def _http_word(self, code: int, places: Sequence[Place]) -> Word | None:
        """Return the HTTP status as the status of the task, where the file says what it means."""
        kind = self._http.get(code)
        return None if kind is None else Word(f"http_{code}", kind, "", places[0])

    def _pending(
        self, about: partial[Reading], answer: Answer, status: str, places: Sequence[Place], now: Millis
    ) -> Reading:
        wait = self._wait(answer, places, now)
        return about(Kind.PENDING, status, self._progress(places), retry_after=wait, model=self._model(places))

    def _wait(self, answer: Answer, places: Sequence[Place], now: Millis) -> float | None:
        """Return the seconds that an answer asks to be left alone about this task: in its head, or in its body."""
        if "retry-after" not in answer.headers and not self._read.wait.expressions:  # nearly every answer
            return None
        asked = parse_retry_after(answer.headers.get("retry-after"), now)
        told = number_of(self._read.wait.first(places)) if self._read.wait.expressions else None
        return max((wait for wait in (asked, told) if wait is not None and wait >= 0), default=None)

    def _model(self, places: Sequence[Place]) -> str | None:
        model = self._read.model.first(places) if self._read.model.expressions else None
        return clean(model)[:MAX_STATUS] if isinstance(model, str) else None

    def _completed(
        self, about: partial[Reading], word: Word, places: Sequence[Place], names: Mapping[str, str]
    ) -> Reading:
        paths = self._read.result
        urls, find = links_of(paths.url, places, names)
        if not self._is_own_success(word, find, places):
            return about(Kind.PENDING, progress=self._progress(places))
        inline = stands_inside(paths, urls, find, places)
        result = result_of(paths, urls, places, names)
        return about(Kind.COMPLETED, word.status, 1.0, result=result, inline=inline, model=self._model(places))

    def _no_status(self, places: Sequence[Place]) -> Reading:
        nothing = "the answer holds no status where the provider's file looks"
        message = self._reasons.problem(places, "", nothing)["message"]
        if self._reasons.says_unknown(places):
            return _nothing(Kind.UNKNOWN_TASK, "unknown_task", message)
        return _nothing(Kind.NOT_UNDERSTOOD, "no_status", message)

    def _unknown_status(self, word: Word, problem: Problem, places: Sequence[Place]) -> Reading:
        """Read a status that the file lists as an unknown task: what is said beside it must be about the task, too."""
        if self._reasons.speaks_of_something_else(places):
            return Reading(Kind.NOT_ANSWERED, error=problem)
        error = Problem(code="unknown_task", message=problem["message"])
        return Reading(Kind.UNKNOWN_TASK, word.status, self._progress(places), error=error)

    # Whose word a status is

    def words(self, path: Path, places: Sequence[Place]) -> Iterator[Word]:
        """Yield every status that a path finds. One that is listed nowhere is pending."""
        for find in path.finds(places):
            if status := self._status(find.value):
                yield Word(status, self._kinds.get(status, Kind.PENDING), find.where, find.place)

    def statuses(self, places: Sequence[Place]) -> list[Word]:
        """Return every status that stands in an answer, each once."""
        inner = self.words(self._read.envelope.status, places[1:])
        return list({word.where: word for word in (*self.words(self._read.status, places[:1]), *inner)}.values())

    def _own_word(self, outer: Word | None, places: Sequence[Place]) -> Word | None:
        """Return the status that is the task's own.

        Where the outer one says only that the query went well, it is what stands inside; and no success is one while
        anything inside says otherwise.
        """
        outer = outer or next(self._inner_words(places[0], places), None)
        if outer is None:
            return None
        outer = outer._replace(place=_place_of(outer.where, places))
        well = went_well(outer.status)
        if outer.kind is not Kind.COMPLETED and not well:
            return outer
        inner = list(self._inner_words(outer.place, places))
        candidates = inner if inner and well else [outer, *inner]
        return min(candidates, key=lambda word: _CAUTIOUS.index(word.kind))

    def _inner_words(self, around: Place, places: Sequence[Place]) -> Iterator[Word]:
        """Yield the first status of each object inside a place."""
        for place in places:
            if place is not around and place.within(around):
                for item in place.objects:
                    word = next(self.words(self._read.envelope.status, [Place(place.name, (item,))]), None)
                    if word:
                        yield word._replace(place=place)

    def _is_own_success(self, word: Word, link: Find | None, places: Sequence[Place]) -> bool:
        """Return whether a success is the task's own: nothing inside it may be empty or half done."""
        names = self._read.envelope.status.names
        inside = [place for place in places if place.name != word.place.name and place.within(word.place)]
        if link is not None and link.place in inside:
            under_way = went_well(word.status) and (progress_of(self._read.progress.first([link.place])) or 1.0) < 1.0
            return not under_way and not _holds_empty(link.place.objects, names)
        if link is not None or progress_of(self._read.progress.first([word.place])) == 1.0:
            return True
        if not went_well(word.status):
            return not any(_holds_empty(place.objects, names) for place in inside)
        return not inside and not any(self._kinds.get(status) is not Kind.COMPLETED for status in self._below(word))

    def _below(self, word: Word) -> Iterator[str]:
        """Yield the listed statuses below a success, and empty ones, in any object there."""
        for item in word.place.objects:
            for value in item.values() if isinstance(item, dict) else item:
                for member in members_within(value, self._read.envelope.status.names):
                    status = self._status(member) or ""
                    if status in self._kinds or member in (None, ""):
                        yield status

    def _status(self, value: Any) -> str | None:
        """Return a status in lower case. One that is no text (`"done": true`) counts only where the file lists it."""
        if isinstance(value, str):
            return _plain(value) if len(value) <= MAX_STATUS else _plain.__wrapped__(value)
        status = str(value).lower() if isinstance(value, bool | int) else ""
        return status if status in self._kinds else None

    # HTTP errors

    def _http_error(self, answer: Answer, document: Document | None, now: Millis) -> Reading:
        code = f"http_{answer.status}"
        places = places_of(document.value, self._read.envelope.members) if document else []
        problem = self._reasons.problem(places, code, f"the upstream answered HTTP {answer.status}")
        no_quota = answer.status in (402, 403, 429) and self._reasons.names(places, self._errors.quota_codes)
        if no_quota or answer.status == 429 or self._reasons.names(places, self._errors.limited_codes):
            return self._limited(answer, places, "quota_exhausted" if no_quota else "rate_limited", now)
        if answer.status in (401, 403):
            code = "unauthorized"
        elif answer.status < 500:
            return self._client_error(answer, document, places)
        asked = parse_retry_after(answer.headers.get("retry-after"), now)
        return Reading(Kind.NOT_ANSWERED, error=Problem(code=code, message=problem["message"]), retry_after=asked)

    def _limited(self, answer: Answer, places: Sequence[Place], code: str, now: Millis) -> Reading:
        """Read an answer that refuses because of how much is asked with this key, whatever its HTTP status."""
        message = self._reasons.problem(places, code, f"the upstream answered HTTP {answer.status}")["message"]
        asked = self._wait(answer, places, now)
        return Reading(Kind.NOT_ANSWERED, error=Problem(code=code, message=message), retry_after=asked, limited=True)

    def _client_error(self, answer: Answer, document: Document | None, places: Sequence[Place]) -> Reading:
        """Read any other 4xx. A task is unknown where the answer says so; a router knows nothing of tasks."""
        problem = self._reasons.problem(places, f"http_{answer.status}", f"the upstream answered HTTP {answer.status}")
        by_status = answer.status in self._errors.unknown_task_http and bool(places or not answer.body.strip())
        if self._reasons.says_unknown(places, _plain_text(answer), by_status=by_status):
            return _nothing(Kind.UNKNOWN_TASK, "unknown_task", problem["message"])
        gateway = self._reasons.names(places, self._errors.gateway_codes)
        if document and not gateway and (kind := self._http.get(answer.status)):
            about = partial(Reading, body=document.body, http_status=answer.status, repaired=document.repaired)
            return about(kind, f"http_{answer.status}", error=problem if kind is Kind.FAILED else None)
        if answer.status != 404 or gateway:
            return Reading(Kind.NOT_ANSWERED, error=problem)
        return Reading(Kind.NOT_ANSWERED, error=Problem(code="http_404", message=problem["message"]), no_route=True)

    def _progress(self, places: Sequence[Place]) -> float | None:
        told = self._read.progress.first(places)
        if told is None and len(places) == 1 and self._read.envelope.members:
            told = self._read.progress.first(places_of(places[0].objects[0], self._read.envelope.members)[1:])
        return progress_of(told)


def not_answered(code: str, message: str) -> Reading:
    """Return the reading of a query that brought no answer at all."""
    return _nothing(Kind.NOT_ANSWERED, code, message)


def _nothing(kind: Kind, code: str, message: str) -> Reading:
    return Reading(kind, error=Problem(code=code, message=message))


@lru_cache(maxsize=1024)
def _plain(status: str) -> str | None:
    """Return a status as it is compared. An upstream has few words for it, and each poll reads one."""
    return clean(status).strip().lower()[:MAX_STATUS] or None


def _flaw(answer: Answer) -> str:
    """Return why an answer is no JSON object."""
    if answer.truncated:
        return "is longer than relay reads"
    if answer.unread:
        return f"is compressed with '{answer.unread[:64]}', which relay does not read"
    return "is not a JSON object"


def _place_of(where: str, places: Sequence[Place]) -> Place:
    """Return the place that a path such as `data.status` leads into."""
    name = where.rpartition(".")[0]
    return next((place for place in places if place.name == name), places[0])


def _inside_first(first: Place, places: Sequence[Place]) -> list[Place]:
    """Return the places in the order in which they are read: one and what is inside it, then what is around it."""
    inside = [place for place in places if place.within(first)]
    return inside + [place for place in places if place not in inside]


def _holds_empty(objects: Sequence[dict[str, Any]], names: Sequence[str]) -> bool:
    """Return whether one of these members is there and empty."""
    return any(name in item and item[name] in (None, "") for item in objects for name in names)


def _plain_text(answer: Answer) -> str:
    """Return the first line of an answer that is a plain text."""
    text = answer.body[:1000].decode(errors="replace").strip()
    return "" if text.startswith(("<", "{", "[")) else text.partition("\n")[0]
