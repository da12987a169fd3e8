"""The request that carries an event, byte by byte; what becomes of it is in tests/web and tests/flow."""

import asyncio
from ipaddress import ip_network

import pytest

from relay import __version__
from relay.channels.base import Message
from relay.channels.webhook import WebhookChannel
from relay.model.delivery import Verdict
from relay.outbound.transport import Transport
from relay.security.guard import Guard
from tests.support.channels import resources
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
        outcome = await WebhookChannel(resources(transport)).send(message)
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


LOOPBACK = Guard([ip_network("127.0.0.0/8")])


def message(url: str, *, again: bool = False, **headers: str) -> Message:
    address = {"url": url, "headers": headers}
    return Message("evt_1", "task.completed", b"{}", address, ["whsec_" + "A" * 32], 1, again=again)


async def test_it_says_which_codings_it_reads_unless_the_target_does() -> None:
    async with serving(OK) as server, Transport(LOOPBACK, timeout=5, max_bytes=100) as transport:
        channel = WebhookChannel(resources(transport))
        await channel.send(message(server.url()))
        assert server.headers["accept-encoding"] == "gzip, deflate"
        await channel.send(message(server.url(), **{"Accept-Encoding": "identity"}))
        assert server.heard[-1].lower().count(b"accept-encoding: ") == 1
        assert server.headers["accept-encoding"] == "identity"


async def test_a_kept_connection_that_ends_costs_no_attempt_and_a_retry_takes_none() -> None:
    used: set[asyncio.StreamWriter] = set()

    async def once(writer: asyncio.StreamWriter) -> None:
        if writer in used:
            raise ConnectionResetError
        used.add(writer)
        writer.write(OK)

    async with serving(once) as server, Transport(LOOPBACK, timeout=5, max_bytes=100) as transport:
        channel = WebhookChannel(resources(transport))
        for _ in range(3):
            assert (await channel.send(message(server.url()))).verdict is Verdict.DELIVERED
        assert (len(server.heard), server.connections) == (5, 3)
        assert len({post.partition(b"webhook-signature")[0] for post in server.heard}) == 1, "the same event"
        assert (await channel.send(message(server.url(), again=True))).verdict is Verdict.DELIVERED
        assert (len(server.heard), server.connections) == (6, 4)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", (Verdict.DELIVERED, None, 200, b"half")),
        (b"HTTP/1.1 204 No\r\nno header\r\n\r\n", (Verdict.DELIVERED, None, 204, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (Verdict.DELIVERED, None, 200, b"")),
        (b"HTTP/1.1 200 OK\r\n", (Verdict.DELIVERED, None, 200, b"")),
        (b"HTTP/1.1 410 Gone\r\nno header\r\n\r\n", (Verdict.GIVE_UP, "http_410", 410, b"")),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nhalf", (Verdict.RETRY, "http_500", 500, b"half")),
        (b"HTTP/1.1 2", (Verdict.RETRY, "disconnected", None, b"")),
        (b"SSH-2.0-OpenSSH_9.6\r\n", (Verdict.RETRY, "protocol", None, b"")),
    ],
)
async def test_a_receiver_has_heard_once_it_has_sent_a_status(
    answer: bytes, outcome: tuple[Verdict, str | None, int | None, bytes]
) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        raise ConnectionError

    async with serving(say) as server, Transport(LOOPBACK, timeout=5, max_bytes=100) as transport:
        got = await WebhookChannel(resources(transport)).send(message(server.url()))
    assert (got.verdict, got.error, got.status, got.answer) == outcome
