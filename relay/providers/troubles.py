"""Whether an upstream as a whole is in trouble: it refuses the key, says nothing usable, or knows no such address.

One answer says little: gateways fail for seconds, and a 403 may be about one task. So a trouble begins with several
answers in a row, and ends with the first usable one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from relay.model.event import EventType
from relay.model.reading import INTERNAL, Kind, Reading
from relay.model.times import Millis
from relay.model.trouble import Trouble, UpstreamTrouble, upstream_subject
from relay.providers.provider import Provider
from relay.telemetry import metrics

MANY = 3
"""Answers in a row before relay says that an upstream is in trouble; for a wrong address, of so many tasks."""

SILENT_FOR: Millis = 30_000
"""Milliseconds for which every answer must have been useless. A refusal needs no such wait."""

MAX_KEYS = 1000
"""Own keys of watches that are remembered. An app may bring along any number of wrong ones."""

_REFUSALS = ("unauthorized", "quota_exhausted")
_PASSING = ("rate_limited", INTERNAL["code"])


class Heard(NamedTuple):
    """An answer, as far as it says something of the upstream.

    Attributes:
        own_key: the key that the watch brought along; None for the deployment's.
        status: of HTTP; None where no answer came.
        at: when it was asked for.
    """

    provider: Provider
    own_key: str | None
    task_id: str
    reading: Reading
    status: int | None
    at: Millis


@dataclass(slots=True)
class _Run:
    """Answers in a row that are no good.

    Attributes:
        unrouted: tasks for which a router answered 404.
        trouble: set once it is one.
    """

    since: Millis
    count: int = 0
    unrouted: set[str] = field(default_factory=set)
    trouble: Trouble | None = None


class _Key(NamedTuple):
    """What a run is about: what comes of all keys of a provider, or the refusals of one key."""

    provider: str
    own_key: str | None
    refused: bool


@dataclass(slots=True)
class UpstreamNews:
    """What has changed.

    Attributes:
        begun: troubles that began; with `own`, those of keys that watches brought along.
        ended: providers that answer well again, likewise.
        well: providers that gave a first usable answer. Another process may think that they are in trouble.
    """

    begun: list[Trouble] = field(default_factory=list)
    own_begun: list[Trouble] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    own_ended: list[str] = field(default_factory=list)
    well: list[str] = field(default_factory=list)


class UpstreamTroubles:
    """Hears every answer of every upstream, and notices when one gets into trouble and when it is well again."""

    def __init__(self) -> None:
        self._runs: dict[_Key, _Run] = {}
        self._well: set[tuple[str, str | None]] = set()
        self._news = UpstreamNews()

    def heard(self, heard: Heard) -> None:
        """Take note of an answer."""
        reading = heard.reading
        code = reading.error["code"] if reading.error else ""
        useless = reading.kind in (Kind.NOT_ANSWERED, Kind.NOT_UNDERSTOOD)
        if useless and code in _REFUSALS:
            self._refused(heard)
        elif useless and code not in _PASSING:
            self._useless(heard)
        elif not useless and (self._runs or (heard.provider.name, heard.own_key) not in self._well):
            self._usable(heard.provider.name, heard.own_key)

    @property
    def standing(self) -> list[Trouble]:
        """Return the troubles that last, without those of keys that watches brought along."""
        return [run.trouble for key, run in self._runs.items() if run.trouble is not None and key.own_key is None]

    def news(self) -> UpstreamNews:
        """Return what has changed since the last call."""
        news, self._news = self._news, UpstreamNews()
        return news

    def _refused(self, heard: Heard) -> None:
        key = _Key(heard.provider.name, heard.own_key, True)
        if key not in self._runs and len(self._runs) >= MAX_KEYS:
            self._runs = {known: run for known, run in self._runs.items() if known.own_key is None}
        run = self._runs.setdefault(key, _Run(heard.at))
        run.count += 1
        if run.trouble is None and run.count >= MANY:
            provider = heard.provider
            of_watch = "the 'upstream_key' that its watches brought along"
            self._begin(
                run,
                heard,
                UpstreamTrouble.REFUSED,
                f"{provider.name} refuses every query",
                f"check {provider.key_variable if heard.own_key is None else of_watch}",
            )

    def _useless(self, heard: Heard) -> None:
        provider = heard.provider
        run = self._runs.setdefault(_Key(provider.name, None, False), _Run(heard.at))
        run.count += 1
        if heard.reading.no_route and len(run.unrouted) < MANY:
            run.unrouted.add(heard.task_id)
        if run.trouble is not None:
            return
        if len(run.unrouted) == MANY:
            text = f"the address of {provider.name} looks wrong, a router answers HTTP 404 whatever the task"
            self._begin(run, heard, UpstreamTrouble.UNROUTED, text, f"check {provider.base_url_variable}")
        elif run.count >= MANY and heard.at - run.since >= SILENT_FOR:
            text = f"{provider.name} gives no usable answer"
            remedy = f"see whether {provider.host} is up, and check {provider.base_url_variable}"
            self._begin(run, heard, UpstreamTrouble.SILENT, text, remedy)

    def _begin(self, run: _Run, heard: Heard, what: UpstreamTrouble, text: str, remedy: str) -> None:
        name = heard.provider.name
        said = heard.reading.error["message"][:500] if heard.reading.error else ""
        status = heard.status
        run.trouble = Trouble(
            upstream_subject(name),
            EventType.UPSTREAM_REFUSED,
            run.since,
            f"{text}: {said}" if said else text,
            remedy,
            {"provider": name, "trouble": what.value, "status": status},
        )
        if heard.own_key is not None:
            self._news.own_begun.append(run.trouble)
            return
        self._news.begun.append(run.trouble)
        metrics.UPSTREAM_TROUBLE.labels(name, what.value).set(1)

    def _usable(self, name: str, own_key: str | None) -> None:
        """End what was wrong with a provider and with a key of it."""
        own = self._runs.pop(_Key(name, own_key, True), None) if own_key is not None else None
        if own is not None and own.trouble is not None:
            self._news.own_ended.append(name)
        of_all = [self._runs.pop(_Key(name, None, False), None)]
        if own_key is None:
            of_all.append(self._runs.pop(_Key(name, None, True), None))
        over = [run.trouble for run in of_all if run is not None and run.trouble is not None]
        for trouble in over:
            metrics.UPSTREAM_TROUBLE.labels(name, trouble.detail["trouble"]).set(0)
        if over:
            self._news.ended.append(name)
        elif own_key is None and (name, None) not in self._well:
            self._news.well.append(name)
        if len(self._well) >= MAX_KEYS:
            self._well.clear()
        self._well.add((name, own_key))
