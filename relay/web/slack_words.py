"""What `/relay …` answers, in Slack's markup; strangers' words in it are escaped and cut."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from relay.channels import slack_text as words
from relay.channels.slack_message import link_to
from relay.store import watches

HELP = (
    "*relay* tells here how tasks end that you would otherwise have to poll for.\n"
    "`/relay watch ID`  watches a task, with a message in this channel that lives with it\n"
    "`/relay status ID`  how a task stands, by its id or that of its watch\n"
    "`/relay list`  what is being watched\n"
    "`/relay help`  this"
)

MARKS = {
    "watching": ":hourglass_flowing_sand:",
    "completed": ":white_check_mark:",
    "failed": ":x:",
    "expired": ":hourglass:",
    "lost": ":grey_question:",
    "cancelled": ":black_square_for_stop:",
}


def not_allowed(team: str, user: str) -> str:
    """What somebody reads who may not act for any app, and what would change that."""
    team, user = words.escaped(team[:30]), words.escaped(user[:30])
    return (
        ":no_entry: You may not act for any app of this relay. Whoever runs it can allow it: "
        f"`RELAY_SLACK_TEAMS={team}=APP` for this workspace, `{team}/{user}=APP` for you alone."
    )


def watching(registered: watches.Registered, base_url: str) -> str:
    """What came of `/relay watch`."""
    if registered.watch.row.ended_at is not None:
        return f"That task has ended already; a message here tells how.\n{_line(registered.watch, base_url)}"
    new = "Watching." if registered.created else "That task is watched already; this channel is told too."
    where = "A message here lives with it; if none appears, type `/invite @relay` first."
    return f"{new} {where}\n{_line(registered.watch, base_url)}"


def listed(found: Sequence[watches.Found], more: bool, base_url: str) -> str:
    """What is being watched, newest first."""
    if not found:
        return "Nothing is being watched. `/relay watch ID` begins."
    lines = [_line(one, base_url) for one in found]
    return "\n".join([*lines, *(["… and more"] if more else [])])


def status_of(found: Sequence[watches.Found], base_url: str) -> str:
    """How some watches stand."""
    return "\n".join(_line(one, base_url) + _detail(one) for one in found)


def _line(found: watches.Found, base_url: str) -> str:
    row = found.row
    page = link_to(row.id, base_url)
    percent = f", {row.progress:.0%}" if row.progress is not None and row.ended_at is None else ""
    link = f"  <{words.escaped(page)}|Open in relay>" if page else f"  {row.id}"
    task = words.code(words.shown(row.task_id, 100))
    return f"{MARKS.get(row.state, ':question:')} {task}  {row.state}{percent}{link}"


def _detail(found: watches.Found) -> str:
    result = orjson.loads(found.row.result) if found.row.result else {}
    error = orjson.loads(found.row.error) if found.row.error else {}
    url = words.link(result.get("url"))
    if url and len(url) < 2000:
        return f"\n<{words.escaped(url)}|Open the result>"
    why = words.shown(error.get("message"), 200)
    return f"\n{words.escaped(why)}" if why else ""
