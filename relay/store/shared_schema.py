"""The tables through which processes agree: who lives, whose turn it is, what each may take, what all have learned.

Times are milliseconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, Table, Text

from relay.store.schema import metadata

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
