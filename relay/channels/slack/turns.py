"""Calls to Slack, in turn: all processes share what Slack limits, and all of them obey a 429."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relay.channels.slack.api import SlackApi, attempted, outcome_of
from relay.channels.slack.errors import Refusal, meaning
from relay.model.delivery import Outcome, Verdict
from relay.model.times import Millis
from relay.store import Database, slack_turns
from relay.store.slack_turns import Rank, TurnQueue

EDITS = TurnQueue("edits", spacing=1600, ahead=12_000)
"""Edits of the workspace: 37 of the 50 or so that Slack allows in a minute. The rest is for ends that come together."""

LOOKS = TurnQueue("looks", spacing=1500, ahead=12_000)
"""Reads of channels, which Slack limits in the same way. One search may take several."""

POST_SPACING: Millis = 1100
"""Milliseconds from the start of one post to a channel to the start of the next. Slack allows one post a second."""

POST_APART: Millis = 1010
"""Milliseconds from the answer to a post to the next post: a slow post must not arrive together with a fast one."""

PAGES = 5
"""Pages of a channel, or of the list of channels, that one search reads."""

NOT_SENT = ("dns", "connect", "tls", "blocked")
"""Failures before anything was sent."""


class SlackTurns:
    """Calls Slack's Web API, in turn.

    Args:
        db: where turns are taken.
        api: calls Slack.
        clock: returns the milliseconds since the epoch.
    """

    def __init__(self, db: Database, api: SlackApi, clock: Callable[[], Millis]) -> None:
        self._db = db
        self._api = api
        self._clock = clock

    async def call(self, method: str, body: Mapping[str, Any], lane: TurnQueue) -> tuple[Outcome, Mapping[str, Any]]:
        """Call Slack. After a 429, all processes pause this lane for as long as Slack says.

        Returns:
            The outcome, and Slack's answer; an empty one if there is none.
        """
        given = {name: value for name, value in body.items() if value is not None}
        answer = await attempted(self._api.call(method, given))
        if isinstance(answer, Outcome):
            return answer, {}
        outcome = outcome_of(answer)
        quiet = round((outcome.retry_after or 0.0) * 1000) if outcome.free else lane.apart
        if quiet:
            await self._db.run(slack_turns.pause, lane, self._clock() + quiet)
        return outcome, answer.data

    async def listed(self, name: str) -> str | Outcome | None:
        """Return Slack's id of a channel, by its name; None, or an outcome, as `search`."""
        about = {"types": "public_channel,private_channel", "exclude_archived": "true", "limit": "999"}
        channel = await self.search("conversations.list", about, "channels", lambda entry: entry.get("name") == name)
        return channel if channel is None or isinstance(channel, Outcome) else str(channel.get("id"))

    async def search(
        self, method: str, about: Mapping[str, str], key: str, wanted: Callable[[Mapping[str, Any]], bool]
    ) -> Mapping[str, Any] | Outcome | None:
        """Return the first wanted entry of a paged list.

        Args:
            about: the arguments of the method.
            key: the field of the answer that holds the list.
            wanted: says whether an entry is the one.

        Returns:
            The entry; None if there is none, or if the token may not read the list; an outcome if a later try may tell.
        """
        cursor = ""
        for _ in range(PAGES):
            if wait := await self._db.run(slack_turns.turn, LOOKS, Rank.END, self._clock(), invited=True):
                return later(wait / 1000)
            outcome, answer = await self.call(method, {**about, "cursor": cursor or None}, LOOKS)
            if outcome.verdict is not Verdict.DELIVERED:
                temporary = may_have_happened(outcome) or outcome.free or outcome.error in NOT_SENT
                return outcome if temporary else None
            entries = answer.get(key)
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict) and wanted(entry):
                    return entry
            page = answer.get("response_metadata")
            cursor = str(page.get("next_cursor") or "") if isinstance(page, dict) else ""
            if not cursor:
                return None
        return None


def later(seconds: float) -> Outcome:
    """Return the outcome of a call that has to wait for its turn."""
    return Outcome(Verdict.RETRY, "turn", retry_after=seconds, free=True, unsent=True)


def refusal_of(outcome: Outcome) -> Refusal | None:
    """Return what a refusal of Slack's means; None if Slack refused nothing."""
    if outcome.status is None or outcome.error is None:
        return None
    refusal, _ = meaning(outcome.error, outcome.status, hook=False)
    return refusal


def may_have_happened(outcome: Outcome) -> bool:
    """Return whether Slack may have done what it did not confirm."""
    if outcome.status is None:
        return outcome.error not in NOT_SENT
    return refusal_of(outcome) in (Refusal.AMBIGUOUS, Refusal.UNKNOWN)
