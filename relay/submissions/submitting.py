"""Submit and watch: a create call that passes through relay, and the watch of what it has created.

The order of the steps is the promise. A row is committed before the call. The call is sent once. What became of it and
the watch are committed in one transaction, and only then does the caller get the answer. Whatever dies in between, the
row says that somebody has to look: an upstream bills for a task whether anybody knows its id or not.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import structlog

from relay.actions import Actions
from relay.errors import (
    AnswerErased,
    Conflict,
    IdempotencyInProgress,
    IdempotencyMismatch,
    Invalid,
    Overloaded,
    RelayError,
    StoreUnavailable,
    SubmissionUnknown,
    TooManyRequests,
)
from relay.model.submission import SubmissionState
from relay.model.task_ids import checked
from relay.model.times import Millis
from relay.providers.creating import CreateAnswer, CreateOutcome, Sending
from relay.store import answered_submissions, submissions
from relay.store.answered_submissions import AnsweredSubmission
from relay.store.batches import Batcher
from relay.store.registrations import Registered, Registration
from relay.store.submissions import KeyHolder, NewSubmission
from relay.store.usage import Quota
from relay.submissions.calls import COME_AGAIN, CreateCall, RequestKey, Submitted, error_of
from relay.telemetry import metrics

log = structlog.stdlib.get_logger(__name__)

COMMIT_PATIENCE = 10.0
"""Seconds for which an answer waits for its commit. Then it goes back without a watch, so that its id is not lost."""

LAST_WORDS = 2.0
"""Seconds before the end of the grace time at which relay gives up waiting for answers, and says so."""

LARGE = 1024 * 1024
"""Bytes from which an answer is sealed in a thread."""


@dataclass(slots=True)
class Submissions:
    """The create calls of one process.

    Args:
        actions: registers the watches.
        process: the name of this process, by which others learn that it is gone.
        clock: milliseconds since the epoch.
    """

    actions: Actions
    process: str
    clock: Callable[[], Millis]
    _begun: Batcher[NewSubmission, KeyHolder | RelayError | None] = field(init=False)
    _finished: Batcher[AnsweredSubmission, Registered | RelayError | None] = field(init=False)
    _under_way: set[asyncio.Task[Any]] = field(init=False, default_factory=set)
    _over: asyncio.Future[None] | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)
    _stop_by: float = field(init=False, default=math.inf)

    def __post_init__(self) -> None:
        # Calls that come, and answers that come, within a millisecond share a commit.
        self._begun = Batcher(self._commit_new, gather=0.001, most=200)
        self._finished = Batcher(self._commit_answered, gather=0.001, most=200)

    # What was sent before

    async def earlier(self, app_id: str, key: RequestKey) -> Submitted | None:
        """Return the answer to the first request with a key; None where this is the first.

        Raises:
            RelayError: it was another request, or it has no answer.
        """
        holder = await self.actions.db.read(submissions.find, app_id, key.key, self.clock())
        return None if holder is None else await self._again(holder, key)

    async def _again(self, holder: KeyHolder, key: RequestKey) -> Submitted:
        if holder.request_digest != key.request:
            raise IdempotencyMismatch("this Idempotency-Key came with another request: use a new one")
        if holder.state is SubmissionState.SENDING:
            raise IdempotencyInProgress(retry_after=COME_AGAIN)
        if holder.state is SubmissionState.UNKNOWN:
            where = f"GET /v1/submissions/{holder.id}"
            raise SubmissionUnknown(f"nobody knows whether the upstream took it, so it is not sent again: see {where}")
        if holder.answer is None:
            raise AnswerErased()
        opened = await _heavy(self.actions.vault.open, holder.answer, holder.id)
        return Submitted(
            CreateAnswer.unpacked(opened),
            watch_id=holder.watch_id,
            replayed=True,
            registered=holder.watch_id is not None,
        )

    # Sending

    async def submit(self, app_id: str, call: CreateCall) -> Submitted:
        """Send a create call once, and watch what it creates. A caller that leaves changes nothing.

        Raises:
            RelayError: why nothing was sent.
        """
        if self._closed:
            raise Overloaded("this process is about to end: nothing was sent", retry_after=COME_AGAIN)
        await self._judge(app_id, call)
        return await asyncio.shield(self._track(self._submit(app_id, call)))

    async def _judge(self, app_id: str, call: CreateCall) -> None:
        """Refuse what would have to be refused after the call.

        Raises:
            RelayError: why it is refused.
        """
        try:
            self.actions.expires_in(call.watch, call.provider)
        except Invalid as error:
            raise Invalid.at("/Relay-Expires-In", error.errors[0].detail) from None
        for target, origin in zip(call.watch.targets, call.origins, strict=True):
            try:
                await self.actions.targets.check(target, "", app_id)
            except Invalid as error:
                detail = error.errors[0].detail if error.errors else error.detail
                raise Invalid.at(f"/{origin}", detail) from None

    async def _submit(self, app_id: str, call: CreateCall) -> Submitted:
        upstreams = self.actions.upstreams
        try:
            sending = Sending(call.provider, call.request)
        except httpx.TransportError as error:
            raise Invalid(f"the call cannot be sent: {error}") from None
        own_key = call.request.key
        if wait := await upstreams.enter_create(call.provider, own_key, app_id):
            raise TooManyRequests(f"{call.provider.host} has as many creates under way as it may", retry_after=wait)
        submission_id = submissions.id_beside(call.watch_id)
        try:
            holder = await self._begin(submission_id, app_id, call)
        except BaseException:
            upstreams.leave_create(call.provider, own_key, app_id)
            raise
        if holder is not None:
            upstreams.leave_create(call.provider, own_key, app_id)
            if call.key is None:
                raise Conflict("another submission has this id")
            return await self._again(holder, call.key)
        outcome = await self._sent(app_id, call, sending)
        return await self._settled(submission_id, app_id, call, outcome)

    async def _begin(self, submission_id: str, app_id: str, call: CreateCall) -> KeyHolder | None:
        """Write the call down before it is sent. Return who has taken its key, if somebody has.

        Raises:
            RelayError: there is no room for its watch, or the database does not answer.
        """
        new = NewSubmission(
            id=submission_id,
            app_id=app_id,
            provider=call.provider.name,
            method=call.request.submit.method,
            path=call.path,
            process=self.process,
            key_digest=call.key.key if call.key else None,
            request_digest=call.key.request if call.key else None,
            targets=len(call.watch.targets),
            alone=call.request.spends and not self.actions.settings.submit_apps,
        )
        try:
            holder = await self._begun.put(new)
        except StoreUnavailable:
            # It may have been written down all the same. Nothing is sent, so nothing may be left of it.
            self._track(self.actions.db.persist(submissions.forget, submission_id))
            raise
        if isinstance(holder, RelayError):
            raise holder
        return holder

    async def _sent(self, app_id: str, call: CreateCall, sending: Sending) -> CreateOutcome:
        """Send the call, until it is answered or this process has to end."""
        over = self._over = self._over or asyncio.get_running_loop().create_future()
        create = self.actions.upstreams.create(call.provider, sending, call.request.key, app_id)
        task = asyncio.ensure_future(create)
        await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            return sending.interrupted()
        if (error := task.exception()) is not None:
            log.error("create call broke", provider=call.provider.name, exc_info=error)
            return sending.interrupted()
        return task.result()

    # What became of it

    async def _settled(self, submission_id: str, app_id: str, call: CreateCall, outcome: CreateOutcome) -> Submitted:
        """Write down what became of a call, and return what goes back to the caller."""
        metrics.SUBMISSIONS.labels(call.provider.name, outcome.state.value).inc()
        if outcome.state is SubmissionState.UNKNOWN:
            log.warning("submission unknown", submission=submission_id, provider=call.provider.name, why=outcome.why)
        answered = await self._answered(submission_id, app_id, call, outcome)
        writing = self._track(self._write(answered))
        await asyncio.wait({writing}, timeout=COMMIT_PATIENCE)
        registered = writing.result() if writing.done() else None
        created = outcome.state is SubmissionState.CREATED
        watch_id = registered.watch.row.id if isinstance(registered, Registered) else None
        return Submitted(
            answer=outcome.answer,
            error=error_of(outcome),
            watch_id=watch_id,
            registered=not created or watch_id is not None,
            unknown=outcome.state is SubmissionState.UNKNOWN,
        )

    async def _answered(
        self, submission_id: str, app_id: str, call: CreateCall, outcome: CreateOutcome
    ) -> AnsweredSubmission:
        created = outcome.state is SubmissionState.CREATED
        sealed = None
        if created and call.key is not None and outcome.answer is not None:
            sealed = await _heavy(self.actions.vault.seal, outcome.answer.packed(), submission_id)
        registration = None
        task_id = _usable(outcome.task_id)
        if created and task_id is not None:
            registration = await self._registration(app_id, call, task_id)
        return AnsweredSubmission(
            id=submission_id,
            state=outcome.state,
            status=outcome.status,
            task_id=task_id,
            registration=registration,
            answer=sealed,
            key_until=self.clock() + round(self.actions.settings.idempotency_ttl * 1000) if created else None,
        )

    async def _registration(self, app_id: str, call: CreateCall, task_id: str) -> Registration | None:
        """Return the watch of what was created; None if the task cannot be asked about, so that its id goes back alone.

        An upstream may answer with an address that is not within the hosts of its file.
        """
        watch = replace(call.watch, task_id=task_id, upstream_key=call.request.key)
        try:
            await self.actions.check_provider(app_id, watch)
            registration = self.actions.registration(app_id, watch, call.traceparent)
        except RelayError as error:
            log.warning(
                "created task cannot be watched", provider=call.provider.name, task_id=task_id, why=error.detail
            )
            return None
        return replace(registration, watch_id=call.watch_id)

    async def _write(self, answered: AnsweredSubmission) -> Registered | RelayError | None:
        """Write down what became of a call, for as long as that takes."""
        pause = 0.1
        while True:
            try:
                return await self._finished.put(answered)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
            except Exception:
                log.exception("submission not written down", submission=answered.id)
                return None

    async def _commit_new(self, new: Sequence[NewSubmission]) -> Sequence[KeyHolder | RelayError | None]:
        settings = self.actions.settings
        quota = Quota(settings.max_watches, settings.max_targets)
        return await self.actions.db.run(submissions.begin, new, self.clock(), quota)

    async def _commit_answered(
        self, answered: Sequence[AnsweredSubmission]
    ) -> Sequence[Registered | RelayError | None]:
        now = self.clock()
        outcomes = await self.actions.db.run(answered_submissions.finish, answered, now)
        new = [one.registration for one in answered if one.registration is not None]
        if new:
            self.actions.registered(new, [outcome for outcome in outcomes if outcome is not None], now)
        return outcomes

    # The end of the process

    def halt(self, stop_by: float) -> None:
        """Send nothing more. What is not answered shortly before a time of the loop stays unknown.

        Args:
            stop_by: when the process ends.
        """
        self._closed = True
        self._stop_by = stop_by
        loop = asyncio.get_running_loop()
        self._over = self._over or loop.create_future()
        last = min(LAST_WORDS, max(0.0, stop_by - loop.time()) / 2)
        loop.call_at(stop_by - last, self._give_up)

    def _give_up(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def drain(self) -> None:
        """Wait until every call under way is answered or given up, and that is written down, or the time is over."""
        loop = asyncio.get_running_loop()
        while self._under_way and loop.time() < self._stop_by:
            await asyncio.wait(self._under_way, timeout=self._stop_by - loop.time())
        for task in self._under_way:  # the database is away: others learn from the row that this process is gone
            task.cancel()

    def _track(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; a caller that has left does not


async def _heavy(work: Callable[[bytes, str], bytes], value: bytes, owner: str) -> bytes:
    """Seal or open a value: in a thread where it is large, so that others do not wait for it."""
    return await asyncio.to_thread(work, value, owner) if len(value) > LARGE else work(value, owner)


def _usable(task_id: str | None) -> str | None:
    """Return an id as it can be watched; None if it cannot."""
    try:
        return None if task_id is None else checked(task_id)
    except ValueError:
        return None
