"""Every query about living messages, and about the turns that all processes take at one Slack.

A message is claimed as a watch or a delivery is: its due time is its lease. Two claim it, whoever edits progress and
whoever delivers the end, and the lease keeps them apart. Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import sqlalchemy as sa

from relay.model import DeliveryState, Millis
from relay.store.schema import LIVING, AnyRow, answers, deliveries, events, messages, targets, turns, watches

END = "end"
"""The key of the event that tells a watch's end."""

LONGEST_TOLD = 15_000
"""Milliseconds that somebody is told to wait at most; he then asks again, and may find that things went faster."""

STRAY = 250
"""Milliseconds by which somebody may come late to his turn before another may take it who comes after him by rank."""


class Rank(IntEnum):
    """Who goes first: what shows an end, the replies below the ends, everything else."""

    END = 0
    REPLY = 1
    REST = 2


@dataclass(frozen=True, slots=True)
class Lane:
    """What Slack lets through only so fast.

    Attributes:
        spacing: milliseconds from the start of one call to the next.
        ahead: milliseconds by which ends may run ahead of that.
        apart: milliseconds from the answer to a call to the next.
    """

    name: str
    spacing: Millis
    ahead: Millis = 0
    apart: Millis = 0


@dataclass(frozen=True, slots=True)
class Living:
    """A living message that is ours to post and edit until its lease runs out, with all that there is to show.

    Attributes:
        row: of `messages`.
        watch: the row of the watch it is about.
        address: of its target, sealed for `row.target_id`.
        answer: the upstream's last one.
        end: the event that tells the end, once there is one.
        telling: the delivery of that event to this place is under way still.
        undelivered: the hosts of webhooks that did not get that event and are not tried any more.
        crowd: how many messages live in this deployment.
    """

    row: AnyRow
    watch: AnyRow
    address: bytes
    answer: bytes | None
    end: bytes | None
    telling: bool
    undelivered: tuple[str, ...]
    crowd: int

    @property
    def id(self) -> str:
        """The id of its target."""
        return str(self.row.target_id)

    def invited(self, rank: Rank) -> bool:
        """Whether it was told to come back for this: for a reply it was not as long as the end was not shown."""
        return bool(self.row.invited and (rank is not Rank.REPLY or self.row.ended))


# Coming into being


def begin(tx: sa.Connection, made: Iterable[tuple[str, str, str]], now: Millis) -> None:
    """Makes a living message for each new (target id, watch id, place), unless the watch has one at that place."""
    wanted = {(watch_id, place): target_id for target_id, watch_id, place in reversed(list(made))}
    if not wanted:
        return
    c = messages.c
    query = sa.select(c.watch_id, c.place).where(c.watch_id.in_({watch_id for watch_id, _ in wanted}))
    present = {(row.watch_id, row.place) for row in tx.execute(query)}
    rows = [
        {
            "target_id": target_id,
            "watch_id": watch_id,
            "place": place,
            "ended": False,
            "bare": False,
            "invited": False,
            "failures": 0,
            "changed_at": now,
            "quiet_until": now,
            "edit_at": now,
        }
        for (watch_id, place), target_id in wanted.items()
        if (watch_id, place) not in present
    ]
    if rows:
        tx.execute(sa.insert(messages), rows)


def changed(
    tx: sa.Connection, watch_ids: Sequence[str], now: Millis, *, at_once: bool = False, said: str | None = None
) -> None:
    """These watches are not what their messages show: they come due as soon as they may be edited again, or at once.

    Args:
        said: who did what in Slack, to be shown from now on.
    """
    if not watch_ids:
        return
    c = messages.c
    free = sa.literal(now, sa.BigInteger) if at_once else sa.case((c.quiet_until > now, c.quiet_until), else_=now)
    values: dict[str, Any] = {"changed_at": now, "edit_at": sa.case((c.lease.is_(None), free), else_=c.edit_at)}
    if said is not None:
        values["said"] = said
    tx.execute(sa.update(messages).where(c.watch_id.in_(watch_ids)).values(values))


