"""What happened to a watch, in order: the middle of its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relay.model.times import Millis
from relay.model.watch import State
from relay.store import deliveries
from relay.store.reports import WatchHistory
from relay.store.schema import AnyRow


@dataclass(slots=True)
class Item:
    """One thing that happened.

    Attributes:
        kind: `registered`, `reading`, `missed`, `ended` or `delivery`.
        readings: those that said the same but for their progress, oldest first.
    """

    kind: str
    at: Millis
    readings: list[AnyRow] = field(default_factory=list)
    delivery: deliveries.StoredDelivery | None = None


def timeline(story: WatchHistory) -> list[Item]:
    """Return everything that happened, oldest first; deliveries come after the end that they are about.

    Queries in a row that told nothing are one item, at the time of the last.
    """
    row = story.watch.row
    items = [Item("registered", row.created_at), *_readings(story.history)]
    if row.ended_at is not None and not any(item.kind == "ended" for item in items):
        items.append(Item("ended", row.ended_at))
    if story.missed is not None:
        items.append(Item("missed", story.missed.at))
    items += [Item("delivery", delivery.row.created_at, delivery=delivery) for delivery in story.deliveries]
    order = ("registered", "reading", "missed", "ended", "delivery")
    return sorted(items, key=lambda item: (item.at, order.index(item.kind)))


def _readings(history: Sequence[AnyRow]) -> Iterator[Item]:
    """Yield what readings said. Those in a row that only differ in their progress are one item."""
    run: Item | None = None
    for row in history:
        if run is not None and (row.state != State.WATCHING or row.upstream_status != run.readings[-1].upstream_status):
            yield run
            run = None
        if row.state != State.WATCHING:
            yield Item("ended", row.at, [row])
        elif run is None:
            run = Item("reading", row.at, [row])
        else:
            run.readings.append(row)
    if run is not None:
        yield run
