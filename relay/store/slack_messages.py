"""Every query about living messages.

A message is claimed like a watch or a delivery: its due time is its lease. Both the editor and the delivery of the end
claim it, and the lease keeps them apart. Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.store import hot, slack_erasures
from relay.store.due import due_of_any_app, next_of_any_app
from relay.store.schema import LIVING, AnyRow, answers, apps, attempts, deliveries, events, messages, targets, watches
from relay.store.slack_turns import Rank, TurnQueue, turn

OPEN = (DeliveryState.PENDING, DeliveryState.HELD)
"""The states of a delivery that is still under way."""

END = "end"
"""The key of the event of a watch's end."""

REST: Millis = 3_600_000
"""Milliseconds for which the messages of a disabled app are put off, again and again."""

MAX_CROWD = 10_000
"""Living messages that are counted: among so many, each is edited once in some hours."""


@dataclass(frozen=True, slots=True)
class Living:
    """A claimed living message, with everything that it shows. This process may post and edit it while the lease holds.

    Attributes:
        row: of `messages`.
        watch: the row of its watch.
        address: of its target, sealed for `row.target_id`.
        answer: the upstream's last answer.
        end: the event of the end, once there is one.
        telling: whether the delivery of that event to this place is still under way.
        undelivered: the hosts of targets without such a message that did not get that event and are not tried any more.
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
        """Return the id of its target."""
        return str(self.row.target_id)

    @property
    def app_id(self) -> str:
        """Return the id of the app whose watch it shows."""
        return str(self.watch.app_id)

    @property
    def lease(self) -> str:
        """Return the lease that the claim wrote."""
        return str(self.row.lease)

    def invited(self, rank: Rank) -> bool:
        """Return whether it has a turn for this already. For a reply it has none before it shows the end."""
        return bool(self.row.invited and (rank is not Rank.REPLY or self.row.ended))


# Coming into being


def begin(tx: sa.Connection, made: Iterable[tuple[str, str, str]], now: Millis) -> None:
    """Add a living message for each new (target id, watch id, place), unless the watch has one at that place."""
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


_now = sa.bindparam("now", type_=sa.BigInteger())
_at_once = sa.bindparam("at_once", type_=sa.Boolean())
_due = sa.case((sa.and_(~_at_once, messages.c.quiet_until > _now), messages.c.quiet_until), else_=_now)
_edit_at = sa.case((messages.c.lease.is_(None), _due), else_=messages.c.edit_at)
_said = sa.func.coalesce(sa.bindparam("new_said", type_=sa.Text()), messages.c.said)
_of_watches = sa.update(messages).where(hot.among(messages.c.watch_id, "watches"))
_changed = hot.Statement(_of_watches.values(changed_at=_now, edit_at=_edit_at, said=_said))
_ended = hot.Statement(_of_watches.values(invited=sa.false()))


def changed(
    tx: sa.Connection, watch_ids: Sequence[str], now: Millis, *, at_once: bool = False, said: str | None = None
) -> None:
    """Note that watches changed: their messages come due as soon as they may be edited again, or at once.

    Args:
        said: who did what in Slack; the messages show it from now on.
    """
    if watch_ids:
        _changed.run(tx, {"watches": [*watch_ids], "now": now, "at_once": at_once, "new_said": said})


def settled(tx: sa.Connection, deliveries_to: Collection[tuple[str, str]], now: Millis) -> None:
    """Note that deliveries are dead, or succeeded after a retry: the living messages of their watches show it.

    A message does not show the deliveries to its own place: to make one of them is to edit the message.

    Args:
        deliveries_to: the (watch id, place) of each delivery.
    """
    c = messages.c
    watch_ids = {watch_id for watch_id, _ in deliveries_to}
    query = sa.select(c.watch_id, c.place).where(c.watch_id.in_(watch_ids))
    living = {(row.watch_id, row.place) for row in tx.execute(query)}
    changed(tx, sorted({watch_id for watch_id, _ in set(deliveries_to) - living}), now)


def places_of(watch_id: str) -> sa.Select[str]:
    """Return the query of the places at which a watch has a living message."""
    return sa.select(messages.c.place).where(messages.c.watch_id == watch_id)


def ended(tx: sa.Connection, watch_ids: Sequence[str]) -> None:
    """Note that watches have ended: a message that waits for its turn queues again, behind the ends before it."""
    _ended.run(tx, {"watches": [*watch_ids]})


# Claiming


def due(tx: sa.Connection, now: Millis, most: int) -> dict[str, int]:
    """Return how many messages are due, counted up to `most`. Slack's own limits share them out, not an app's part."""
    return due_of_any_app(tx, messages.c.edit_at, now, most)


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, shares: Mapping[str, int]) -> list[Living]:
    """Claim messages that are due, the longest overdue first. Those of disabled apps are put off."""
    c = messages.c
    first = sa.select(c.target_id).where(c.edit_at <= now).order_by(c.edit_at).limit(sum(shares.values()))
    chosen = first.with_for_update(skip_locked=True).cte("chosen")
    change = sa.update(messages).where(c.target_id.in_(sa.select(chosen.c.target_id)))
    taken = list(tx.execute(change.values(edit_at=until, lease=lease).returning(c.target_id)).scalars())
    resting = _of_disabled_apps(tx, taken)
    if resting:
        later = sa.update(messages).where(c.target_id.in_(resting))
        tx.execute(later.values(edit_at=now + REST, lease=None))
    return _living(tx, [target_id for target_id in taken if target_id not in resting])


def _of_disabled_apps(tx: sa.Connection, target_ids: Sequence[str]) -> set[str]:
    """Return which of these messages belong to apps that are disabled."""
    query = sa.select(messages.c.target_id).join(watches, watches.c.id == messages.c.watch_id)
    query = query.join(apps, sa.and_(apps.c.id == watches.c.app_id, apps.c.disabled_at.is_not(None)))
    return set(tx.execute(query.where(messages.c.target_id.in_(target_ids))).scalars())


def next_due(tx: sa.Connection, without: Collection[str] = ()) -> Millis | None:
    """Return when the next message comes due, or its claim runs out; None while there is no room for any."""
    return next_of_any_app(tx, messages.c.edit_at, without)


def take(tx: sa.Connection, target_id: str, now: Millis, until: Millis, lease: str) -> Living | bool:
    """Claim the message in which a target shows its end.

    Returns:
        The message; True if it is claimed already; False if the target has none.
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
    """Return whether a target shows its end in a living message."""
    return tx.execute(_of_target(target_id)).first() is not None


