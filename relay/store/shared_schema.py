"""The tables through which processes agree: who lives, what each may take and is sending, what all have learned.

Times are milliseconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from relay.store.schema import metadata, partial_index

processes = Table(  # the processes that claim rows, each with its last heartbeat
    "processes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("ahead", BigInteger, nullable=False, server_default="0"),  # of its clock, if that is worth a warning
)

turns = Table(  # queues for calls that Slack limits (edits in a workspace, posts to a channel), for all processes
    "turns",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("next_at", BigInteger, nullable=False),  # when the next call may be made
    Column("ends_until", BigInteger, nullable=False),  # until when turns are given, by rank
    Column("replies_until", BigInteger, nullable=False),
    Column("rest_until", BigInteger, nullable=False),
    Column("channel", Text),  # Slack's id of the channel, known after the first post
)

lanes = Table(  # upstreams by host and key: their names are hashes; on PostgreSQL only
    "lanes",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("paused_until", BigInteger, nullable=False),  # by the database's clock, as all times of leases
)

lane_leases = Table(  # what each process may take of a lane for a second: see model/lane_lease
    "lane_leases",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("process", Text, primary_key=True),
    Column("places", Integer, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("wants_places", Integer, nullable=False),
    Column("wants_starts", Integer, nullable=False),
    Column("starts_before", Integer, nullable=False),
    Column("until_before", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
)

troubles = Table(  # what the operator should know of: one row for each subject, while it lasts and a while after
    "troubles",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("type", Text, nullable=False),  # of the event that tells it
    Column("since", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON
    Column("seen_at", BigInteger, nullable=False),  # when it was last noticed
    Column("over_at", BigInteger),  # null while it lasts
    Column("told", Boolean, nullable=False),  # its beginning was told, and its end was not
    Column("told_at", BigInteger),  # when a beginning was last told
)

generations = Table(  # each step of a number ends what was given out before it: sessions of the dashboard
    "generations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

experiences = Table(  # what ended watches have taught of how long tasks take: see model/experience
    "experiences",
    metadata,
    Column("app_id", Text, ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),  # empty where the upstream names none, or an app has too many
    Column("learned", Text, nullable=False),  # as JSON
    Column("updated_at", BigInteger, nullable=False, index=True),
)

submissions = Table(  # what is known of each create call, and the keys that keep it from being sent twice
    "submissions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app_id", Text, ForeignKey("apps.id", ondelete="CASCADE"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("status", Integer),  # of HTTP, where an answer came
    Column("task_id", Text),
    Column("watch_id", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("answered_at", BigInteger),
    Column("process", Text),  # that sends it; null once it is answered
    Column("key_digest", LargeBinary),  # of the Idempotency-Key, as long as it is taken
    Column("request_digest", LargeBinary),
    Column("answer", LargeBinary),  # sealed: what the first caller got
    Column("key_until", BigInteger),  # when key and answer are forgotten; null while the key stays taken
    # A key is one request of one app. Partial indexes: most submissions have neither key nor answer for long.
    partial_index("uq_submissions_key", "key_digest IS NOT NULL", "app_id", "key_digest", unique=True),
    Index("ix_submissions_app", "app_id", "id"),
    Index("ix_submissions_app_state", "app_id", "state", "id"),
    partial_index("ix_submissions_process", "process IS NOT NULL", "process"),
    partial_index("ix_submissions_watch", "watch_id IS NOT NULL", "watch_id"),
    partial_index("ix_submissions_key_until", "key_until IS NOT NULL", "key_until"),
    partial_index("ix_submissions_answered", "answered_at IS NOT NULL", "answered_at"),
    partial_index("ix_submissions_unknown", "state = 'unknown'", "id"),
)
