"""A number of the documentation that comes from the code is the code's: change a constant, and its row here fails.

A row has a page, a phrase of it with `{}` in place of each number, and the numbers of the code: seconds, bytes, counts,
or parts of 1. `test_no_number_is_left_out` asks for a row for each number with a unit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay import app
from relay.channels import base, sender
from relay.channels.slack import api, face, living, turns
from relay.model import cadence, experience, outlook, plan, retry, watch
from relay.model.watch import Caution
from relay.outbound import codings, connections, lanes, receivers, reservations
from relay.outbound.lane import Limit
from relay.providers import credentials, expressions, files, inline, jwts, messages, shared_queries, troubles, upstreams
from relay.providers.definition import MAX_ANSWER, MAX_TIMEOUT, Definition, RequestTable, load_definition
from relay.providers.fields import MAX_WHOLE_TEXT
from relay.providers.messages import MAX_KEPT
from relay.security import signing
from relay.settings.options import Settings
from relay.store import (
    attempts,
    change_feed,
    clock_reset,
    deaths,
    deliveries,
    experiences,
    misses,
    past,
    processes,
    reports,
    target_health,
)
from relay.telemetry import log_output
from relay.web import callbacks, rate_limit
from relay.web.api import watch_changes
from relay.web.dashboard import rendering, sessions, window
from relay.web.slack import handlers as slack
from relay.worker import claim_loop, dispatcher, heartbeat, poller, upkeep

ROOT = Path(__file__).parent.parent
UNITS = {"s": 1, "m": 60, "minutes": 60, "h": 3600, "hours": 3600, "days": 86400}
UNITS |= {"KiB": 1024, "MiB": 1024**2, "%": 0.01}
NUMBER = r"\d(?:[\d,.]*\d)?"
UNIT = rf"(?: (?:{'|'.join(UNITS)})(?!\w))"


def highest(accepts: Callable[[int], object]) -> int:
    """Return the highest whole number for which `accepts` raises no ValueError."""

    def refused(number: int) -> bool:
        try:
            accepts(number)
        except ValueError:
            return True
        return False

    low, high = 0, 1
    while not refused(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if refused(middle):
            high = middle
        else:
            low = middle
    return low


def name_of_length(length: int) -> Definition:
    """Return the definition of a provider whose name has this many characters."""
    return UNIFIED_VIDEO.model_validate(UNIFIED_VIDEO.model_dump(by_alias=True) | {"name": "a" * length})


def request_with(**changes: int) -> RequestTable:
    """Return the request of a provider file with some of its values."""
    return RequestTable.model_validate({"path": "/{task_id}", **changes})


def default(option: str) -> float:
    """Return the default of an option whose value is a number."""
    number: float = Settings.model_fields[option].default
    return number


UNIFIED_VIDEO = load_definition(ROOT / "config/providers/unified-video.toml", {})
INLINE_REQUEST = inline.definition_of(inline.Inline("", "done")).request
INLINE = (inline.CADENCE.floor, INLINE_REQUEST.timeout, float(INLINE_REQUEST.max_bytes))
SCHEDULE: tuple[float, ...] = Settings.model_fields["retry_schedule"].default
PASSWORD = Settings.model_fields["admin_password"]
LEAST = next(bound.ge for bound in RequestTable.model_fields["max_bytes"].metadata if hasattr(bound, "ge"))
RELOAD = re.search(r"every (\d+)s", (ROOT / "relay/web/templates/page.html").read_text("utf-8"))
(SHOWN_OF_AN_ANSWER,) = rendering.text.__defaults__ or ()

Value = float | tuple[float, ...]
FROM_THE_CODE: dict[str, dict[str, Value]] = {
    "README.md": {
        "Prefer: wait={}": watch_changes.MAX_WAIT,
        "gets its event for {}, under": sum(SCHEDULE) // 3600 * 3600,
    },
    "config/relay.toml": {"requests per second of one API key; {} times that": rate_limit.BURST},
    "docs/add-a-provider.md": {
        "letters, digits and hyphens, {} at most": highest(name_of_length),
        "more than 0, at most {}, because": highest(lambda most: RequestTable(path="/{task_id}", timeout=most)),
        "because a claim holds {} |": poller.LEASE,
        "`timeout` is at most {} in such": MAX_TIMEOUT / 2,
        "every task of that key alone for {}.": shared_queries.ALONE,
        "at least {}, at most {} |": (LEAST, LEAST + highest(lambda more: request_with(max_bytes=LEAST + more))),
        "since the registration; at most {} |": highest(lambda most: Caution(lost_grace=most)),
        "unless `bare_after` is 1; at most {} |": highest(lambda most: Caution(bare_grace=most)),
        "Without it the whole is kept, up to {} |": MAX_KEPT,
        "texts that belong together; up to {}, a longer": MAX_WHOLE_TEXT,
        "makes another one {} before it ends": credentials.MARGIN,
        "follows after {}, then twice as long each time, up to {}.": (
            credentials.FIRST_RETRY,
            credentials.LONGEST_RETRY,
        ),
        "`{now}` is {} ago": jwts.SKEW,
        "An expression may make {} copies": expressions.MAX_COPIES,
        "Each expression has at most {} characters": expressions.MAX_PLAIN,
        "never within {} of the query before, waits {}, and reads {}": INLINE,
        "An app asks one host {} times at once": inline.OF_APP.concurrency,
        "all apps together {} times a second": inline.OF_HOST.per_second or 0.0,
        "looks at the files every {}, and": files.LOOK_EVERY,
    },
    "docs/dashboard.md": {
        "status and answer (the first {})": SHOWN_OF_AN_ANSWER,
        "its first {}, whatever it was": misses.KEPT,
        "is still being tried after {}": reports.LONG_PENDING / 1000,
        "at least {} characters": next(bound.min_length for bound in PASSWORD.metadata if hasattr(bound, "min_length")),
        "for {} from each login": sessions.LIFETIME,
        "accepts {} wrong passwords and then one in {};": (sessions.PER_ADDRESS[0], 1 / sessions.PER_ADDRESS[1]),
        "from all addresses together, {} and then one per second": sessions.IN_ALL[0],
        "and within {} in the others": sessions.LOOK_EVERY,
        "Without it, it is {}.": window.WINDOWS[window.USUAL].slice * window.WINDOWS[window.USUAL].columns / 1000,
        "counts it in pieces of {}, the": window.PIECE,
        "counts the newest {} ends": past.NEWEST,
        "was logged in within the last {}": sessions.KNOWN_FOR,
        "a page loads itself every {}": int(RELOAD[1]) if RELOAD else 0,
    },
    "docs/deploy/heroku.md": {
        "the requests that it has (up to {})": app.ANSWERING,
        "(`RELAY_GRACE`, {} in all)": default("grace"),
        "(`RELAY_KEEP_ALIVE`, {})": default("keep_alive"),
    },
    "docs/deploy/database.md": {
        "| {}: `RELAY_DATABASE_POOL` ({}), and one that listens": (
            default("database_pool") + 1,
            default("database_pool"),
        ),
        "| {}: one more for the heartbeat": default("database_pool") + 2,
        "a process learns {} later": change_feed.SWEEP,
    },
    "docs/deploy/sizing.md": {
        "makes one query in {}, so": UNIFIED_VIDEO.cadence.steady,
        "lane** has {} places for all processes": Limit().concurrency,
    },
    "docs/deploy/monitoring.md": {
        "counted at most every {}": upkeep.COUNT_EVERY,
        "Ctrl-S), {} of lines wait": log_output.MOST,
        "If they differ by more than {}, it logs": processes.NOTABLE / 1000,
        "they differ by more than {}, it polls": clock_reset.TOLERANCE / 1000,
    },
    "docs/security.md": {
        "a floor of {}, lanes for the app": inline.CADENCE.floor,
        "the app's own share of connections, {} and {} |": INLINE[1:],
        "those of files make at most {} copies": expressions.MAX_COPIES,
        "from yours, every {}": inline.CADENCE.floor,
        "beyond {} nothing is claimed or deleted": clock_reset.TOLERANCE / 1000,
        "as the loop has moved within the last {}": heartbeat.HANGS,
        "Lists show {} of the answer": deliveries.LISTED_ANSWER,
    },
    "docs/lifecycle.md": {
        "no answer has been usable for {}, ": troubles.SILENT_FOR / 1000,
        "the row is put off: {} the first time": claim_loop.FIRST_SETBACK,
        "as long each further time, {} at most": claim_loop.MAX_SETBACK,
        "rows that were claimed beside it within {} after the second": deaths.SPREAD / 1000,
        "when the progress has changed, at most every {} per watch": poller.PROGRESS_EVERY,
        "At most {}, as it comes and decoded": MAX_ANSWER,
        "An answer above {} is read but not kept": messages.MAX_KEPT,
        "more than {} values in more than {} is not read": (messages.MAX_PARTS, messages.MAX_KEPT),
        "The large answers of a process share {}": reservations.UNDER_WAY,
        "An answer above {} waits for its part, at most {}": (reservations.FREE, reservations.PATIENCE),
        "up to {} of them around one body": codings.MAX_CODINGS,
        "Idle connections are kept for {} and": connections.KEEP,
        "those that come due within {},": poller.AHEAD,
        "Up to {} are claimed at once": poller.MAX_CLAIMED,
        "Up to {} have a place or wait for one": upstreams.MAX_UNDER_WAY,
        "moves `next_poll_at` {} ahead": poller.LEASE,
        "wait would be longer than {}, the row": lanes.SHORT_WAIT,
        "one key that are due within {} of each other": shared_queries.GATHER,
        "looks at the watch again after {}": poller.UNUSABLE_WAIT,
        "If for {} past the deadline": watch.LAST_WAIT / 1000,
        "for up to `RELAY_GRACE` ({})": default("grace"),
        "from the fourth on it is {} times as long": cadence.MAX_BACKOFF,
        "postpones the next poll, by {} at most": cadence.MAX_RETRY_AFTER,
        "Until an app has {} ends, what all apps saw counts, each with {} ends at most": (
            experience.ENOUGH,
            experience.ENOUGH / 2,
        ),
        "never further apart than {} `steady`; once a task has taken longer than all that were seen, than {}.": (
            plan.WIDEST,
            plan.BEYOND,
        ),
        "half of such tasks must end within {}, or": outlook.CLOSE,
        "reads {} of it at most": callbacks.MAX_CALLBACK,
        "where the answer names one, {} at most": experiences.MAX_MODELS,
        "The claim holds {}": dispatcher.LEASE,
        "Up to {} are under way at once in a process": receivers.MAX_UNDER_WAY,
        "Up to {} are claimed, so that": receivers.MAX_CLAIMED,
        "{} to one host, of one app {}, and {} to one URL": (
            receivers.PER_HOST.concurrency,
            receivers.PER_APP.concurrency,
            receivers.PER_RECEIVER.concurrency,
        ),
        "attempt before: " + ", ".join(["{}"] * (len(SCHEDULE) - 1)) + ".": SCHEDULE[1:],
        "That makes {} attempts": len(SCHEDULE),
        "the last {} attempts are kept": attempts.MOST,
        "Chance adds up to {} to each wait": retry.JITTER,
        "the first {} of the answer": base.KEPT_ANSWER,
        "One deadline of {} holds": base.DEADLINE,
        "At most {} of the answer are read": base.MAX_ANSWER,
        "longer than the schedule, up to {} |": retry.MAX_RETRY_AFTER,
        "unwell once {} deliveries in a row": target_health.EXHAUSTED_BEFORE_UNWELL,
        "the first of them did so {} ago": target_health.AILING_BEFORE_UNWELL / 1000,
        "Every {} the oldest held delivery": target_health.PROBE_EVERY / 1000,
    },
    "docs/slack.md": {
        "has not answered {} times in a row": face.SILENT,
        "shows the {} newest tasks": slack.LISTED,
        "one in {} for all tasks, which is {} a minute": (
            turns.EDITS.spacing / 1000,
            60_000 // turns.EDITS.spacing,
        ),
        "one message at most every {}, and": living.EDIT_EVERY / 1000,
        "at most every {} times the number of living messages": living.EDIT_SHARE / 1000,
        "but the time is edited after {}": living.IDLE / 1000,
        "Posts: one in {} per channel": turns.POST_SPACING / 1000,
        "into an organization) | retries after {} |": api.SLOW_RETRY,
    },
    "docs/verify-a-signature.md": {
        "more than **{}** away from its own clock": signing.TOLERANCE,
        "after {} the attempt counts as failed": base.DEADLINE,
        "at the latest {} after `relay apps rotate-secret`": sender.SECRETS_CACHE / 1000,
        "TOLERANCE = {} # seconds": signing.TOLERANCE,
        "TOLERANCE = {}; // seconds": signing.TOLERANCE,
        '"${age#-}" -gt {} ]': signing.TOLERANCE,
    },
}

# Measured, an example, or a number of Slack or of an upstream.
NOT_FROM_THE_CODE = {
    "README.md": ["kills a random process every 2 s"],
    "docs/add-a-provider.md": ["forgotten after 24 hours"],
    "docs/deploy/container.md": ["kills after 10 s by default", "`--stop-timeout 30`", "Kubernetes waits 30 s"],
    "docs/deploy/variables.md": ["idle connections for more than 90 s"],
    "docs/lifecycle.md": [
        "a progress below 100 %",
        "a progress of 100 %",
        "within which 95 % of such tasks ended",
    ],
    "docs/security.md": ["Slack's signature, valid for 5 minutes"],
    "docs/submit-and-watch.md": ["gives up after 30 s, such as Heroku's"],
    "docs/slack.md": [
        "within the last 5 minutes",
        "0.4 to 0.7 s in the median and 1.6 s at worst",
        "all shown within 45 s, one in 1.1 s",
    ],
}
ROWS = [(page, phrase, value) for page, rows in FROM_THE_CODE.items() for phrase, value in rows.items()]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/deploy").glob("*.md")))
PAGES = [str(file.relative_to(ROOT)) for file in FILES]
# History, platforms, measurements; what is made of the files as a whole.
FULL_OF_OTHERS = {
    "docs/changelog.md",
    "docs/deploy/database.md",
    "docs/deploy/heroku.md",
    "docs/deploy/monitoring.md",
    "docs/deploy/sizing.md",
    "docs/performance.md",
    "docs/providers.md",
    "docs/reference.md",  # made of the code
}


def text_of(page: str) -> str:
    """Return a page with one blank for each run of blanks and line ends."""
    return " ".join((ROOT / page).read_text("utf-8").split())


def occurrences(page: str, phrase: str) -> Iterator[re.Match[str]]:
    """Return where a phrase stands on a page, with its numbers as groups."""
    return re.finditer(re.escape(phrase).replace(r"\{\}", f"({NUMBER}{UNIT}?)"), text_of(page))


def plain(quantity: str) -> float:
    """Return a quantity in seconds, bytes, counts or parts of 1: 900 for `15 minutes`."""
    number, _, unit = quantity.replace(",", "").partition(" ")
    return float(number) * UNITS.get(unit, 1)


@pytest.mark.parametrize(("page", "phrase", "value"), ROWS, ids=[f"{page}: {phrase}" for page, phrase, _ in ROWS])
def test_a_number_is_that_of_the_code(page: str, phrase: str, value: Value) -> None:
    expected = value if isinstance(value, tuple) else (value,)
    on_the_page = [tuple(plain(quantity) for quantity in match.groups()) for match in occurrences(page, phrase)]
    assert on_the_page, f"{page} does not say '{phrase}' any more: change the row with the page"
    assert all(numbers == pytest.approx(expected) for numbers in on_the_page), f"{page}: {phrase}"


@pytest.mark.parametrize("page", sorted({*PAGES} - FULL_OF_OTHERS))
def test_no_number_is_left_out(page: str) -> None:
    phrases = [*FROM_THE_CODE.get(page, ()), *NOT_FROM_THE_CODE.get(page, ())]
    covered = [match.span() for phrase in phrases for match in occurrences(page, phrase)]
    left_out = [
        match[0]
        for match in re.finditer(rf"(?<![\w.,/-]){NUMBER}{UNIT}", text_of(page))
        if not any(begin <= match.start() and match.end() <= end for begin, end in covered)
    ]
    assert not left_out, "compare it in FROM_THE_CODE, or name its phrase in NOT_FROM_THE_CODE"
