"""The metrics of this process, for Prometheus. Each label has a closed set of values, so none can contain a secret."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
"""A registry of relay's own, so that an application that embeds relay keeps the default one."""

_LAGS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

POLLS = Counter("relay_polls", "Queries of upstreams, by kind of reading.", ["provider", "kind"], registry=REGISTRY)
UPSTREAM_TROUBLE = Gauge(
    "relay_upstream_trouble",
    "1 while an upstream refuses the key (refused), says nothing usable (silent), or knows no such address (unrouted).",
    ["provider", "trouble"],
    registry=REGISTRY,
)
DETECTION_LAG = Histogram(
    "relay_detection_lag_seconds",
    "How long an end may have gone unnoticed: from the query before to the one that detected it.",
    ["provider"],
    registry=REGISTRY,
    buckets=_LAGS,
)
ENDS = Counter("relay_ends", "Watches that ended, by their final state.", ["provider", "state"], registry=REGISTRY)
ATTEMPTS = Counter(
    "relay_attempts", "Attempts of deliveries, by target type and verdict.", ["type", "verdict"], registry=REGISTRY
)
DELIVERY_LAG = Histogram(
    "relay_delivery_lag_seconds",
    "From an end to its delivery, with all attempts.",
    ["type"],
    registry=REGISTRY,
    buckets=(*_LAGS, 3600, 86400),
)
SUBMISSIONS = Counter(
    "relay_submissions", "Create calls, by what became of them.", ["provider", "state"], registry=REGISTRY
)
SUBMISSIONS_UNKNOWN = Gauge(
    "relay_submissions_unknown",
    "Stored create calls of which nobody knows whether the upstream took them.",
    registry=REGISTRY,
)
PUT_OFF = Counter(
    "relay_put_off",
    "Claims given back, because a lane is full or paused, a place is unwell, or it is not their turn.",
    ["what"],
    registry=REGISTRY,
)
INTERNAL_ERRORS = Counter(
    "relay_internal_errors",
    "Faults of relay's own, by the loop that they interrupted. Anything but 0 is a bug, or a machine at its limits.",
    ["loop"],
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("relay_in_flight", "Claims under way.", ["what"], registry=REGISTRY)
LOOP_LAG = Gauge(
    "relay_event_loop_lag_seconds", "How late the event loop woke up at the last measurement.", registry=REGISTRY
)
CLOCK_AHEAD = Gauge(
    "relay_clock_ahead_seconds", "How far this machine's clock is ahead of the database's.", registry=REGISTRY
)
LOG_LINES_DROPPED = Counter("relay_log_lines_dropped", "Lines of the log that nothing read in time.", registry=REGISTRY)

WATCHES = Gauge("relay_watches", "Stored watches, by state.", ["provider", "state"], registry=REGISTRY)
DELIVERIES = Gauge("relay_deliveries", "Stored deliveries, by state.", ["state"], registry=REGISTRY)
OLDEST_DUE = Gauge(
    "relay_oldest_due_seconds", "How long the longest overdue row has been due.", ["what"], registry=REGISTRY
)
VIOLATIONS = Gauge(
    "relay_invariant_violations", "Violations that `relay check` finds. Anything but 0 is a bug.", registry=REGISTRY
)
