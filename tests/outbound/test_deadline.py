"""An answer that has arrived while the process was stopped is read, although its time is over."""

import asyncio
import signal
import sys

import pytest

from relay.outbound.deadline import LAST_LOOK, Deadline
from tests.support.loopback import OK, serving

pytestmark = pytest.mark.anyio

ASK = """
import asyncio, sys
from ipaddress import ip_network
import httpx, uvloop
from relay.outbound.transport import Transport
from relay.security.guard import Guard

async def main():
    async with Transport(Guard([ip_network("127.0.0.0/8")]), timeout=1, max_bytes=1000) as transport:
        try:
            response = await transport.handle_async_request(httpx.Request("GET", sys.argv[1]))
            print(response.content.decode())
        except httpx.TimeoutException as error:
            print(error)

(uvloop.run if sys.argv[2] == "uvloop" else asyncio.run)(main())
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("answered", "printed"), [(True, b"ok\n"), (False, b"no complete answer within 1 s\n")])
async def test_a_process_that_wakes_reads_before_it_gives_up(loop: str, answered: bool, printed: bytes) -> None:
    asked, may_answer, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def in_its_sleep(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        if answered:
            writer.write(OK)
            await writer.drain()
        else:
            await over.wait()

    async with serving(in_its_sleep) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK, server.url(), loop, stdout=asyncio.subprocess.PIPE
        )
        try:
            await asyncio.wait_for(asked.wait(), 30)
            process.send_signal(signal.SIGSTOP)
            may_answer.set()
            await asyncio.sleep(1.2)  # the time in which it would have given up
            process.send_signal(signal.SIGCONT)
            assert (await asyncio.wait_for(process.communicate(), 30))[0] == printed
        finally:
            over.set()
            if process.returncode is None:
                process.kill()


async def test_what_takes_longer_is_cancelled_and_is_a_timeout() -> None:
    awaited = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError), Deadline(0.01):
        await awaited
    assert awaited.cancelled()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_deadline_that_was_met_cancels_nothing_later() -> None:
    with Deadline(0.01):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01 + 2 * LAST_LOOK)


async def test_of_two_deadlines_the_one_that_is_over_raises() -> None:
    with Deadline(30), pytest.raises(TimeoutError), Deadline(0.01):
        await asyncio.Event().wait()
    with pytest.raises(TimeoutError), Deadline(0.01), Deadline(30):
        await asyncio.Event().wait()


async def test_a_caller_that_gives_up_is_no_timeout_though_the_time_is_over_too() -> None:
    async def wait() -> None:
        with Deadline(0.0):
            try:
                await asyncio.Event().wait()
            finally:
                given_up.cancel()

    given_up = asyncio.create_task(wait())
    with pytest.raises(asyncio.CancelledError):
        await given_up
