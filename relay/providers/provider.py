"""A declared upstream: its definition file, and the query that turns a task id into a reading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

import httpx
import orjson
import structlog

from relay.errors import ConfigError, Invalid
from relay.model.reading import TOO_LARGE, Kind, Reading
from relay.model.times import Millis
from relay.outbound.descriptors import NoRoom
from relay.outbound.prepared import Exchanger
from relay.outbound.transport import failure_class
from relay.providers.addresses import QueryAddress
from relay.providers.bulk import MISSING, SharedReading, unshared
from relay.providers.credentials import Credential, flaw_of
from relay.providers.definition import SANDBOX, Definition
from relay.providers.document import Answer
from relay.providers.follow import FollowUp, NoFollowUp
from relay.providers.id_form import IdForm
from relay.providers.messages import BULK, FOLLOW_UP, MAX_KEPT, QUERY, Messages
from relay.providers.passing import KeyPlaces
from relay.providers.placeholders import as_text, filled, filled_url
from relay.providers.reader import Reader, not_answered
from relay.providers.variables import variable

log = structlog.stdlib.get_logger(__name__)

_DOTS = re.compile(r"/\.\.?(?:/|$)")
"""Parts of a path that servers take for directions, also where they are percent-encoded."""


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
        base = "http://sandbox" if definition.request.base_url == SANDBOX else definition.request.base_url
        self._base = httpx.URL(base) if base else None
        self.host = self._base.host if self._base else ""
        query = "&".join(f"{quote(name, safe='')}={as_text(value)}" for name, value in definition.request.query.items())
        self.prefix = self._base.raw_path.decode().rstrip("/") if self._base else ""
        self._target = self.prefix + definition.request.path + (f"?{query}" if query else "")
        self._id_form = IdForm(definition.request.id)
        follow = definition.follow
        self._follow_up = FollowUp(follow, definition.read.envelope.members, self._base) if follow else None
        self._messages = Messages(definition, self._base, key, exchanger, self.remedy)

    @property
    def configured(self) -> bool:
        """Return whether its address is known."""
        return self._base is not None

    @property
    def address(self) -> httpx.URL:
        """Return its address.

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

    @property
    def remedy(self) -> str:
        """Return what to do where its address is not known."""
        return f"set {self.base_url_variable}"

    @property
    def key_remedy(self) -> str:
        """Return what to do where a query lacks its key."""
        auth = self.definition.auth
        form = f" to {auth.shape}" if auth else ""
        return f"'{self.name}' needs an API key: set {self.key_variable}{form}"

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
            target = _target(filled_url(self._target, names))
            answer = await self._messages.send(key, QUERY, target, self._body_of(names), names, now)
        except NoRoom:
            raise
        except httpx.HTTPError as error:
            failure = failure_class(error)
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
            target = _target(self.prefix + bulk.target(task_ids))
            answer = await self._messages.send(key, BULK, target, bulk.body(task_ids), {}, now)
        except NoRoom:
            raise
        except httpx.HTTPError as error:
            failure = failure_class(error)
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
        own = replace(answer, body=item, names=self._names_of(task_id))
        return replace(self._read(own, now), cut=True)

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
            target = _target(self._follow_up.target(answer, names))
            second = await self._messages.send(key, FOLLOW_UP, target, b"", names, now)
        except NoRoom:
            raise
        except (httpx.HTTPError, NoFollowUp) as error:
            log.warning("no result followed", provider=self.name, reason=str(error) or failure_class(error))
            return reading
        if isinstance(second, Reading):
            return reading
        refused = self._reader.read(second, now)
        reading = replace(reading, limited=refused.limited, retry_after=refused.retry_after)
        return self._follow_up.read(reading, second)

    def gives_reason(self, answer: Answer) -> bool:
        """Return whether an answer gives a reason for a refusal, where the file looks for one."""
        return self._reader.gives_reason(answer)

    def _read(self, answer: Answer, now: Millis) -> Reading:
        """Return what an answer says. If it is too large to keep, the reading has no bytes of it."""
        reading = self._reader.read(answer, now)
        if len(answer.body) <= MAX_KEPT or len(reading.body or reading.aside or b"") <= MAX_KEPT:
            return reading
        return replace(reading, body=reading.body and TOO_LARGE, aside=reading.aside and TOO_LARGE)

    def _names_of(self, task_id: str) -> dict[str, str]:
        """Return what the placeholders of a task stand for.

        Raises:
            httpx.LocalProtocolError: the id lacks a part.
        """
        parts = self._id_form.parts(task_id)
        if parts is None:
            raise httpx.LocalProtocolError(f"the id is not of the form {self._id_form.form}")
        return {**parts, "task_id": task_id, "task_path": task_id}

    def _body_of(self, names: Mapping[str, str]) -> bytes:
        """Return the body of a query about a task; a GET has none."""
        template = self.definition.request.json_body
        return b"" if template is None else orjson.dumps(filled(template, names))


def _target(target: str) -> bytes:
    """Return path and query as they are sent.

    Raises:
        httpx.LocalProtocolError: they would lead somewhere else. No id can be registered for which they do.
    """
    if "/." in target and _DOTS.search(target.partition("?")[0]):
        raise httpx.LocalProtocolError("a part of the id is '.' or '..', which leads to another address")
    return target.encode("ascii")
