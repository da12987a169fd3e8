"""What this process counts, for Prometheus. Every label has a closed set of values; none can hold a secret."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
"""relay's own, so that an application that embeds relay keeps its registry."""

_LAGS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

POLLS = Counter("relay_polls", "Queries of upstreams, by what they came to.", ["provider", "kind"], registry=REGISTRY)
DETECTION_LAG = Histogram(
    "relay_detection_lag_seconds",
    "How long an end may have gone unnoticed: from the query before to the one that told it.",
    ["provider"],
    registry=REGISTRY,
    buckets=_LAGS,
)
ENDS = Counter("relay_ends", "Watches that ended, by how.", ["provider", "state"], registry=REGISTRY)
ATTEMPTS = Counter(
    "relay_attempts", "Attempts, by target type and what came of them.", ["type", "verdict"], registry=REGISTRY
)
DELIVERY_LAG = Histogram(
    "relay_delivery_lag_seconds",
    "From an end to its delivery, attempts and all.",
    ["type"],
    registry=REGISTRY,
    buckets=(*_LAGS, 3600, 86400),
)
PUT_OFF = Counter(
    "relay_put_off",
    "Claims given back: a lane is full or paused, a place unwell, a turn yet to come.",
    ["what"],
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("relay_in_flight", "Claims under way.", ["what"], registry=REGISTRY)
LOOP_LAG = Gauge(
    "relay_event_loop_lag_seconds", "How late the event loop woke up when it was last looked at.", registry=REGISTRY
)

WATCHES = Gauge("relay_watches", "Stored watches, by state.", ["provider", "state"], registry=REGISTRY)
DELIVERIES = Gauge("relay_deliveries", "Stored deliveries, by state.", ["state"], registry=REGISTRY)
OLDEST_DUE = Gauge(
    "relay_oldest_due_seconds", "How long the longest overdue row has been due.", ["what"], registry=REGISTRY
)
VIOLATIONS = Gauge(
    "relay_invariant_violations", "What `relay check` finds wrong; anything but 0 is a bug.", registry=REGISTRY
)
