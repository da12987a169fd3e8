"""The oracle: what clients were promised, what the upstream said, what receivers got, and what relay has stored."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from relay.model.event import TERMINAL_EVENTS
from relay.model.watch import State
from relay.store import invariants
from relay.worker.dispatcher import INTERNAL
from tests.simulation.scenario import SCHEDULE, SECRET, Run
from tests.simulation.world import Post

LEASE = 60.0
KEPT_ATTEMPTS = 20

Row = dict[str, Any]


async def audit(run: Run) -> None:
    """Look now and then whether something has gone back that only goes ahead."""
    ended: dict[str, str] = {}
    counts: defaultdict[str, int] = defaultdict(int)
    for look in itertools.count():
        await asyncio.sleep(3)
        for row in run.rows("SELECT id, state, polls AS count FROM watches"):
            if ended.get(row["id"], row["state"]) != row["state"]:
                run.problems.append(f"{row['id']} was {ended[row['id']]}, and is {row['state']}")
            if row["state"] != State.WATCHING:
                ended[row["id"]] = row["state"]
            _ahead(run, counts, row)
        for row in run.rows("SELECT id, attempts AS count FROM deliveries"):
            _ahead(run, counts, row)
        if look % 5 == 0:  # it costs more than all that relay does meanwhile
            run.problems += [f"in the middle: {found}" for found in run.reader.run_here(invariants.find_violations)]


def _ahead(run: Run, counts: dict[str, int], row: Row) -> None:
    if row["count"] < counts[row["id"]]:
        run.problems.append(f"{row['id']} had a count of {counts[row['id']]}, and has {row['count']}")
    counts[row["id"]] = row["count"]


def judge(run: Run) -> list[str]:
    """Return what is wrong at the end."""
    problems = [f"at the end: {found}" for found in run.reader.run_here(invariants.find_violations)]
    watches = {row["id"]: row for row in run.rows("SELECT * FROM watches")}
    for check in (_watches, _promises, _queries):
        problems += check(run, watches)
    problems += _ends(run, watches)
    return problems + list(_Deliveries(run, watches).problems())


# Watches


def _watches(run: Run, watches: dict[str, Row]) -> Iterator[str]:
    """Compare how each watch has ended with the truth."""
    for _, watch_id in run.book.watches:
        if watch_id not in watches and watch_id not in run.book.erasing:
            yield f"{watch_id} is gone, and nobody has erased it"
    for watch_id in run.book.erased:
        if watch_id in watches:
            yield f"{watch_id} was erased, and is there"
    for watch_id, row in watches.items():
        truth = run.site.world.scripts[row["task_id"]].ending
        state = row["state"]
        if state == State.CANCELLED:
            right = watch_id in run.book.stopping
        elif state == State.EXPIRED:
            right = row["ended_at"] >= row["expires_at"]
        else:
            right = state == truth
        if not right:
            yield f"{watch_id}: the truth about {row['task_id']} is '{truth}', and it is {state}"


def _promises(run: Run, watches: dict[str, Row]) -> Iterator[str]:
    """Look for a target that a client was promised, and that is not there."""
    process = next(process for process in run.site.machines if process.ready)
    assert process.relay is not None
    known: defaultdict[str, set[tuple[str, tuple[str, ...]]]] = defaultdict(set)
    for row in run.rows("SELECT * FROM targets"):
        content = json.loads(process.relay.vault.open(row["address"], row["id"]))
        known[row["watch_id"]].add((content["url"], tuple(row["events"].split(","))))
    for promise in run.book.promises:
        if promise.watch_id in watches and (promise.url, promise.events) not in known[promise.watch_id]:
            yield f"{promise} was accepted, and is not there"


def _ends(run: Run, watches: dict[str, Row]) -> Iterator[str]:
    """Look at the event of each end: there is one, and it says what the upstream said."""
    ends: defaultdict[str, list[Row]] = defaultdict(list)
    for row in run.rows("SELECT * FROM events WHERE type <> 'task.progress'"):
        ends[row["watch_id"]].append(row)
    for watch_id, watch in watches.items():
        wanted = TERMINAL_EVENTS.get(State(watch["state"]))
        types = [row["type"] for row in ends[watch_id]]
        if types != ([wanted] if wanted else []):
            yield f"{watch_id} is {watch['state']}, and has the events {types}"
        for row in ends[watch_id]:
            yield from _body(run, watch, row["type"], json.loads(row["body"]))


def _body(run: Run, watch: Row, kind: str, body: Any) -> Iterator[str]:
    data = body["data"]
    task = watch["task_id"]
    if (body["type"], data["watch_id"], data["task_id"], data["state"]) != (kind, watch["id"], task, watch["state"]):
        yield f"{watch['id']}: its event is of something else: {body}"
    metadata = run.book.metadata.get(watch["id"])
    if metadata is not None and data["metadata"] != json.loads(metadata):
        yield f"{watch['id']}: its event has the metadata {data['metadata']}"
    if watch["state"] == State.COMPLETED and data["result"]["url"] != f"https://cdn.example/{task}.mp4":
        yield f"{watch['id']}: its event has the result {data['result']}"
    if watch["state"] == State.FAILED and data["error"]["message"] != f"no {task}":
        yield f"{watch['id']}: its event has the error {data['error']}"
    if "n" in (data.get("upstream") or {}):
        query = run.site.world.queries[data["upstream"]["n"]]
        said_end = watch["state"] in (State.COMPLETED, State.FAILED)
        if query.task != task or (said_end and query.terminal != watch["state"]):
            yield f"{watch['id']}: its event repeats another answer: {query}"


def _queries(run: Run, watches: dict[str, Row]) -> Iterator[str]:
    """Compare the polls that are counted with the queries that came."""
    of_task = Counter(row["task_id"] for row in watches.values())
    erased_tasks = {promise.task for promise in run.book.promises if promise.watch_id in run.book.erasing}
    for watch_id, row in watches.items():
        queries = run.site.world.by_task[row["task_id"]]
        if row["polls"] > len(queries):
            yield f"{watch_id} counts {row['polls']} polls, and {len(queries)} queries came"
        if not run.calm or of_task[row["task_id"]] > 1 or row["task_id"] in erased_tasks:
            continue
        lost = len(queries) - row["polls"]
        if lost > (row["state"] == State.CANCELLED):
            yield f"{watch_id} counts {row['polls']} polls, and {len(queries)} queries came"
        told = [query for query in queries if query.terminal in (State.COMPLETED, State.FAILED)]
        if told and row["state"] == State.EXPIRED:
            yield f"{watch_id} has expired, and the upstream had said: {told[0]}"


# Deliveries


class _Deliveries:
    """Compares what was recorded of each delivery with what was sent."""

    def __init__(self, run: Run, watches: dict[str, Row]) -> None:
        self._run = run
        self._watches = watches
        self._posts: defaultdict[str, list[Post]] = defaultdict(list)
        for post in run.site.world.posts:
            self._posts[post.webhook_id].append(post)
        self._attempts: defaultdict[str, list[Row]] = defaultdict(list)
        for row in run.rows("SELECT * FROM attempts ORDER BY delivery_id, number"):
            self._attempts[row["delivery_id"]].append(row)
        self._recorded: set[int] = set()
        bodies = run.rows("SELECT d.webhook_id, e.body FROM deliveries d JOIN events e USING (watch_id)"
                          " WHERE e.key = d.event_key")  # fmt: skip
        self._bodies = {row["webhook_id"]: row["body"] for row in bodies}

    def problems(self) -> Iterator[str]:
        """Yield what is wrong."""
        rows = self._run.rows("SELECT d.*, t.events FROM deliveries d JOIN targets t ON t.id = d.target_id")
        for row in rows:
            yield from self._attempts_of(row)
            yield from self._state_of(row)
        stored = {row["webhook_id"]: row for row in rows}
        for webhook_id, posts in self._posts.items():
            yield from self._sent(posts, stored.get(webhook_id))
        yield from self._one_end()

    def _attempts_of(self, row: Row) -> Iterator[str]:
        """Compare the attempts that were recorded with the requests that were made."""
        attempts = self._attempts[row["id"]]
        numbers = [attempt["number"] for attempt in attempts]
        last = row["attempts"]
        if numbers != list(range(last - len(numbers) + 1, last + 1)) or len(numbers) < min(last, KEPT_ATTEMPTS):
            yield f"{row['id']} counts {last} attempts, and has those numbered {numbers}"
        for attempt in attempts:
            if attempt["error"] == INTERNAL.error and not self._run.calm:
                continue  # it was not made: too many processes in a row had died over it
            post = self._post_of(attempt)
            if post is None or post.webhook_id != row["webhook_id"] or post.number in self._recorded:
                yield f"{row['id']}: an attempt was recorded that was not made, or twice: {attempt}"
                continue
            self._recorded.add(post.number)
            outcome = attempt["error"] if attempt["status"] is None else attempt["status"]
            if (post.timestamp, post.outcome) != (attempt["at"] // 1000, outcome):
                yield f"{row['id']}: {attempt} was recorded, but it was {post}"

    def _post_of(self, attempt: Row) -> Post | None:
        mark = re.search(r"#(\d+)", f"{bytes(attempt['answer']).decode()} {attempt['note']}")
        return self._run.site.world.posts[int(mark[1])] if mark else None

    def _state_of(self, row: Row) -> Iterator[str]:
        """Compare the state of a delivery with its attempts and its receiver."""
        attempts = self._attempts[row["id"]]
        verdicts = [attempt["verdict"] for attempt in attempts]
        if row["state"] == "delivered" and (not verdicts or verdicts[-1] != "delivered"):
            yield f"{row['id']} is delivered after {verdicts}"
        if row["state"] == "dead" and row["event_key"] == "end":
            gone = row["reason"] and "410" in row["reason"]
            if not gone and row["counted"] < len(SCHEDULE):
                yield f"{row['id']} is dead after {verdicts}: {row['reason']}"
        if not self._run.calm:
            return
        posts = [post for post in map(self._post_of, attempts) if post is not None]
        for before, after in itertools.pairwise(posts):
            replayed = any(before.at <= at <= after.at for at in self._run.book.replays)
            if before.outcome == 204 and not replayed:
                yield f"{row['id']} was sent again after its success: {after}"
            if not self._run.book.replays and before.url.endswith("-ok") and row["event_key"] == "end":
                pause = after.at - (before.ended_at or after.at)
                if pause < SCHEDULE[posts.index(after)] - 1.0:  # clocks differ a little
                    yield f"{row['id']} was sent again after {pause:.1f} s: {after}"

    def _sent(self, posts: list[Post], row: Row | None) -> Iterator[str]:
        """Look at everything that was sent under one `webhook-id`."""
        right = self._bodies.get(posts[0].webhook_id, posts[0].body)
        for post in posts:
            if post.body != right:
                yield f"another body under one webhook-id: {post}, not {right!r}"
            if not _is_signed(post):
                yield f"not signed: {post}"
            if row is not None and post.number not in self._recorded and not self._explained(post, row):
                yield f"was sent, but not recorded, without a reason: {post}"
        for before, after in itertools.pairwise(posts):
            together = before.ended_at is None or after.at < before.ended_at
            if together and not self._troubled(before):
                yield f"was sent by two at once, without a reason: {before} and {after}"

    def _explained(self, post: Post, row: Row) -> bool:
        """Return whether an attempt may have gone unrecorded: its process lost the claim, or its target had ended."""
        ends_target = post.url.endswith("-gone") and "task.progress" in row["events"]
        return ends_target or self._troubled(post) or len(self._attempts[row["id"]]) >= KEPT_ATTEMPTS

    def _troubled(self, post: Post) -> bool:
        ended = post.at if post.ended_at is None else post.ended_at
        times = [at for at, _ in post.host.troubles]  # type: ignore[attr-defined]
        return any(post.at - LEASE <= at <= ended + LEASE for at in times)

    def _one_end(self) -> Iterator[str]:
        """Look for a watch of which two ends were told, whatever is stored now."""
        ends: defaultdict[str, set[str]] = defaultdict(set)
        for post in self._run.site.world.posts:
            body = json.loads(post.body)
            watch_id = body["data"]["watch_id"]
            if body["type"] != "task.progress":
                ends[watch_id].add(body["type"])
            if post.at > self._run.book.erased.get(watch_id, post.at) + LEASE:
                yield f"was sent long after {watch_id} was erased: {post}"
        for watch_id, types in ends.items():
            state = self._watches.get(watch_id, {}).get("state")
            if len(types) > 1 or state == State.CANCELLED:
                yield f"{watch_id} is {state}, and its end was told as {sorted(types)}"


def _is_signed(post: Post) -> bool:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{post.webhook_id}.{post.timestamp}.".encode() + post.body
    right = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return f"v1,{right}" in post.signature.split()
