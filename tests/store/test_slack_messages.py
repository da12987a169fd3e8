"""Turns at Slack: one after the other whoever asks, ends before replies before the rest, nobody forgotten."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from relay.store import Database, polling, slack_messages
from relay.store.slack_turns import LONGEST_WAIT, Rank, TurnQueue, pause, turn
from tests.support import rows
from tests.support.rows import NOW

LANE = TurnQueue("posts renders", spacing=1000)
AHEAD = TurnQueue("edits", spacing=1000, ahead=3000)


def ask(db: Database, rank: Rank, now: int, *, lane: TurnQueue = LANE, invited: bool = False) -> int:
    return db.run_here(turn, lane, rank, now, invited=invited)


def test_who_comes_too_soon_is_told_when_to_come(db: Database) -> None:
    assert ask(db, Rank.REST, NOW) == 0
    waits = [ask(db, Rank.REST, NOW + 100) for _ in range(3)]
    assert waits[0] == 900
    assert waits[1] >= 1900
    assert waits[2] >= 2900
    for wait in waits:
        assert ask(db, Rank.REST, NOW + 100 + wait, invited=True) == 0


def test_who_was_not_told_does_not_take_the_turn_of_who_was(db: Database) -> None:
    assert ask(db, Rank.REST, NOW) == 0
    wait = ask(db, Rank.REST, NOW + 100)
    assert ask(db, Rank.REST, NOW + 1000) > 0, "another one, who happens to come at that time"
    assert ask(db, Rank.REST, NOW + 100 + wait, invited=True) == 0


def test_ends_go_first_then_replies_then_the_rest(db: Database) -> None:
    assert ask(db, Rank.REST, NOW) == 0
    told = {rank: NOW + ask(db, rank, NOW) for rank in (Rank.REST, Rank.REPLY, Rank.END)}
    order = []
    now, waiting = NOW, dict(told)
    while waiting:
        rank, now = min(waiting.items(), key=lambda item: (item[1], -item[0]))
        if wait := ask(db, rank, now, invited=True):
            waiting[rank] = now + wait
        else:
            order.append(rank)
            del waiting[rank]
    assert order == [Rank.END, Rank.REPLY, Rank.REST]


def test_ends_are_told_times_one_after_the_other_whatever_their_messages_waited_for_before(db: Database) -> None:
    """Two whose posts wait, both told to come, end: were they both taken for invited, they would come at one time."""
    app = rows.app(db)
    for n in range(2):
        rows.watch(db, app, f"task-{n}", replace(rows.target("renders"), type="slack", living=True))
    claims = rows.claim(db)

    def call(now: int, rank: Rank) -> list[int]:
        """What each message is told, and then has kept, as whoever claims it would."""
        waits = []
        for living in db.run_here(rows.claim_of, slack_messages, now, now + 60_000, "me.1", 10):
            wait = db.run_here(slack_messages.posting, living, LANE, rank, now)
            waits.append(wait or 0)
            db.run_here(slack_messages.save, living, {"invited": bool(wait)}, now, now)
        return waits

    assert ask(db, Rank.REST, NOW) == 0
    first, second = call(NOW + 10, Rank.REST)
    assert second >= first + LANE.spacing
    db.run_here(polling.save, [rows.ended(one, NOW + 20) for one in claims])
    first, second = call(NOW + 30, Rank.END)
    assert second >= first + LANE.spacing
    assert ask(db, Rank.END, NOW + 5000, invited=True) == 0
    first, second = call(NOW + 5010, Rank.REPLY)
    assert second >= first + LANE.spacing, "the end was told to come, not the reply"


def test_ends_may_run_ahead_and_are_paid_back(db: Database) -> None:
    granted = 0
    while ask(db, Rank.END, NOW, lane=AHEAD) == 0:
        granted += 1
    assert granted == 4, "one, and three seconds' worth"
    assert ask(db, Rank.REST, NOW + 3000, lane=AHEAD) > 0
    assert ask(db, Rank.REST, NOW + 4300, lane=AHEAD, invited=True) == 0


def test_a_pause_holds_for_everybody_and_is_never_shortened(db: Database) -> None:
    assert ask(db, Rank.END, NOW) == 0
    db.run_here(pause, LANE, NOW + 60_000)
    db.run_here(pause, LANE, NOW + 10_000)
    assert ask(db, Rank.END, NOW + 59_000) > 0
    assert ask(db, Rank.END, NOW + 60_000, invited=True) == 0


def test_nobody_is_told_to_wait_for_long(db: Database) -> None:
    waits = [ask(db, Rank.END, NOW) for _ in range(100)]
    assert max(waits) == LONGEST_WAIT
    assert ask(db, Rank.REST, NOW + 10 * LONGEST_WAIT) == 0, "who never came back is not waited for"


def test_processes_share_turns(db: Database, database_url: str) -> None:
    """Four processes, as far as the database can tell."""
    start = threading.Barrier(4)

    def take(_worker: int) -> int:
        own = Database(database_url)
        start.wait()
        granted = sum(ask(own, Rank.END, NOW + 100 * step) == 0 for step in range(50))
        own.close()
        return granted

    with ThreadPoolExecutor(4) as threads:
        granted = sum(threads.map(take, range(4)))
    assert 1 <= granted <= 5, "five seconds have five turns, whoever takes them"
