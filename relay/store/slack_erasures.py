"""Every query about the Slack messages of erased watches: they are still to be edited to say no more than that.

A row has no content, only where a message stands, and is gone when the message is edited. It is claimed like any other
due row. Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store.due import ANY_APP, due_of_any_app, next_of_any_app
from relay.store.schema import erased_messages


@dataclass(frozen=True, slots=True)
class ErasedMessage:
    """A claimed message. This process may edit it while the lease holds.

    Attributes:
        channel, ts: Slack's ids of the channel and of the message.
        failures: failed edits in a row.
        invited: it has a turn, and comes back for it.
    """

    channel: str
    ts: str
    lease: str
    failures: int
    invited: bool
    app_id: str = ANY_APP

    @property
    def id(self) -> str:
        """Return what names it in the log."""
        return f"{self.channel}/{self.ts}"


def note(tx: sa.Connection, posts: Iterable[tuple[str, str]], now: Millis) -> None:
    """Have messages edited, or edited once more; each is named by Slack's ids of channel and message."""
    c = erased_messages.c
    fresh = {"failures": 0, "invited": False, "edit_at": now, "lease": None}
    for channel, ts in sorted(set(posts)):
        change = sa.update(erased_messages).where(c.channel == channel, c.ts == ts)
        if not tx.execute(change.values(fresh)).rowcount:
            tx.execute(sa.insert(erased_messages).values(channel=channel, ts=ts, **fresh))


def due(tx: sa.Connection, now: Millis, most: int) -> dict[str, int]:
    """Return how many messages are due, counted up to `most`. Of which app they were, no one knows any more."""
    return due_of_any_app(tx, erased_messages.c.edit_at, now, most)


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, shares: Mapping[str, int]) -> list[ErasedMessage]:
    """Claim messages that are due, the longest overdue first."""
    c = erased_messages.c
    first = sa.select(c.channel, c.ts).where(c.edit_at <= now).order_by(c.edit_at).limit(sum(shares.values()))
    claimed = []
    for channel, ts in tx.execute(first.with_for_update(skip_locked=True)).all():
        change = sa.update(erased_messages).where(c.channel == channel, c.ts == ts).values(edit_at=until, lease=lease)
        row = tx.execute(change.returning(c.channel, c.ts, c.lease, c.failures, c.invited)).one()
        claimed.append(ErasedMessage(*row))
    return claimed


def next_due(tx: sa.Connection, without: Collection[str] = ()) -> Millis | None:
    """Return when the next message comes due, or its claim runs out; None while there is no room for any."""
    return next_of_any_app(tx, erased_messages.c.edit_at, without)


def settle(tx: sa.Connection, claimed: ErasedMessage) -> None:
    """Forget a message, if the claim still holds."""
    tx.execute(sa.delete(erased_messages).where(_mine(claimed)))


def put_off(tx: sa.Connection, claimed: ErasedMessage, failures: int, invited: bool, edit_at: Millis) -> None:
    """Give a message back until it is due again, if the claim still holds."""
    values = {"failures": failures, "invited": invited, "edit_at": edit_at, "lease": None}
    tx.execute(sa.update(erased_messages).where(_mine(claimed)).values(values))


def _mine(claimed: ErasedMessage) -> sa.ColumnElement[bool]:
    c = erased_messages.c
    return sa.and_(c.channel == claimed.channel, c.ts == claimed.ts, c.lease == claimed.lease)
