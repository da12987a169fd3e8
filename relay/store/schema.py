"""The tables. Due time is lease at once: see `next_poll_at` and `next_attempt_at`.

Points in time are milliseconds since the epoch. JSON is text that relay writes and reads itself: the database is never
asked about what is inside. What is `sealed` only the vault can read.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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
    text,
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
"""The `answer_hash` of any answer that says that the task is unknown."""

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
    Column("wants_progress", Boolean, nullable=False),  # some target asked for task.progress
    Column("polls", Integer, nullable=False),
    Column("misses", Integer, nullable=False),
    Column("unknowns", Integer, nullable=False),
    Column("unknown_since", BigInteger),
    Column("bares", Integer, nullable=False),
    Column("last_poll_at", BigInteger),
    Column("next_poll_at", BigInteger),  # when due, or until when claimed; null once ended
    Column("lease", Text),  # who claimed it, until saved: a late save with another lease changes nothing
    Column("answer_hash", BigInteger),  # of the answer in `answers`, to write that only when it changed; or UNKNOWN
    Column("progress_told_at", BigInteger),
    Column("changes", Integer, nullable=False),  # how often a reading said something new: see `changes`
    Column("expires_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("traceparent", Text),  # of the span that registered it, where tracing is on
    # A cancelled watch makes room for a new one of the same task; any other is what a registration again finds.
    Index(
        "uq_watches_task",
        "app_id",
        "provider",
        "task_id",
        unique=True,
        sqlite_where=text("state <> 'cancelled'"),
        postgresql_where=text("state <> 'cancelled'"),
    ),
    Index(
        "ix_watches_due",
        "next_poll_at",
        sqlite_where=text("next_poll_at IS NOT NULL"),
        postgresql_where=text("next_poll_at IS NOT NULL"),
    ),
    Index(
        "ix_watches_ended",
        "ended_at",
        sqlite_where=text("ended_at IS NOT NULL"),
        postgresql_where=text("ended_at IS NOT NULL"),
    ),
    Index("ix_watches_app", "app_id", "id"),
    Index("ix_watches_task_id", "task_id"),
)

answers = Table(  # the upstream's last JSON answer about a task, apart to keep small the row that every poll rewrites
    "answers",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # that the task is unknown only while nothing else was said of it
    Column("at", BigInteger, nullable=False),
    Column("status", Integer, nullable=False, server_default="200"),  # of HTTP; the release before writes none
)

changes = Table(  # what a watch has been, one row for each reading that said something new; append-only
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
    Column("address", LargeBinary, nullable=False),  # sealed JSON: all that the channel needs
    Column("host", Text, nullable=False),
    Column("events", Text, nullable=False),
    Column("place", Text, nullable=False),  # the app and the address: what a target's health is about
    Column("fingerprint", LargeBinary, nullable=False),  # the same target twice is one target
    Column("ended_at", BigInteger),  # nothing more may be sent to it
    Column("ended_why", Text),
    UniqueConstraint("watch_id", "fingerprint"),
)

events = Table(  # one row per fact; the primary key is what keeps a task from ending twice
    "events",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

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
    Column("attempts", Integer, nullable=False),  # all of them, which numbers the rows of `attempts`
    Column("counted", Integer, nullable=False),  # those that count against the schedule, since the last replay
    Column("next_attempt_at", BigInteger),  # when due, or until when claimed; null once settled
    Column("lease", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Index(
        "ix_deliveries_due",
        "next_attempt_at",
        sqlite_where=text("next_attempt_at IS NOT NULL"),
        postgresql_where=text("next_attempt_at IS NOT NULL"),
    ),
    Index(
        "ix_deliveries_held",
        "place",
        sqlite_where=text("state = 'held'"),
        postgresql_where=text("state = 'held'"),
    ),
    Index("ix_deliveries_app", "app_id", "id"),
    Index("ix_deliveries_watch", "watch_id"),
    Index("ix_deliveries_target", "target_id"),
)

ailments = Table(  # places whose deliveries have used up their schedules, until one is delivered again
    "ailments",
    metadata,
    Column("place", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),  # when the first of those deliveries was made
    Column("exhausted", Integer, nullable=False),  # how many of them in a row
    Column("probe_at", BigInteger),  # when the next held delivery is tried; null while the place still counts as well
    Column("probe_id", Text),  # the delivery that may try the place
)

processes = Table(  # those that claim, each with its last sign of life
    "processes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

LIVING = "NOT ended AND ts IS NOT NULL"
"""Of which messages others have to be aware: those that stand in Slack and are still edited."""

messages = Table(  # living Slack messages: one per watch and channel, posted at registration, edited until the end
    "messages",
    metadata,
    Column("target_id", Text, ForeignKey("targets.id", ondelete="CASCADE"), primary_key=True),
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), nullable=False),
    Column("place", Text, nullable=False),  # as in `targets`: two targets that lead to one channel share the message
    Column("channel", Text),  # Slack's ids of where it stands, of the message and of the reply in its thread
    Column("ts", Text),
    Column("reply_ts", Text),
    Column("posting_at", BigInteger),  # since when something may have been posted that is not recorded; else null
    Column("ended", Boolean, nullable=False),  # it shows the end
    Column("bare", Boolean, nullable=False),  # Slack did not take its picture
    Column("shown", Text),  # a digest of what it shows, so that nothing is edited for nothing
    Column("said", Text),  # who did what to the task in Slack
    Column("failures", Integer, nullable=False),  # in a row, of posts and edits of what is not the end
    Column("changed_at", BigInteger, nullable=False),  # when there was last something new to show
    Column("quiet_until", BigInteger, nullable=False),  # when the next edit may be
    Column("invited", Boolean, nullable=False),  # it was told to come back for its turn
    Column("edit_at", BigInteger),  # when due, or until when claimed; null while there is nothing to show
    Column("lease", Text),
    UniqueConstraint("watch_id", "place"),
    Index(
        "ix_messages_due",
        "edit_at",
        sqlite_where=text("edit_at IS NOT NULL"),
        postgresql_where=text("edit_at IS NOT NULL"),
    ),
    Index(
        "ix_messages_living",
        "watch_id",
        sqlite_where=text(LIVING),
        postgresql_where=text(LIVING),
    ),
)

turns = (
    Table(  # what Slack lets through only so fast: edits of a workspace, posts to a channel; shared by all processes
        "turns",
        metadata,
        Column("lane", Text, primary_key=True),
        Column("next_at", BigInteger, nullable=False),  # when the next call may be made
        Column("ends_until", BigInteger, nullable=False),  # the times that those who wait were told, by rank
        Column("replies_until", BigInteger, nullable=False),
        Column("rest_until", BigInteger, nullable=False),
        Column("channel", Text),  # Slack's id of the channel, once a post has told it
    )
)

attempts = Table(  # append-only
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

lags = Table(  # for how long each end may have gone unnoticed; apart, so that a day of them is quickly summed up
    "lags",
    metadata,
    Column("watch_id", Text, ForeignKey("watches.id", ondelete="CASCADE"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("unseen_ms", BigInteger, nullable=False),  # from the query before to the end
    Index("ix_lags_at", "at"),
)

# What the dashboard looks for. None of them is touched by a poll.
for _name, _column, _where in (
    ("ix_deliveries_settled", deliveries.c.settled_at, "settled_at IS NOT NULL"),
    ("ix_deliveries_dead", deliveries.c.settled_at, "state = 'dead'"),
    ("ix_watches_stopped", watches.c.task_id, "state = 'cancelled'"),
):
    Index(_name, _column, sqlite_where=text(_where), postgresql_where=text(_where))
