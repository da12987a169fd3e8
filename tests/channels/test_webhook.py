"""The request that carries an event, byte by byte; what becomes of it is in tests/web and tests/flow."""

from ipaddress import ip_network

import pytest

from relay import __version__
from relay.channels.base import Message
from relay.channels.webhook import WebhookChannel
from relay.guard import Guard
from relay.model import Verdict
from relay.outbound import Transport
from tests.support.loopback import OK, serving

pytestmark = pytest.mark.anyio


async def test_no_header_of_a_target_stands_beside_one_of_relays() -> None:
    static = {"X-Shop": "1", "User-Agent": "mine", "Traceparent": "mine", "Content-Type": "text/plain"}
    async with (
        serving(OK) as server,
        Transport(Guard([ip_network("127.0.0.0/8")]), timeout=5, max_bytes=100) as transport,
    ):
        address = {"url": server.url("/hook"), "headers": static}
        secrets = ["whsec_" + "A" * 32]
        message = Message("evt_1", "task.completed", b"{}", address, secrets, 1, traceparent="00-theirs")
        outcome = await WebhookChannel(transport, transport).send(message)
    assert outcome.verdict is Verdict.DELIVERED
    head, _, body = server.heard[0].partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert len(names) == len(set(names))
    assert body == b"{}"
    for line in (
        b"x-shop: 1",
        b"user-agent: relay/" + __version__.encode(),
        b"traceparent: 00-theirs",
        b"content-type: application/json",
    ):
        assert line in head.lower()