def ended(tx: sa.Connection, watch_ids: Sequence[str]) -> None:
    """These watches have ended: whose message waits for its turn queues up anew with the end, behind earlier ends."""
    tx.execute(sa.update(messages).where(messages.c.watch_id.in_(watch_ids)).values(invited=False))


# Claiming


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, most: int) -> list[Living]:
    """Takes up to `most` messages that are due, the longest overdue first."""
    c = messages.c
    due = sa.select(c.target_id).where(c.edit_at <= now).order_by(c.edit_at).limit(most)
    chosen = due.with_for_update(skip_locked=True).cte("due")
    change = sa.update(messages).where(c.target_id.in_(sa.select(chosen.c.target_id)))
    taken = list(tx.execute(change.values(edit_at=until, lease=lease).returning(c.target_id)).scalars())
    return _living(tx, taken)


def next_due(tx: sa.Connection) -> Millis | None:
    """When the next message comes due, or its claim runs out."""
    return tx.execute(sa.select(sa.func.min(messages.c.edit_at))).scalar()


def take(tx: sa.Connection, target_id: str, now: Millis, until: Millis, lease: str) -> Living | bool:
    """Takes the message that a target shows its end in.

    Returns:
        It; True if somebody else has it at this moment; False if the target has none.
    """
    query = _of_target(target_id)
    row = tx.execute(query.with_for_update(of=messages)).first()
    if row is None:
        return False
    if row.lease is not None and row.edit_at is not None and row.edit_at > now:
        return True
    change = sa.update(messages).where(messages.c.target_id == row.target_id)
    tx.execute(change.values(edit_at=until, lease=lease))
    (living,) = _living(tx, [row.target_id])
    return living


def lives(tx: sa.Connection, target_id: str) -> bool:
    """Whether a target's end is shown in a living message."""
    return tx.execute(_of_target(target_id)).first() is not None


def _of_target(target_id: str) -> sa.Select[Any]:
    """The message at the place that a target leads to."""
    c, t = messages.c, targets.c
    mine = sa.select(t.watch_id, t.place).where(t.id == target_id).subquery()
    there = sa.and_(c.watch_id == mine.c.watch_id, c.place == mine.c.place)
    return sa.select(c.target_id, c.edit_at, c.lease).join(mine, there)


def _living(tx: sa.Connection, ids: Sequence[str]) -> list[Living]:
    if not ids:
        return []
    m, d = messages.c, deliveries.c
    rows = {row.target_id: row for row in tx.execute(sa.select(messages).where(m.target_id.in_(ids)))}
    of = {row.watch_id for row in rows.values()}
    about = {row.id: row for row in tx.execute(sa.select(watches).where(watches.c.id.in_(of)))}
    addresses = dict(_pairs(tx, sa.select(targets.c.id, targets.c.address).where(targets.c.id.in_(ids))))
    said = dict(_pairs(tx, sa.select(answers.c.watch_id, answers.c.body).where(answers.c.watch_id.in_(of))))
    query = sa.select(events.c.watch_id, events.c.body).where(events.c.watch_id.in_(of), events.c.key == END)
    ends = dict(_pairs(tx, query))
    query = (
        sa.select(d.watch_id, d.place, d.state, d.host, targets.c.type)
        .join(targets, targets.c.id == d.target_id)
        .where(d.watch_id.in_(of), d.event_key == END)
        .order_by(d.id)
    )
    told = list(tx.execute(query))
    crowd = tx.execute(sa.select(sa.func.count()).select_from(messages).where(sa.text(LIVING))).scalar_one()
    open_ = (DeliveryState.PENDING, DeliveryState.HELD)
    return [
        Living(
            row,
            about[row.watch_id],
            addresses[target_id],
            said.get(row.watch_id),
            ends.get(row.watch_id),
            any((one.watch_id, one.place) == (row.watch_id, row.place) and one.state in open_ for one in told),
            tuple(
                one.host
                for one in told
                if (one.watch_id, one.type, one.state) == (row.watch_id, "webhook", DeliveryState.DEAD)
            ),
            crowd,
        )
        for target_id, row in rows.items()
    ]


