"""What became of create calls, written down in one transaction with the watches of what they have created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from relay.errors import RelayError
from relay.model.submission import SubmissionState
from relay.model.times import Millis
from relay.store import hot, registrations
from relay.store.registrations import Registered, Registration
from relay.store.shared_schema import submissions
from relay.store.submissions import alarm
from relay.store.usage import Quota

_UNLIMITED = Quota(2**62, 2**62)
"""What was judged before the call is not judged again: the task is there, and has to be paid for."""


@dataclass(frozen=True, slots=True)
class AnsweredSubmission:
    """What became of a create call.

    Attributes:
        registration: of the watch; None where nothing can be watched.
        answer: sealed; None where no one can ask for it again.
        key_until: when the key is free again; None while it stays taken.
    """

    id: str
    state: SubmissionState
    status: int | None
    task_id: str | None
    registration: Registration | None
    answer: bytes | None
    key_until: Millis | None


_ANSWERED = hot.Update(
    submissions,
    ("id",),
    ("state", "status", "task_id", "watch_id", "answered_at", "answer", "key_until"),
    ("process",),
)


def finish(
    tx: sa.Connection, answered: Sequence[AnsweredSubmission], now: Millis
) -> list[Registered | RelayError | None]:
    """Write down what became of create calls, with the watches of what they have created.

    Returns:
        For each its watch; why there is none where that is refused; None where there is nothing to watch.
    """
    wanted = [(number, one.registration) for number, one in enumerate(answered) if one.registration is not None]
    outcomes: list[Registered | RelayError | None] = [None] * len(answered)
    if wanted:
        registered = registrations.register(tx, [registration for _, registration in wanted], now, _UNLIMITED)
        for (number, registration), outcome in zip(wanted, registered, strict=True):
            # The watch was there, and has too many targets for more. Its id is not lost for that.
            if isinstance(outcome, RelayError):
                (outcome,) = registrations.register(tx, [replace(registration, targets=())], now, _UNLIMITED)
            outcomes[number] = outcome
    _ANSWERED.run(
        tx,
        [
            {
                "id": one.id,
                "state": one.state,
                "status": one.status,
                "task_id": one.task_id,
                "watch_id": outcome.watch.row.id if isinstance(outcome, Registered) else None,
                "answered_at": now,
                "answer": one.answer,
                "key_until": one.key_until,
            }
            for one, outcome in zip(answered, outcomes, strict=True)
        ],
    )
    if unknown := [one.id for one in answered if one.state is SubmissionState.UNKNOWN]:
        alarm(tx, unknown, now)
    if free := [one.id for one in answered if one.state is SubmissionState.REFUSED]:
        tx.execute(sa.update(submissions).where(submissions.c.id.in_(free)).values(key_digest=None))
    return outcomes
