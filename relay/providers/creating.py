"""A create call: sent once, on a fresh connection, and never again, whatever becomes of it.

Three things can be said of it. It was `created`; or it was `refused`, and nothing was taken; or it is `unknown`, which
is everything in between: the upstream may have begun a task that has to be paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import orjson

from relay.model.reading import Reading
from relay.model.submission import SubmissionState
from relay.model.times import Millis
from relay.outbound.codings import READABLE
from relay.outbound.descriptors import NoRoom
from relay.outbound.prepared import DecodedResponse, PreparedRequest
from relay.outbound.transport import failure_class
from relay.providers.definition import MAX_ANSWER
from relay.providers.document import Answer, document_of
from relay.providers.passing import Header, headers_back
from relay.providers.submit import Submit, path_of
from relay.security.redaction import encoded_forms, redact

if TYPE_CHECKING:
    from relay.providers.provider import Provider

CONNECT = 15.0
"""Seconds until there is a connection: without one nothing is sent, and the caller may try again."""


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A create call as it goes out.

    Attributes:
        target: path and query behind the provider's address, as they came.
        headers: those of the caller that pass.
        key: the caller's own key; None where the deployment's is sent: it stands in the headers, or what is made of it
            is added when the call is sent.
        names: what the names of the declared path stand for.
        spends: it goes with the deployment's credentials, which not every app may spend.
    """

    submit: Submit
    target: bytes
    headers: Sequence[Header] = field(repr=False)
    body: bytes = field(repr=False)
    key: str | None = field(repr=False)
    names: Mapping[str, str]
    spends: bool = False