def _of_target(target_id: str) -> sa.Select[Any]:
    """Return the query of the message at the place that a target leads to."""
    c = messages.c
    t = targets.c
    target = sa.select(t.watch_id, t.place).where(t.id == target_id).subquery()
    same_place = sa.and_(c.watch_id == target.c.watch_id, c.place == target.c.place)
    return sa.select(c.target_id, c.edit_at, c.lease).join(target, same_place)


def _living(tx: sa.Connection, ids: Sequence[str]) -> list[Living]:
    """Read claimed messages with everything that they show."""
    if not ids:
        return []
    m = messages.c
    # The message that has waited longest takes its turn first. Without an order, PostgreSQL would prefer some for good.
    rows = list(tx.execute(sa.select(messages).where(m.target_id.in_(ids)).order_by(m.quiet_until, m.target_id)))
    watch_ids = {row.watch_id for row in rows}
    watch_of = {row.id: row for row in tx.execute(sa.select(watches).where(watches.c.id.in_(watch_ids)))}
    addresses = _by_id(tx, sa.select(targets.c.id, targets.c.address).where(targets.c.id.in_(ids)))
    bodies = _by_id(tx, sa.select(answers.c.watch_id, answers.c.body).where(answers.c.watch_id.in_(watch_ids)))
    of_end = sa.and_(events.c.watch_id.in_(watch_ids), events.c.key == END)
    ends = _by_id(tx, sa.select(events.c.watch_id, events.c.body).where(of_end))
    deliveries_of = _deliveries_of_ends(tx, watch_ids)
    some = sa.select(m.watch_id).where(sa.text(LIVING)).order_by(m.watch_id).limit(MAX_CROWD).subquery()
    crowd = tx.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
    return [
        Living(
            row=row,
            watch=watch_of[row.watch_id],
            address=addresses[row.target_id],
            answer=bodies.get(row.watch_id),
            end=ends.get(row.watch_id),
            telling=any(d.place == row.place and d.state in OPEN for d in deliveries_of[row.watch_id]),
            undelivered=tuple(
                d.host for d in deliveries_of[row.watch_id] if d.state == DeliveryState.DEAD and not d.living
            ),
            crowd=crowd,
        )
        for row in rows
    ]


