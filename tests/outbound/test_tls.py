"""TLS that does not come to be: what the other side says of it reaches people in words, on both event loops."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from relay.outbound.transport import Transport, failure_class
from relay.security.guard import Guard
from tests.support.loopback import certificate

pytestmark = pytest.mark.anyio

LOOPBACK = Guard([ip_network("127.0.0.0/8")])

# https://www.iana.org/assignments/tls-parameters/tls-parameters.xhtml#tls-parameters-6
ALERTS = {
    10: "unexpected message",
    20: "bad record mac",
    22: "record overflow",
    40: "handshake failure",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    47: "illegal parameter",
    48: "unknown ca",
    49: "access denied",
    50: "decode error",
    51: "decrypt error",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    86: "inappropriate fallback",
    109: "missing extension",
    110: "unsupported extension",
    112: "unrecognized name",
    113: "bad certificate status response",
    115: "unknown psk identity",
    116: "certificate required",
    120: "no application protocol",
}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def failure(port: int) -> httpx.TransportError:
    async with Transport(LOOPBACK, timeout=10, max_bytes=1000) as transport:
        with pytest.raises(httpx.TransportError) as caught:
            await transport.handle_async_request(httpx.Request("GET", f"https://localhost:{port}/secret"))
    assert failure_class(caught.value) == "tls"
    assert "secret" not in str(caught.value)
    return caught.value


@asynccontextmanager
async def refusing(alert: int) -> AsyncIterator[int]:
    """A server that answers the first message of a handshake with a fatal alert."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16_000)
        writer.write(bytes([0x15, 3, 3, 0, 2, 2, alert]))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("alert", "words"), ALERTS.items())
async def test_an_alert_in_the_handshake_is_told_in_words(alert: int, words: str) -> None:
    async with refusing(alert) as port:
        error = await failure(port)
    assert str(error) == f"no TLS with localhost:{port}: the server refuses it with the TLS alert '{words}'"


@pytest.mark.parametrize("alert", [121, 200])
async def test_an_alert_without_a_name_is_no_system_error(alert: int) -> None:
    async with refusing(alert) as port:
        error = await failure(port)
    assert str(error) == f"no TLS with localhost:{port}: OpenSSL has no name for the reason"


@contextmanager
def wanting(context: ssl.SSLContext) -> Iterator[int]:
    """A server that makes a handshake, as OpenSSL has it, and waits until the other side has gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                server_side = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with contextlib.suppress(ssl.SSLError):
                    server_side.do_handshake()
                plain = socket.socket(fileno=server_side.detach())
                with plain, contextlib.suppress(OSError):
                    while plain.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (
            ssl.TLSVersion.TLSv1_2,
            "no TLS with localhost:{}: the server refuses it with the TLS alert 'handshake failure'",
        ),
        (ssl.TLSVersion.TLSv1_3, "TLS has ended: the server refuses it with the TLS alert 'certificate required'"),
    ],
)
async def test_a_server_that_wants_a_clients_certificate_says_so(
    version: ssl.TLSVersion, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.load_verify_locations(chain)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    with wanting(context) as port:
        assert str(await failure(port)) == words.format(port)


async def test_a_server_that_speaks_no_tls_is_told_in_words() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as listening:
        error = await failure(listening.sockets[0].getsockname()[1])
    assert "wrong version number" in str(error)
