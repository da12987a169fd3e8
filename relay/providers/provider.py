"""A declared upstream: its definition file, and the query that turns a task id into a reading."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from urllib.parse import quote

import httpx
import orjson
import structlog

from relay.errors import ConfigError, Invalid
from relay.model.cadence import Cadence
from relay.model.reading import TOO_LARGE, Kind, Reading
from relay.model.times import Millis
from relay.outbound.lane import Limit
from relay.outbound.prepared import Exchanger
from relay.outbound.transport import failure_of
from relay.providers.addresses import QueryAddress
from relay.providers.bulk import MISSING, SharedReading, unshared
from relay.providers.credentials import Credential, flaw_of
from relay.providers.definition import SANDBOX, Definition
from relay.providers.document import Answer
from relay.providers.follow import FollowUp, NoFollowUp
from relay.providers.hosts import Standing, Unaskable, address_of, standing
from relay.providers.id_form import IdForm
from relay.providers.messages import BULK, FOLLOW_UP, MAX_KEPT, MAX_TEMPLATES, QUERY, Messages
from relay.providers.passing import KeyPlaces
from relay.providers.placeholders import as_sent, as_text, filled, filled_url
from relay.providers.reader import Reader, not_answered
from relay.providers.variables import variable

log = structlog.stdlib.get_logger(__name__)


class Provider:
    """An upstream that can be asked.

    Args:
        definition: its file.
        key: the deployment's API key for it, if it has one.
        exchanger: sends the queries.
        creates: sends the create calls, over connections of their own; None where all go the same way.

    Attributes:
        creates: sends the create calls.
        query_address: tells which task a request of an app asks about.
        base_url_variable: the environment variable that says where to ask.
        key_variable: that with the API key.
        key_places: where a request of an app carries the key.
        prefix: the path of its address, before every path of its file.
        host: the host that is asked; empty if its address is not known.
        address: where it is asked; empty if that is not known.
        at_home: that is its own address, not one that a watch has given.
    """

    def __init__(
        self, definition: Definition, key: str | None, exchanger: Exchanger, creates: Exchanger | None = None
    ) -> None:
        self.name = definition.name
        self.base_url_variable = variable(self.name, "BASE_URL")
        self.key_variable = variable(self.name, "API_KEY")
        self._needs_key = definition.needs_key
        self.definition = definition
        self._key = key
        self.creates = exchanger if creates is None else creates
        self.query_address = QueryAddress(definition.request)
        self.key_places = KeyPlaces.of(definition.request)
        self._reader = Reader(definition.read, definition.statuses, definition.errors)
        query = "&".join(f"{quote(name, safe='')}={as_text(value)}" for name, value in definition.request.query.items())
        self._path = definition.request.path + (f"?{query}" if query else "")
        self._id_form = IdForm(definition.request.id)
        self._elsewhere: dict[str, Provider] = {}
        self._messages = Messages(definition, None, key, exchanger, self.remedy)
        self._stand_at("http://sandbox" if definition.request.base_url == SANDBOX else definition.request.base_url)
        self.at_home = True
        self._gets_deployment_key = True

    def _stand_at(self, base: str) -> None:
        """Make an address the one that is asked."""
        self._base = httpx.URL(base) if base else None
        self.address = str(self._base).rstrip("/") if self._base else ""
        self.host = self._base.host if self._base else ""
        self.prefix = self._base.raw_path.decode().rstrip("/") if self._base else ""
        self._target = self.prefix + self._path
        follow = self.definition.follow
        self._follow_up = FollowUp(follow, self.definition.read.envelope.members, self._base) if follow else None
        self._messages = self._messages.at(self._base, self._key)

    def at(self, base: str | None, task_id: str) -> Provider:
        """Return this provider at the address where a task is asked about.

        Args:
            base: the address that its watch has given.

        Raises:
            Unaskable: there is no such address, or it is not within the hosts of the file.
        """
        request = self.definition.request
        if base is None and not request.asks_the_id:
            if self._base is not None:
                return self
            if self.definition.hosts:
                remedy = f"give it 'upstream_base', such as https://{self.definition.hosts[0]}, or {self.remedy}"
                raise Unaskable("upstream_base", f"'{self.name}' is asked at an address of each watch", remedy)
            raise Unaskable("provider", f"'{self.name}' has no address here", self.remedy)
        if base is not None and request.asks_the_id:
            raise Unaskable("upstream_base", f"the ids of '{self.name}' are whole addresses", "leave it out")
        return self._within(*(("task_id", task_id) if base is None else ("upstream_base", base)))

    def _within(self, field: str, url: str) -> Provider:
        """Return this provider at an address within its hosts, of which its own is one."""
        hosts = self.definition.hosts
        is_id = field == "task_id"
        own = address_of(self.address)
        address = address_of(url)
        if address and own and address.origin == own.origin and (is_id or url.rstrip("/") == self.address):
            return self
        known = standing(hosts, address) if address else None
        if address is None or known is None or not (is_id or address.target in ("", "/")):
            where = " or ".join(f"https://{host}" for host in hosts) or "left out: its file lists no hosts"
            why = f"{'the id' if is_id else 'the address'} is not within the hosts of '{self.name}'"
            raise Unaskable(field, why, f"it must be {where}{' and a path' if is_id else ''}")
        return self._elsewhere.get(address.origin) or self._moved(address.origin, known)

    def _moved(self, origin: str, known: Standing) -> Provider:
        """Return a copy of this provider that is asked elsewhere. Only a host that the file writes out gets its key."""
        moved = copy(self)
        moved._key = self._key if known is Standing.NAMED else None
        moved._stand_at(origin)
        moved._needs_key = self.definition.uses_key
        moved._gets_deployment_key = known is Standing.NAMED
        moved.at_home = False
        if len(self._elsewhere) >= MAX_TEMPLATES:
            self._elsewhere.clear()
        self._elsewhere[origin] = moved
        return moved

    @property
    def configured(self) -> bool:
        """Return whether its address is known, or is one that each watch gives."""
        return self._base is not None or bool(self.definition.hosts)

    @property
    def base_url(self) -> httpx.URL:
        """Return where it is asked.

        Raises:
            ConfigError: the provider has none.
        """
        if self._base is None:
            raise ConfigError(f"provider '{self.name}' has no address: {self.remedy}")
        return self._base

    @property
    def key(self) -> str | None:
        """Return the deployment's API key, if it has one."""
        return self._key

    async def credential(self, now: Millis) -> Credential | Reading | None:
        """Return what is made of the deployment's key; why nothing can be; None where the key is sent as it is.

        Raises:
            NoRoom: no token was asked for, because relay itself had no connection to spare.
        """
        return await self._messages.credential(now)

    def heard(self, credential: Credential, status: int, now: Millis) -> None:
        """Note whether a call with what is made of the deployment's key was let in, for the next one."""
        self._messages.heard(credential, status, now)

    @property
    def set_headers(self) -> tuple[str, ...]:
        """Return the headers that relay itself sets in a call with the deployment's key."""
        auth = self.definition.auth
        return ("Authorization", *self.key_places.headers, *(auth.set_headers if auth else ()))

    @property
    def remedy(self) -> str:
        """Return what to do where its address is not known."""
        return f"set {self.base_url_variable}"

    @property
    def key_remedy(self) -> str:
        """Return what to do where a query lacks its key."""
        if not self._gets_deployment_key:
            return f"{self.host} gets no key of this deployment's: register the task with its own 'upstream_key'"
        auth = self.definition.auth
        form = f" to {auth.shape}" if auth else ""
        return f"'{self.name}' needs an API key: set {self.key_variable}{form}"

    @property
    def key_refusal(self) -> tuple[str, str]:
        """Return what a registration is told that brings no key where one is needed: where, and what to do."""
        if self._gets_deployment_key:
            return "/provider", f"{self.key_remedy}, or give the watch its own 'upstream_key'"
        return "/upstream_key", self.key_remedy

    def lacks_key(self, key: str | None) -> bool:
        """Return whether a query with a watch's own key, or None for the deployment's, would lack the key it needs."""
        return self._needs_key and not (key or self._key)

    def check_key(self, key: str | None) -> None:
        """Check the key that a watch brings, if it brings one.

        Raises:
            Invalid: nothing can be made of it that lets a query in.
        """
        if key and (flaw := flaw_of(self.definition.auth, key)):
            raise Invalid.at("/upstream_key", flaw)

    def lane(self, key: str | None) -> tuple[str, str | None]:
        """Return what the rate budget belongs to: (host, key)."""
        return self.host, key or self._key

    def id_problem(self, task_id: str) -> str | None:
        """Return what is wrong with an id, in words for an app; None if it can be asked about."""
        if self._id_form.parts(task_id) is not None:
            return None
        return f"must be of the form {self._id_form.form}, with which '{self.name}' is asked"

    def lanes(self, key: str | None, _app: str, /) -> Sequence[tuple[Hashable, Limit]]:
        """Return the lanes that a query of an app goes through, with what each may take."""
        return ((self.lane(key), self.definition.budget),)

    def share(self, app: str) -> tuple[str, str]:
        """Return whose share a query of an app takes, of what has an end; and the app, if it is shared."""
        return self.host, app

    def cadence(self, instead: Cadence | None) -> Cadence:
        """Return how often to ask: what the deployment has in place of all files' cadences, or this one's."""
        return instead or self.definition.cadence

    async def query(self, task_id: str, key: str | None, now: Millis) -> tuple[Reading, Answer | None]:
        """Ask once about a task. A failure of the upstream is a reading too. Beside it stands the answer, if one came.

        Args:
            key: the watch's own API key; None for the deployment's.
            now: resolves a `Retry-After` that is a date.

        Raises:
            ConfigError: the provider has no address.
            NoRoom: nothing was sent, because relay itself had no connection to spare.
        """
        try:
            names = self._names_of(task_id)
            target = self._target_of(task_id, names)
            answer = await self._messages.send(key, QUERY, target, self._body_of(names), names, now)
        except httpx.HTTPError as error:
            failure = failure_of(error)
            return not_answered(failure, f"no answer from {self.host}: {str(error) or failure}"), None
        return (answer, None) if isinstance(answer, Reading) else (self._read(answer, now), answer)

    async def query_many(self, task_ids: Sequence[str], key: str | None, now: Millis) -> SharedReading:
        """Ask once about several tasks, as `query` does about one. What it says of others is none of their business.

        Raises:
            NoRoom: nothing was sent, because relay itself had no connection to spare.
        """
        bulk = self.definition.bulk
        if bulk is None:
            return SharedReading({}, Reading(Kind.NOT_ANSWERED), refused=True)
        try:
            target = as_sent(self.prefix + bulk.target(task_ids))
            answer = await self._messages.send(key, BULK, target, bulk.body(task_ids), {}, now)
        except httpx.HTTPError as error:
            failure = failure_of(error)
            return SharedReading({}, not_answered(failure, f"no answer from {self.host}: {failure}"))
        if isinstance(answer, Reading):
            return SharedReading({}, answer)
        whole = self._reader.read(answer, now)
        items = None if whole.limited or answer.status >= 300 else bulk.items(answer)
        if items is None:
            refused = answer.status < 500 and not whole.limited and answer.status not in (401, 402, 403, 408)
            return SharedReading({}, unshared(whole, answer), refused)
        readings = {task_id: self._read_item(task_id, item, answer, now) for task_id, item in items.items()}
        return SharedReading(readings, Reading(Kind.NOT_UNDERSTOOD, error=MISSING))

    def _read_item(self, task_id: str, item: bytes, answer: Answer, now: Millis) -> Reading:
        """Return what an answer about several tasks says of one: what is kept of it is less than the whole answer."""
        own = answer._replace(body=item, names=self._names_of(task_id))
        return self._read(own, now)._replace(cut=True)

    def is_followed(self, reading: Reading) -> bool:
        """Return whether a reading calls for a second request, in which its result is."""
        return self._follow_up is not None and reading.kind is Kind.COMPLETED

    async def follow(self, task_id: str, key: str | None, reading: Reading, answer: Answer, now: Millis) -> Reading:
        """Make the second request, and return the reading with the result that it brings.

        Where it brings none, the task is completed without one, which the upstream must repeat. A refusal because of
        how much is asked is told in the reading.

        Args:
            answer, reading: the first answer, and how it was read.

        Raises:
            NoRoom: nothing was sent, because relay itself had no connection to spare.
        """
        if self._follow_up is None:
            return reading
        try:
            names = self._names_of(task_id)
            target = as_sent(self._follow_up.target(answer, names))
            second = await self._messages.send(key, FOLLOW_UP, target, b"", names, now)
        except (httpx.HTTPError, NoFollowUp) as error:
            failure = failure_of(error)
            log.warning("no result followed", provider=self.name, reason=str(error) or failure)
            return reading
        if isinstance(second, Reading):
            return reading
        refused = self._reader.read(second, now)
        reading = reading._replace(limited=refused.limited, retry_after=refused.retry_after)
        return self._follow_up.read(reading, second)

    def gives_reason(self, answer: Answer) -> bool:
        """Return whether an answer gives a reason for a refusal, where the file looks for one."""
        return self._reader.gives_reason(answer)

    def _read(self, answer: Answer, now: Millis) -> Reading:
        """Return what an answer says. If it is too large to keep, the reading has no bytes of it."""
        reading = self._reader.read(answer, now)
        if len(answer.body) <= MAX_KEPT or len(reading.body or reading.aside or b"") <= MAX_KEPT:
            return reading
        return reading._replace(body=reading.body and TOO_LARGE, aside=reading.aside and TOO_LARGE)

    def _names_of(self, task_id: str) -> dict[str, str]:
        """Return what the placeholders of a task stand for.

        Raises:
            httpx.LocalProtocolError: the id lacks a part.
        """
        parts = self._id_form.parts(task_id)
        if parts is None:
            raise httpx.LocalProtocolError(f"the id is not of the form {self._id_form.form}")
        return {**parts, "task_id": task_id, "task_path": task_id}

    def _target_of(self, task_id: str, names: Mapping[str, str], /) -> bytes:
        """Return path and query of a query about a task."""
        if self.definition.request.asks_the_id:
            address = address_of(task_id)
            return as_sent(address.target if address and address.target else "/")
        return as_sent(filled_url(self._target, names))

    def _body_of(self, names: Mapping[str, str]) -> bytes:
        """Return the body of a query about a task; a GET has none."""
        template = self.definition.request.json_body
        return b"" if template is None else orjson.dumps(filled(template, names))
