"""A local stand-in for Slack, because neither the demo nor the tests may talk to the real one.

It refuses what Slack refuses and forgets nothing: tests point slack_sdk at it, break it on purpose and look at the
messages; the demo shows them on a page and in the terminal. It knows nothing of relay.
"""

from relay.standin.faults import Fault
from relay.standin.limits import Limits
from relay.standin.people import Ack
from relay.standin.slack import RESPONSE_URL, WEBHOOK, Call, Slack, accept_https
from relay.standin.terminal import render_text
from relay.standin.workspace import Channel, Message

__all__ = [
    "RESPONSE_URL",
    "WEBHOOK",
    "Ack",
    "Call",
    "Channel",
    "Fault",
    "Limits",
    "Message",
    "Slack",
    "accept_https",
    "render_text",
]
