"""A simulator of Slack on this machine, because neither the demo nor the tests may call the real one.

It refuses what Slack refuses and keeps every message. Tests call it through slack_sdk, make it fail on purpose and look
at the messages; the demo shows them on a page and in the terminal. It knows nothing of relay.
"""

from relay.simulators.slack.faults import Fault
from relay.simulators.slack.limits import Limits
from relay.simulators.slack.people import Ack
from relay.simulators.slack.simulator import RESPONSE_URL, WEBHOOK, Call, SimulatedSlack
from relay.simulators.slack.terminal import render_text
from relay.simulators.slack.workspace import Conversation, PostedMessage, WorkspaceOptions

__all__ = [
    "RESPONSE_URL",
    "WEBHOOK",
    "Ack",
    "Call",
    "Conversation",
    "Fault",
    "Limits",
    "PostedMessage",
    "SimulatedSlack",
    "WorkspaceOptions",
    "render_text",
]
