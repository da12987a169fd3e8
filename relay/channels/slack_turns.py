"""Calls of Slack that take turns: what Slack limits is shared by all processes, and all of them honour a 429."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relay.channels.slack_api import SlackApi, attempted, outcome_of
from relay.channels.slack_errors import Refusal, meaning
from relay.model import Millis, Outcome, Verdict
from relay.store import Database, messages
from relay.store.messages import Lane, Rank

EDITS = Lane("edits", spacing=1600, ahead=12_000)
"""Edits of the workspace: 37 a minute of the 50 or so that Slack allows; the rest is for ends that come at once."""

LOOKS = Lane("looks", spacing=1500, ahead=12_000)
"""Looks into channels, which Slack limits likewise; one search may take several."""

POST_SPACING: Millis = 1100
"""Milliseconds from the start of one post to a channel to the next, of which Slack allows one a second."""

POST_APART: Millis = 1010
"""Milliseconds from the answer to a post to the next: a post may be long on its way, and the next one faster."""

PAGES = 5
"""Pages of a channel, or of the list of channels, that are looked through."""

NOT_SENT = ("dns", "connect", "tls", "blocked")
"""Failures before anything was sent."""


class SlackTurns:
    """Calls Slack's Web API, in turn.

    Args:
        db: where turns are taken.
        api: how Slack is called.
        clock: milliseconds since the epoch.
    """

    def __init__(self, db: Database, api: SlackApi, clock: Callable[[], Millis]) -> None:
        self._db, self._api, self._clock = db, api, clock

    async def call(self, method: str, body: Mapping[str, Any], lane: Lane) -> tuple[Outcome, Mapping[str, Any]]:
        """Calls Slack; what it limits is left alone by all processes for as long as it says."""
        answer = await attempted(self._api.call(method, {k: v for k, v in body.items() if v is not None}))
        if isinstance(answer, Outcome):
            return answer, {}
        outcome = outcome_of(answer)
        quiet = round((outcome.retry_after or 0.0) * 1000) if outcome.free else lane.apart
        if quiet:
            await self._db.run(messages.pause, lane, self._clock() + quiet)
        return outcome, answer.data

    async def listed(self, name: str) -> str | Outcome | None:
        """Slack's id of a channel, by its name."""
        about = {"types": "public_channel,private_channel", "exclude_archived": "true", "limit": "999"}
        found = await self.search("conversations.list", about, "channels", lambda one: one.get("name") == name)
        return found if found is None or isinstance(found, Outcome) else str(found.get("id"))

    async def search(
        self, method: str, about: Mapping[str, str], key: str, wanted: Callable[[Mapping[str, Any]], bool]
    ) -> Mapping[str, Any] | Outcome | None:
        """The first of a paged list that is wanted; None if there is none, or if we are not allowed to look."""
        cursor = ""
        for _ in range(PAGES):
            if wait := await self._db.run(messages.turn, LOOKS, Rank.END, self._clock(), invited=True):
                return later(wait / 1000)
            outcome, said = await self.call(method, {**about, "cursor": cursor or None}, LOOKS)
            if outcome.verdict is not Verdict.DELIVERED:
                passing = may_have_happened(outcome) or outcome.free or outcome.error in NOT_SENT
                return outcome if passing else None
            listed = said.get(key)
            for one in listed if isinstance(listed, list) else []:
                if isinstance(one, dict) and wanted(one):
                    return one
            after = said.get("response_metadata")
            cursor = str(after.get("next_cursor") or "") if isinstance(after, dict) else ""
            if not cursor:
                return None
        return None


def later(seconds: float) -> Outcome:
    return Outcome(Verdict.RETRY, "turn", retry_after=seconds, free=True, unsent=True)


def refusal_of(outcome: Outcome) -> Refusal | None:
    """What a refusal of Slack's means; None if it refused nothing."""
    return (
        None
        if outcome.status is None or outcome.error is None
        else meaning(outcome.error, outcome.status, hook=False)[0]
    )


def may_have_happened(outcome: Outcome) -> bool:
    """Whether Slack may have done after all what was not confirmed."""
    if outcome.status is None:
        return outcome.error not in NOT_SENT
    return refusal_of(outcome) in (Refusal.AMBIGUOUS, Refusal.UNKNOWN)
