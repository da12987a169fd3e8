"""The work on one living message: its columns between the claim and the save, and how plain it has to be."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from relay.channels.slack.errors import Refusal
from relay.channels.slack.message import Layout, SlackMessage
from relay.channels.slack.turns import POST_APART, POST_SPACING, later, refusal_of
from relay.model.delivery import Outcome, Verdict
from relay.model.times import Millis
from relay.store.slack_messages import Living
from relay.store.slack_turns import TurnQueue

FROZEN = "frozen"
"""The `shown` of a message that Slack does not let relay edit."""

SAVED = ("channel", "ts", "reply_ts", "posting_at", "ended", "bare", "layout", "shown", "failures", "refused")
"""The columns of `messages` that work on a message changes."""


@dataclass(slots=True)
class Work:
    """A claimed message and what becomes of it: its columns as they are to be saved.

    Attributes:
        name: its channel, as the target has it.
        bare: whether Slack takes it without its picture only.
        layout: how plain it goes next, while Slack refuses its layout.
        refused: why Slack does not take it, if only a person can mend that.
    """

    living: Living
    name: str
    channel: str | None
    ts: str | None
    reply_ts: str | None
    posting_at: Millis | None
    ended: bool
    bare: bool
    layout: int
    shown: str | None
    failures: int
    refused: str | None

    @classmethod
    def on(cls, living: Living, name: str) -> Work:
        """Begin the work on a claim."""
        return cls(living, name, **{column: getattr(living.row, column) for column in SAVED})

    def values(self) -> dict[str, Any]:
        """Return what is to be saved."""
        return {column: getattr(self, column) for column in SAVED}

    @property
    def lane(self) -> TurnQueue:
        """Return the queue of posts to its channel."""
        return TurnQueue(f"posts {self.name.lstrip('#').lower()}", POST_SPACING, apart=POST_APART)

    # Layouts

    @property
    def _next_layout(self) -> Layout:
        return Layout(max(self.layout, Layout.NO_IMAGES if self.bare else Layout.FULL))

    def laid_out(self, content: SlackMessage) -> SlackMessage:
        """Return a message as it goes next."""
        return content.laid_out(self._next_layout)

    def judged(self, content: SlackMessage, outcome: Outcome) -> Outcome:
        """Note how plain the message goes next; return what a call has come to.

        What Slack refused for its layout goes plainer at its next turn. Once Slack takes the message, the next edit has
        the full layout again, without a picture that Slack could not fetch.
        """
        if outcome.verdict is Verdict.DELIVERED:
            self.bare = self.bare or self.layout == Layout.NO_IMAGES
            self.layout = Layout.FULL
        elif refusal_of(outcome) is Refusal.LAYOUT:
            plainer = content.plainer(self._next_layout, outcome.error)
            self.layout = plainer or Layout.FULL
            return outcome if plainer is None else later(0.0)
        return outcome


def digest(content: SlackMessage) -> str:
    """Return what tells a message from another, so that nothing is edited for nothing."""
    return blake2b(orjson.dumps(content.body()), digest_size=12).hexdigest()