def _pairs(tx: sa.Connection, query: sa.Select[str, bytes]) -> list[tuple[str, bytes]]:
    return [(key, bytes(value)) for key, value in tx.execute(query)]


# Saving


def posting(tx: sa.Connection, living: Living, lane: Lane, rank: Rank, now: Millis) -> Millis | None:
    """Takes a turn to post, and notes first that something may be posted from now on.

    Returns:
        As `turn`; None if the message is not ours any more.
    """
    c = messages.c
    mine = sa.and_(c.target_id == living.id, c.lease == living.row.lease)
    if tx.execute(sa.select(c.target_id).where(mine).with_for_update()).first() is None:
        return None
    if wait := turn(tx, lane, rank, now, invited=living.invited(rank)):
        return wait
    tx.execute(sa.update(messages).where(mine).values(posting_at=sa.func.coalesce(c.posting_at, now)))
    return 0


def save(
    tx: sa.Connection, living: Living, values: dict[str, Any], quiet_until: Millis, edit_at: Millis | None
) -> bool:
    """Writes what became of a message, and gives it back; nothing if somebody else has claimed it meanwhile.

    Args:
        edit_at: when it is due again if nothing changes; what has changed since the claim is due when `quiet_until`.

    Returns:
        Whether it was still ours.
    """
    c = messages.c
    due = sa.case((c.changed_at > living.row.changed_at, quiet_until), else_=sa.literal(edit_at, sa.BigInteger))
    change = sa.update(messages).where(c.target_id == living.id, c.lease == living.row.lease)
    changes = {**values, "quiet_until": quiet_until, "edit_at": due, "lease": None}
    return tx.execute(change.values(changes)).rowcount == 1


# Turns


def turn(tx: sa.Connection, lane: Lane, rank: Rank, now: Millis, *, invited: bool) -> Millis:
    """Takes the turn for a call that is made now: 0 if it may be made; else the milliseconds after which to ask again.

    Who waits keeps those away that come after him by rank. Those of one rank are told times one after the other.

    Args:
        invited: this caller was told to come now; others queue up behind those who were.
    """
    c = turns.c
    row = tx.execute(sa.select(turns).where(c.lane == lane.name).with_for_update()).first()
    if row is None:
        tx.execute(sa.insert(turns).values(lane=lane.name, next_at=0, ends_until=0, replies_until=0, rest_until=0))
    told = (row.ends_until, row.replies_until, row.rest_until) if row else (0, 0, 0)
    next_at = row.next_at if row else 0
    mine = sa.update(turns).where(c.lane == lane.name)
    ahead = lane.ahead if rank is Rank.END else 0
    earliest = max([next_at - ahead, *(until + STRAY for until in told[: rank + (not invited)])])
    if earliest <= now:
        tx.execute(mine.values(next_at=max(next_at, now) + lane.spacing))
        return 0
    a_little_early = invited and earliest - now < lane.spacing
    until = earliest if a_little_early else max(told[rank] + lane.spacing, earliest)
    until = min(until, now + LONGEST_TOLD)
    name = ("ends_until", "replies_until", "rest_until")[rank]
    tx.execute(mine.values({name: max(until, told[rank])}))
    return int(until - now)


def pause(tx: sa.Connection, lane: Lane, until: Millis) -> None:
    """There is to be no call of this lane before then."""
    c = turns.c
    change = sa.update(turns).where(c.lane == lane.name, c.next_at < until).values(next_at=until)
    tx.execute(change)


def learn(tx: sa.Connection, lane: Lane, channel: str) -> None:
    """Notes Slack's id of the channel that a lane leads to."""
    c = turns.c
    other = sa.or_(c.channel.is_(None), c.channel != channel)
    tx.execute(sa.update(turns).where(c.lane == lane.name, other).values(channel=channel))


def channel_of(tx: sa.Connection, lane: Lane) -> str | None:
    """Slack's id of the channel that a lane leads to, if a post has told it."""
    return tx.execute(sa.select(turns.c.channel).where(turns.c.lane == lane.name)).scalar()
