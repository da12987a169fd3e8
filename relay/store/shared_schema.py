"""The tables through which processes agree: who lives, whose turn it is, and what each may take.

Times are milliseconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, Table, Text

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
