"""What ended watches teach, kept in a row for each app, provider and model. Each function runs inside one transaction.

A row is locked while it is changed, so that several processes lose nothing of what each of them has seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from relay.model.experience import Experience, Lesson, Mark, experience
from relay.model.times import Millis
from relay.store import hot
from relay.store.schema import changes
from relay.store.shared_schema import experiences

MAX_MODELS = 50
"""Models of one app and provider that are told apart. Further ones are learned together, without a name."""

MAX_MODEL = 200
"""Characters of a model's name that count."""

Key = tuple[str, str, str]
"""App, provider, model; the model is empty where it is not known."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What one watch teaches, and of which tasks.

    Attributes:
        created_at: when it was registered.
        progressed: it has changes that say a progress.
    """

    watch_id: str
    app_id: str
    provider: str
    model: str | None
    created_at: Millis
    lesson: Lesson
    progressed: bool

    @property
    def key(self) -> Key:
        """Return the row that learns from it."""
        return self.app_id, self.provider, name_of(self.model)


def name_of(model: str | None) -> str:
    """Return a model's name as it is kept."""
    return (model or "").replace("\0", "")[:MAX_MODEL]


_MARKS = hot.Statement(
    sa.select(changes.c.watch_id, changes.c.at, changes.c.progress)
    .where(hot.among(changes.c.watch_id, "ids"), changes.c.progress.is_not(None))
    .order_by(changes.c.watch_id, changes.c.number)
)


def learn(tx: sa.Connection, taught: Sequence[Taught], now: Millis) -> None:
    """Learn from watches that this transaction ends. One read and one write for all of them."""
    if not taught:
        return
    marks = _marks(tx, [one for one in taught if one.progressed])
    lessons: defaultdict[Key, list[Lesson]] = defaultdict(list)
    for one in taught:
        lessons[one.key].append(replace(one.lesson, marks=marks.get(one.watch_id, ())))
    known = _locked(tx, lessons)
    for key in sorted(lessons.keys() - known.keys()):
        row = _make_room(tx, key, now)
        known |= _locked(tx, [row])
        if row != key:
            lessons[row] += lessons.pop(key)
    for key, new in sorted(lessons.items()):
        for lesson in new:
            known[key].learn(lesson)
        stored = orjson.dumps(known[key].stored()).decode()
        tx.execute(sa.update(experiences).where(_is(key)).values(learned=stored, updated_at=now))


def _marks(tx: sa.Connection, taught: Sequence[Taught]) -> dict[str, list[Mark]]:
    """Return what was said of the progress of each watch, and when."""
    created_at = {one.watch_id: one.created_at for one in taught}
    marks: defaultdict[str, list[Mark]] = defaultdict(list)
    if created_at:
        for watch_id, at, progress in _MARKS.rows(tx, {"ids": list(created_at)}):
            marks[watch_id].append(Mark(progress, (at - created_at[watch_id]) / 1000))
    return marks


def _locked(tx: sa.Connection, keys: Iterable[Key]) -> dict[Key, Experience]:
    """Lock rows in one order, and return those that are there."""
    known: dict[Key, Experience] = {}
    for key in sorted(keys):
        row = tx.execute(sa.select(experiences.c.learned).where(_is(key)).with_for_update()).first()
        if row is not None:
            known[key] = _read(row.learned)
    return known


def _make_room(tx: sa.Connection, key: Key, now: Millis) -> Key:
    """Make the row of a new model, or the one for all further models; return which."""
    app_id, provider, _ = key
    c = experiences.c
    of_provider = sa.select(sa.func.count()).where(c.app_id == app_id, c.provider == provider, c.model != "")
    if tx.execute(of_provider).scalar_one() >= MAX_MODELS:
        key = (app_id, provider, "")
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    row = dict(zip(("app_id", "provider", "model"), key, strict=True))
    empty = orjson.dumps(Experience().stored()).decode()
    tx.execute(insert(experiences).values(**row, learned=empty, updated_at=now).on_conflict_do_nothing())
    return key


def _is(key: Key) -> sa.ColumnElement[bool]:
    c = experiences.c
    return sa.and_(c.app_id == key[0], c.provider == key[1], c.model == key[2])


def _read(learned: str) -> Experience:
    """Return a row's experience. One that cannot be read begins anew: no poll may fail because of it."""
    try:
        return experience(orjson.loads(learned))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Experience()


def changed_since(tx: sa.Connection, since: Millis) -> list[tuple[Key, Millis, Experience]]:
    """Return what was learned since then, with when it was."""
    c = experiences.c
    rows = tx.execute(sa.select(experiences).where(c.updated_at >= since))
    return [((row.app_id, row.provider, row.model), row.updated_at, _read(row.learned)) for row in rows]


def of_provider(tx: sa.Connection, provider: str) -> list[Experience]:
    """Return what all apps have learned of a provider."""
    rows = tx.execute(sa.select(experiences.c.learned).where(experiences.c.provider == provider))
    return [_read(row.learned) for row in rows]