def _by_id(tx: sa.Connection, query: sa.Select[str, bytes]) -> dict[str, bytes]:
    return {key: bytes(value) for key, value in tx.execute(query)}


def _deliveries_of_ends(tx: sa.Connection, watch_ids: Collection[str]) -> defaultdict[str, list[AnyRow]]:
    """Return the deliveries of each watch's end, and whether a living message stands at their place."""
    d = deliveries.c
    m = messages.c
    query = (
        sa.select(d.watch_id, d.place, d.state, d.host, m.target_id.is_not(None).label("living"))
        .join(messages, sa.and_(m.watch_id == d.watch_id, m.place == d.place), isouter=True)
        .where(d.watch_id.in_(watch_ids), d.event_key == END)
        .order_by(d.id)
    )
    of_watch: defaultdict[str, list[AnyRow]] = defaultdict(list)
    for row in tx.execute(query):
        of_watch[row.watch_id].append(row)
    return of_watch


# Erasing


def posts_of(tx: sa.Connection, watch_id: str) -> set[tuple[str, str]]:
    """Return where messages about a watch stand, as far as that is known: Slack's ids of channel and message.

    These are living messages and the replies below them, and what was posted to channels that have none.
    """
    m = messages.c
    query = sa.select(m.channel, m.ts, m.reply_ts).where(m.watch_id == watch_id, m.ts.is_not(None))
    posts = {(row.channel, ts) for row in tx.execute(query) for ts in (row.ts, row.reply_ts) if ts is not None}
    # Only of channels: what stands behind the URL of a webhook could name any message.
    of_channels = sa.and_(targets.c.watch_id == watch_id, targets.c.type == "slack", targets.c.host == "slack")
    answered = (
        sa.select(attempts.c.answer)
        .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
        .join(targets, targets.c.id == deliveries.c.target_id)
        .where(of_channels)
    )
    for answer in tx.execute(answered).scalars():
        try:
            answered_with = orjson.loads(answer)
        except orjson.JSONDecodeError:  # cut, or nothing
            continue
        if isinstance(answered_with, dict) and answered_with.get("ok") is True:
            posts.add((str(answered_with.get("channel")), str(answered_with.get("ts"))))
    return posts


# Saving


def posting(tx: sa.Connection, living: Living, lane: TurnQueue, rank: Rank, now: Millis) -> Millis | None:
    """Take a turn to post, and note first that something may be posted from now on.

    Returns:
        As `turn`; None if the claim of the message no longer holds.
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
    """Save what became of a message, and give it back, if the claim still holds.

    Args:
        quiet_until: when it is due again if it changed since the claim.
        edit_at: when it is due again if nothing changes.

    Returns:
        Whether the claim still held.
    """
    c = messages.c
    due = sa.case((c.changed_at > living.row.changed_at, quiet_until), else_=sa.literal(edit_at, sa.BigInteger))
    change = sa.update(messages).where(c.target_id == living.id, c.lease == living.row.lease)
    changes = {**values, "quiet_until": quiet_until, "edit_at": due, "lease": None}
    if tx.execute(change.values(changes)).rowcount:
        return True
    if tx.execute(sa.select(c.target_id).where(c.target_id == living.id)).first() is None:
        # Its watch was erased meanwhile: what was posted or edited since says too much.
        posts = [(values["channel"], ts) for ts in (values.get("ts"), values.get("reply_ts")) if ts is not None]
        slack_erasures.note(tx, posts, quiet_until)
    return False
