"""What `/relay …` and the buttons answer, in Slack's markup. Text that strangers wrote is escaped and cut."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from relay.actions import RegisteredWatch
from relay.channels.slack import text as words
from relay.channels.slack.message import link_to
from relay.errors import FieldError, RelayError, StoreUnavailable
from relay.store.schema import AnyRow
from relay.store.watches import StoredWatch
from relay.web.dashboard.words import why

HELP = (
    "*relay* tells here how tasks end that you would otherwise have to poll for.\n"
    "`/relay watch ID`  watches a task, with a message in this channel that lives with it\n"
    "`/relay watch PROVIDER ID`  the same, where it is not the usual provider's\n"
    "`/relay status ID`  how a task stands, by its id or that of its watch\n"
    "`/relay list`  what is being watched\n"
    "`/relay dead`  what could not be delivered\n"
    "`/relay help`  this"
)
NOTHING_DEAD = "Nothing is dead: every delivery has arrived, or is still being tried."

MARKS = {
    "watching": ":hourglass_flowing_sand:",
    "completed": ":white_check_mark:",
    "failed": ":x:",
    "expired": ":hourglass:",
    "lost": ":grey_question:",
    "cancelled": ":black_square_for_stop:",
}


def not_allowed(team: str, user: str) -> str:
    """Say that a person may not act for any app, and what would change that."""
    team = words.escaped(team[:30])
    user = words.escaped(user[:30])
    return (
        ":no_entry: You may not act for any app of this relay. Its operator can allow it: "
        f"`RELAY_SLACK_TEAMS={team}=APP` for this workspace, `{team}/{user}=APP` for you alone."
    )


def failure(error: RelayError) -> str:
    """Say what went wrong, without where in a request that was: no one here wrote one."""
    if isinstance(error, StoreUnavailable):
        return ":warning: relay's database does not answer; try again in a moment."
    what = "; ".join(_plainly(field) for field in error.errors) or error.detail
    return f":warning: {words.escaped(what)}"


_NAMES = {"task_id": "the id", "provider": "the provider", "channel": "this channel"}


def _plainly(error: FieldError) -> str:
    """Return what is wrong with a part of a request, with the name that people have for that part."""
    name = _NAMES.get(error.pointer.rpartition("/")[2], "")
    return f"{name}: {error.detail}" if name else error.detail


def unknown_command(verb: str) -> str:
    """Say that there is no such command, and which there are."""
    return f":warning: There is no {words.code(words.shown(verb, 40))} here.\n{HELP}"


def already_ended(task_id: str) -> str:
    """Say that there is nothing to stop."""
    return f"{words.code(words.shown(task_id, 100))} has ended already; there is nothing to stop."


def nothing_to_send(task_id: str) -> str:
    """Say that there is nothing to send again."""
    task = words.code(words.shown(task_id, 100))
    return f"Nothing is left to be sent again about {task}: every receiver is notified, or is being notified now."


def dead(newest: Sequence[AnyRow], more: bool, base_url: str) -> str:
    """List deliveries that are dead, newest first."""
    if not newest:
        return NOTHING_DEAD
    lines = [_dead(row, base_url) for row in newest]
    return "\n".join([*lines, *(["… and more"] if more else [])])


def _dead(row: AnyRow, base_url: str) -> str:
    page = link_to(row.watch_id, base_url)
    link = f"<{words.escaped(page)}|Open in relay>" if page else row.id
    reason = words.escaped(words.shown(why(row.reason), 200)) if row.reason else "no reason is known"
    task = words.code(words.shown(row.task_id, 100))
    return f":x: {task}  {row.event_type} to {words.code(row.host)}: {reason}  {link}"


def not_watched(task_id: str) -> str:
    """Say that there is no such task."""
    return f":warning: No task {words.code(words.shown(task_id, 64))} is watched here."


def watching(registered: RegisteredWatch, base_url: str) -> str:
    """Say what came of `/relay watch`."""
    line = _line(registered.watch, base_url)
    if registered.watch.row.ended_at is not None:
        return f"That task has ended already; a message here tells how.\n{line}"
    begin = "Watching." if registered.created else "That task is watched already; this channel is notified too."
    return f"{begin} A message here lives with it; if none appears, type `/invite @relay` first.\n{line}"


def listed(newest: Sequence[StoredWatch], more: bool, base_url: str) -> str:
    """List what is being watched, newest first."""
    if not newest:
        return "Nothing is being watched. `/relay watch ID` begins."
    lines = [_line(watch, base_url) for watch in newest]
    return "\n".join([*lines, *(["… and more"] if more else [])])


def status_of(watches: Sequence[StoredWatch], base_url: str) -> str:
    """Say how some watches stand."""
    return "\n".join(_line(watch, base_url) + _detail(watch) for watch in watches)


def _line(watch: StoredWatch, base_url: str) -> str:
    row = watch.row
    page = link_to(row.id, base_url)
    percent = f", {row.progress:.0%}" if row.progress is not None and row.ended_at is None else ""
    link = f"  <{words.escaped(page)}|Open in relay>" if page else f"  {row.id}"
    task = words.code(words.shown(row.task_id, 100))
    return f"{MARKS.get(row.state, ':question:')} {task}  {row.state}{percent}{link}"


def _detail(watch: StoredWatch) -> str:
    """Return the result of a watch that has ended, or why it failed; nothing if neither is known."""
    result = orjson.loads(watch.row.result) if watch.row.result else {}
    url = words.link(result.get("url"))
    if url and len(url) < 2000:
        return f"\n<{words.escaped(url)}|Open the result>"
    error = orjson.loads(watch.row.error) if watch.row.error else {}
    reason = words.shown(error.get("message"), 200)
    return f"\n{words.escaped(reason)}" if reason else ""
