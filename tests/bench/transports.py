"""Which engine to put behind httpx's interface: polls per second, and CPU per poll, of each candidate.

    python -m tests.bench.transports [--seconds 3] [--concurrency 50 200]

Every candidate asks the same upstream (a subprocess on loopback) for the documented pending answer, a new id each time,
and is compared with a bare aiohttp loop of the same run, because absolute figures move with the machine.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_network

import aiohttp
import httpx
import uvloop

from relay.outbound.bulkheads import Bulkhead
from relay.outbound.connections import Connections
from relay.outbound.connector import Connector, Origin
from relay.outbound.lookups import Lookups
from relay.outbound.reservations import Reservations
from relay.outbound.transport import Transport, tls_context
from relay.security.guard import Guard
from tests.bench import upstream

Poll = Callable[[str], Awaitable[bytes]]
Candidate = Callable[[str, int], AbstractAsyncContextManager[Poll]]

HEADERS = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "authorization": "Bearer 0123456789abcdef",
    "user-agent": "relay/bench",
}
PATH = "/v1/video/query"


@asynccontextmanager
async def bare_aiohttp(origin: str, concurrency: int) -> AsyncIterator[Poll]:
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def poll(task: str) -> bytes:
            async with session.get(f"{origin}{PATH}?id={task}") as answer:
                return await answer.read()

        yield poll


LOOPBACK = Guard([ip_network("127.0.0.0/8")])


def our_transport() -> Transport:
    return Transport(LOOPBACK, timeout=10, max_bytes=65536)


@asynccontextmanager
async def wire_alone(origin: str, concurrency: int) -> AsyncIterator[Poll]:
    url = httpx.URL(origin)
    there = Origin(False, url.host, url.port or 80)
    head = "".join(f"\r\n{name}: {value}" for name, value in {"host": url.netloc.decode(), **HEADERS}.items())
    wire = Connections(Connector(LOOPBACK, tls_context(), Lookups("bench", 4)), Reservations(), Bulkhead())

    async def poll(task: str) -> bytes:
        request = f"GET {PATH}?id={task} HTTP/1.1{head}\r\n\r\n".encode()
        return (await wire.exchange(there, request, 65536, reuse=True)).body

    yield poll
    wire.close()


@asynccontextmanager
async def transport(origin: str, concurrency: int) -> AsyncIterator[Poll]:
    async with our_transport() as ours:
        prepared = ours.prepare(httpx.Request("GET", origin, headers=HEADERS))

        async def poll(task: str) -> bytes:
            return (await ours.exchange(prepared, f"{PATH}?id={task}".encode())).body

        yield poll


@asynccontextmanager
async def transport_with_url(origin: str, concurrency: int) -> AsyncIterator[Poll]:
    async with our_transport() as ours:

        async def poll(task: str) -> bytes:
            request = httpx.Request("GET", f"{origin}{PATH}?id={task}", headers=HEADERS)
            return (await ours.handle_async_request(request)).content

        yield poll


@asynccontextmanager
async def through_client(
    transport: httpx.AsyncBaseTransport | None, origin: str, concurrency: int
) -> AsyncIterator[Poll]:
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(transport=transport, limits=limits, headers=HEADERS) as client:

        async def poll(task: str) -> bytes:
            return (await client.get(f"{origin}{PATH}?id={task}")).content

        yield poll


def httpx_default(origin: str, concurrency: int) -> AbstractAsyncContextManager[Poll]:
    return through_client(None, origin, concurrency)


def httpx_aiohttp(origin: str, concurrency: int) -> AbstractAsyncContextManager[Poll]:
    from httpx_aiohttp import AiohttpTransport

    return through_client(AiohttpTransport(limits=httpx.Limits(max_connections=concurrency)), origin, concurrency)


@asynccontextmanager
async def pyreqwest_transport(origin: str, concurrency: int) -> AsyncIterator[Poll]:
    from pyreqwest.compatibility.httpx import HttpxTransport

    async with HttpxTransport() as transport:

        async def poll(task: str) -> bytes:
            request = httpx.Request("GET", f"{origin}{PATH}?id={task}", headers=HEADERS)
            return await (await transport.handle_async_request(request)).aread()

        yield poll


@asynccontextmanager
async def pyreqwest_own(origin: str, concurrency: int) -> AsyncIterator[Poll]:
    from pyreqwest.client import ClientBuilder

    async with ClientBuilder().default_headers(HEADERS).build() as client:

        async def poll(task: str) -> bytes:
            answer = await client.get(f"{origin}{PATH}?id={task}").build().send()
            return bytes(await answer.bytes())

        yield poll


CANDIDATES: dict[str, Candidate] = {
    "aiohttp, bare loop": bare_aiohttp,
    "our wire, without httpx's types": wire_alone,
    "our transport, a prepared request": transport,
    "our transport, a URL parsed per poll": transport_with_url,
    "httpx-aiohttp through client.get": httpx_aiohttp,
    "httpx, its own transport": httpx_default,
    "pyreqwest's httpx transport": pyreqwest_transport,
    "pyreqwest, its own API": pyreqwest_own,
}


async def measure(candidate: Candidate, origin: str, concurrency: int, seconds: float) -> tuple[float, float]:
    """Poll for so many seconds; give polls per second and CPU milliseconds per poll."""
    numbers = itertools.count()
    done = 0

    async def worker(poll: Poll, until: float) -> None:
        nonlocal done
        while time.monotonic() < until:
            body = await poll(f"sora-2%3Atask_{next(numbers):026}")
            assert len(body) == len(upstream.BODY)
            done += 1

    async with candidate(origin, concurrency) as poll:
        # Connections and caches first.
        await asyncio.gather(*(poll("warm") for _ in range(concurrency)))
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(worker(poll, began + seconds) for _ in range(concurrency)))
        return done / (time.monotonic() - began), (time.process_time() - cpu) / done * 1000


async def burst(origin: str, size: int) -> tuple[int, float]:
    """Send so many requests at once, from cold; give how many were answered, and the seconds that took."""
    async with transport(origin, size) as poll:
        began = time.monotonic()
        answers = await asyncio.gather(*(poll(f"burst-{n}") for n in range(size)), return_exceptions=True)
        return sum(answer == upstream.BODY for answer in answers), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="per candidate and concurrency")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[50, 200])
    options = parser.parse_args()

    with upstream.running() as port:
        origin = f"http://127.0.0.1:{port}"
        for concurrency in options.concurrency:
            print(f"\n{f'{concurrency} concurrent':36}{'polls/s':>9}{'CPU ms/poll':>13}{'CPU, ratio':>12}")
            bare = 0.0
            for name, candidate in CANDIDATES.items():
                try:
                    rate, cpu = uvloop.run(measure(candidate, origin, concurrency, options.seconds))
                except ImportError as error:
                    print(f"{name:36}skipped: {error}")
                    continue
                bare = bare or cpu
                print(f"{name:36}{rate:9,.0f}{cpu:13.3f}{cpu / bare:12.2f}")
        answered, took = uvloop.run(burst(origin, 1000))
        print(f"\nour transport, 1,000 at once, cold: {answered} answered in {took:.2f} s")


if __name__ == "__main__":
    main()