@dataclass(frozen=True, slots=True)
class CreateAnswer:
    """An upstream's answer to a create, as it goes back to the caller."""

    status: int
    headers: Sequence[Header]
    body: bytes

    def packed(self) -> bytes:
        """Return it as it is sealed: a line about it, and its body."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers]
        return orjson.dumps({"status": self.status, "headers": headers}) + b"\n" + self.body

    @classmethod
    def unpacked(cls, packed: bytes) -> CreateAnswer:
        """Return an answer that was packed."""
        line, _, body = packed.partition(b"\n")
        head = orjson.loads(line)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
        return cls(head["status"], headers, body)


@dataclass(frozen=True, slots=True)
class CreateOutcome:
    """What became of a create call.

    Attributes:
        answer: what goes back to the caller; None where nothing came that could.
        task_id: of what was created; it may be no id that can be watched.
        why: where there is no answer, the reason in words.
        crowded: nothing was sent, because relay itself had no connection to spare.
        redirected: the upstream answered with a redirect, which is not followed.
        timed_out: the time was over before an answer came.
    """

    state: SubmissionState
    answer: CreateAnswer | None = None
    task_id: str | None = None
    why: str = ""
    status: int | None = None
    crowded: bool = False
    redirected: bool = False
    timed_out: bool = False


class Sending:
    """One create call, built and checked, to be sent once.

    Raises:
        httpx.TransportError: it can never be sent.
    """

    def __init__(self, provider: Provider, create: CreateRequest) -> None:
        self._provider = provider
        self._create = create
        self._sent = False
        self._limit: asyncio.Timeout
        # The deployment's key is nobody else's to see. Who brought one knows it.
        self._secret_forms = encoded_forms([provider.key] if provider.key and create.key is None else [])
        request = httpx.Request(
            create.submit.method,
            provider.base_url,
            headers=[*create.headers, (b"Accept-Encoding", READABLE.encode())],
            stream=httpx.ByteStream(b""),
            extensions={
                "timeout": CONNECT + create.submit.timeout,
                "max_bytes": MAX_ANSWER,
                "reuse": False,
                "sending": self._begin,
            },
        )
        self._prepared: PreparedRequest = provider.creates.prepare(request)
        self._prepared.message(create.target)

    def _begin(self) -> None:
        """Note that the request goes out: from now on, what is not known is unknown."""
        self._sent = True
        self._limit.reschedule(asyncio.get_running_loop().time() + self._create.submit.timeout)

    async def send(self, now: Millis) -> CreateOutcome:
        """Send it and read what comes back. What goes wrong is an outcome too.

        Args:
            now: what is made of the deployment's key has to be valid then.
        """
        create = self._create
        headers: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(CONNECT) as self._limit:
                credential = None if create.key else await self._provider.credential(now)
                if isinstance(credential, Reading):
                    why = credential.error["message"] if credential.error else "nothing can be made of the API key"
                    return self._failed(why)
                if credential is not None:
                    self._secret_forms = credential.secret_forms
                    headers = credential.headers(self._prepared, create.target, create.body, now)
                response = await self._provider.creates.exchange(self._prepared, create.target, create.body, headers)
                if credential is not None:
                    self._provider.heard(credential, response.status, now)
        except NoRoom as error:
            return self._failed(str(error), crowded=True)
        except TimeoutError:
            return self._failed(f"no answer from {self._provider.host} in time", timed_out=True)
        except httpx.HTTPError as error:
            return self._failed(f"no answer from {self._provider.host}: {str(error) or failure_class(error)}")
        return self._outcome(response)

    def interrupted(self) -> CreateOutcome:
        """Return the outcome of a call that relay gives up, because its process ends."""
        return self._failed("relay had to stop before the upstream answered", timed_out=True)

    def _failed(self, why: str, *, crowded: bool = False, timed_out: bool = False) -> CreateOutcome:
        if self._sent:
            return CreateOutcome(SubmissionState.UNKNOWN, why=why, timed_out=timed_out)
        return CreateOutcome(SubmissionState.REFUSED, why=why, crowded=crowded)

    def _outcome(self, response: DecodedResponse) -> CreateOutcome:
        status = response.status
        unknown = SubmissionState.UNKNOWN
        if response.truncated or status >= 600:
            why = "the answer is larger than relay reads" if response.truncated else f"there is no HTTP status {status}"
            return CreateOutcome(unknown, why=f"{self._provider.host} answered {status}, but {why}", status=status)
        if 300 <= status < 400:
            why = f"{self._provider.host} answered {status}, a redirect, which relay does not follow"
            return CreateOutcome(unknown, why=why, status=status, redirected=True)
        answer = self._passed_on(response)
        if 200 <= status < 300:
            return self._success(response, answer)
        known = (400 <= status < 500 and status not in (408, 409)) or status in self._create.submit.refused_http
        return CreateOutcome(SubmissionState.REFUSED if known else unknown, answer, status=status)

    def _success(self, response: DecodedResponse, answer: CreateAnswer) -> CreateOutcome:
        headers = {
            name.lower().decode("latin-1"): redact(value, self._secret_forms).decode("latin-1")
            for name, value in response.headers
        }
        body = redact(response.body, self._secret_forms)
        read = Answer(response.status, headers, body, unread=response.unread, secrets=self._secret_forms)
        document = document_of(read)
        value = document.value if document else None
        task_id = self._create.submit.task_id.first(read, value, self._create.names)
        if task_id is not None:
            if path_of(task_id):
                task_id = self._provider.query_address.task_of(task_id) or task_id
            return CreateOutcome(SubmissionState.CREATED, answer, task_id, status=response.status)
        refused = self._provider.gives_reason(read)
        return CreateOutcome(
            SubmissionState.REFUSED if refused else SubmissionState.UNKNOWN, answer, status=response.status
        )

    def _passed_on(self, response: DecodedResponse) -> CreateAnswer:
        headers = [(name, redact(value, self._secret_forms)) for name, value in headers_back(response.headers)]
        if response.unread:
            headers.append((b"content-encoding", response.unread.encode("latin-1", "replace")))
        return CreateAnswer(response.status, headers, redact(response.body, self._secret_forms))
