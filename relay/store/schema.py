"""The tables. A due time is a lease as well: see `next_poll_at` and `next_attempt_at`.

Points in time are milliseconds since the epoch. JSON is stored as text, because no query looks inside it. Only the
vault can read what is `sealed`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    select,
    text,
    true,
)

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def partial_index(name: str, where: str, *columns: str, unique: bool = False) -> Index:
    """Return an index of those rows only for which a condition holds."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


apps = Table(
    "apps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("secrets", LargeBinary, nullable=False),  # sealed JSON: [{"secret": "whsec_…", "expires_at": ms | null}]
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("disabled_at", BigInteger),
)

UNKNOWN = -1
"""The `answer_hash` of each answer that says that the task is unknown."""

REPAIRED = 0
"""The `status` of an answer that is stored other than it came: for events, but not for who asks what came."""

CUT = -1
"""The `status` of an answer of which only a part is stored, as its provider's file says: the same holds of it."""

usage = Table(  # what each app has; triggers count it: see migrations/usage_triggers
    "usage",
    metadata,
    Column("app_id", Text, ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
    Column("watching", BigInteger, nullable=False),  # watches under way
    Column("targets", BigInteger, nullable=False),  # stored targets
)

NEVER_ENDED = 0
"""The `ended_at` of the watch that alerts belong to. It was never under way, ended at no time, and stays."""

cancelled_id = literal_column("(CASE WHEN state = 'cancelled' THEN id ELSE '' END)", Text)
"""What tells a cancelled watch from the others of its task: its id. Of the others there is one for each provider."""

HELD = "'held'"
"""The state of a held delivery as queries write it: a partial index is used only if the query names its condition."""

watches = Table(
    "watches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app_id", Text, ForeignKey("apps.id"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("upstream_status", Text),
    Column("progress", Float),
    Column("estimated_end", BigInteger),
    Column("result", Text),
    Column("error", Text),
    Column("metadata", Text, nullable=False),
    Column("upstream_key", LargeBinary),  # sealed
    Column("upstream_base", Text),  # where it is asked about, if not at the address of its provider
    Column("inline", LargeBinary),  # its inline definition, sealed; no file has one
    Column("wants_progress", Boolean, nullable=False),  # some target asked for task.progress
    Column("polls", Integer, nullable=False),
    Column("misses", Integer, nullable=False),
    Column("unknowns", Integer, nullable=False),
    Column("unknown_since", BigInteger),  # of `unknowns`, and of bare successes: Watch.doubted_since
    Column("bares", Integer, nullable=False),
    Column("last_poll_at", BigInteger),
    Column("next_poll_at", BigInteger),  # when it is due, or when its lease runs out; null once ended
    # Names the claim until its save; a late save with an older lease changes nothing. See store/deaths, too.
    Column("lease", Text),
    Column("answer_hash", BigInteger),  # of the answer in `answers`, to store it only when it differs; or UNKNOWN
    Column("progress_told_at", BigInteger),
    Column("changes", Integer, nullable=False),  # how many readings said something new: see `changes`
    Column("expires_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("traceparent", Text),  # of the span that registered it, where tracing is on
    Column("model", Text),  # what the upstream calls the model that works on it
    Column("progress_at", BigInteger),  # when its progress came up
    Column("woken_from", BigInteger),  # when it was due before a callback woke it; null unless it was
    Column("late_at", BigInteger),  # when it takes longer than its app expects
    Column("late_told_at", BigInteger),
    # A registered task can be registered again: it gets the same watch, or a new one if that was cancelled.
    Index("uq_watches_app_task", "app_id", "task_id", cancelled_id, "provider", unique=True),
    partial_index("ix_watches_ended", "ended_at IS NOT NULL", "ended_at"),
    partial_index("ix_watches_cancelled", "state = 'cancelled'", "task_id", "id"),
    # Claims are fair: each app's due watches in their order.
    partial_index("ix_watches_app_due", "next_poll_at IS NOT NULL", "app_id", "next_poll_at"),
    Index("ix_watches_app_state", "app_id", "state", "id"),
    Index("ix_watches_app_provider", "app_id", "provider", "state", "id"),
)

EACH_APP = watches.c.app_id.in_(select(apps.c.id))
"""True of every watch. It leads a query that has no app through an index that begins with the app."""


def every_row(table: Table) -> ColumnElement[bool]:
    """Return what is true of every row, and leads a search by due time through that table's index of due times."""
    return EACH_APP if table is watches else true()


# The upstream's last JSON answer about a task; apart, because each poll rewrites the row of a watch. No row where the
# event of the end holds that answer as it came.
answers = Table(
    "answers",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # an answer "unknown task" only while there was no other
    Column("at", BigInteger, nullable=False),
    Column("status", Integer, nullable=False, server_default="200"),  # of HTTP, or REPAIRED, or CUT
)

misses = Table(  # of each watch the last queries in a row that told nothing, and what came instead of an answer
    "misses",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    Column("status", Integer),  # of HTTP; null where no answer came
    Column("message", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # the first bytes of it
)

changes = Table(  # one row for each reading that said something new; append-only
    "changes",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("upstream_status", Text),
    Column("progress", Float),
)

targets = Table(
    "targets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), nullable=False),
    Column("type", Text, nullable=False),
    Column("address", LargeBinary, nullable=False),  # sealed JSON: everything that the channel needs
    Column("host", Text, nullable=False),
    Column("events", Text, nullable=False),
    Column("place", Text, nullable=False),  # of the app and the address: what is well or unwell
    Column("fingerprint", LargeBinary, nullable=False),  # tells whether a target is registered already
    Column("ended_at", BigInteger),  # nothing more may be sent to it
    Column("ended_why", Text),
    UniqueConstraint("watch_id", "fingerprint"),
)

events = Table(  # the primary key prevents a second end of a task
    "events",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

_DUE = "next_attempt_at IS NOT NULL"

deliveries = Table(  # event × target: the outbox
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("webhook_id", Text, nullable=False, unique=True),
    Column("app_id", Text, ForeignKey("apps.id"), nullable=False),
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), nullable=False),
    Column("target_id", Text, ForeignKey("targets.id", ondelete="CASCADE"), nullable=False),
    Column("event_key", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False),  # all attempts: the number of the last row in `attempts`
    Column(
        "counted", Integer, nullable=False
    ),  # attempts that count against the schedule, since it was last sent again
    Column("next_attempt_at", BigInteger),  # when it is due, or when its lease runs out; null once settled
    Column("lease", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    partial_index("ix_deliveries_due", _DUE, "next_attempt_at"),
    # Claims are fair: each app's due deliveries in their order, first attempts before retries.
    partial_index("ix_deliveries_app_first", f"{_DUE} AND attempts = 0", "app_id", "next_attempt_at"),
    partial_index("ix_deliveries_app_again", f"{_DUE} AND attempts > 0", "app_id", "next_attempt_at"),
    partial_index("ix_deliveries_settled", "settled_at IS NOT NULL", "settled_at"),
    partial_index("ix_deliveries_dead", "state = 'dead'", "settled_at"),
    partial_index("ix_deliveries_held_at", "state = 'held'", "place", "id"),
    Index("ix_deliveries_app", "app_id", "id"),
    Index("ix_deliveries_app_state", "app_id", "state", "id"),
    Index("ix_deliveries_of_watch", "watch_id", "id"),
    Index("ix_deliveries_target", "target_id"),
)

ailments = Table(  # places whose deliveries have used up their schedules, until one succeeds
    "ailments",
    metadata,
    Column("place", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),  # when the first of those deliveries was made
    Column("exhausted", Integer, nullable=False),  # how many of them in a row
    Column("probe_at", BigInteger),  # when the next held delivery is tried; null while the place is well
    Column("probe_id", Text),  # the delivery that probes the place
)

LIVING = "NOT ended AND ts IS NOT NULL"
"""The condition for messages that are posted and still edited."""

messages = Table(  # living Slack messages: one per watch and channel, posted at registration, edited until the end
    "messages",
    metadata,
    Column("target_id", Text, ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True),
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), nullable=False),
    Column("place", Text, nullable=False),  # as in `targets`: two targets with one channel share the message
    Column("channel", Text),  # Slack's ids of the channel, the message and the reply in its thread
    Column("ts", Text),
    Column("reply_ts", Text),
    Column("posting_at", BigInteger),  # since when a post is under way whose result is not recorded yet
    Column("ended", Boolean, nullable=False),  # it shows the end
    Column("bare", Boolean, nullable=False),  # without its picture, because Slack refused that
    Column("layout", Integer, nullable=False, server_default="0"),  # how plain it goes next; 0 once Slack has taken it
    Column("shown", Text),  # a digest of the content, so that no edit changes nothing
    Column("said", Text),  # a line about who did something in Slack
    Column("failures", Integer, nullable=False),  # failed posts and edits in a row, before the end
    Column("refused", Text),  # why Slack does not take it, if only a person can mend that
    Column("changed_at", BigInteger, nullable=False),  # when the last change came
    Column("quiet_until", BigInteger, nullable=False),  # no edit before
    Column("invited", Boolean, nullable=False),  # it has a turn and comes back for it
    Column("edit_at", BigInteger),  # when it is due, or when its lease runs out; null while nothing is new
    Column("lease", Text),
    UniqueConstraint("watch_id", "place"),
    partial_index("ix_messages_due", "edit_at IS NOT NULL", "edit_at"),
    partial_index("ix_messages_living", LIVING, "watch_id"),
)

erased_messages = Table(  # Slack messages of erased watches, until each is edited to say no more than that
    "erased_messages",
    metadata,
    Column("channel", Text, primary_key=True),  # Slack's ids of the channel and the message
    Column("ts", Text, primary_key=True),
    Column("failures", Integer, nullable=False),  # in a row
    Column("invited", Boolean, nullable=False),  # it has a turn and comes back for it
    Column("edit_at", BigInteger, nullable=False, index=True),  # when it is due, or when its lease runs out
    Column("lease", Text),
)

attempts = Table(  # append-only; of each delivery, the newest are kept: see store/attempts
    "attempts",
    metadata,
    Column("delivery_id", Text, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("note", Text),
    Column("answer", LargeBinary, nullable=False),
    Column("truncated", Boolean, nullable=False),
)

lags = Table(  # the detection lag of each end; apart, so that a day of them is summed up quickly
    "lags",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("unseen_ms", BigInteger, nullable=False),  # the time from the query before to the end
    Index("ix_lags_at", "at"),
)
