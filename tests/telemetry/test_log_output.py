"""The log's way out: nothing waits for the reader, what is dropped is counted, and a reader that reads gets it all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.telemetry import log_output, logs, metrics
from relay.telemetry.log_output import LogOutput
from tests.support import parties
from tests.support.deployment import environment
from tests.support.processes import serve

NOTICE = "lines of the log were dropped"


@pytest.fixture
def root() -> logging.Logger:
    """The root logger."""
    return logging.getLogger()


@pytest.fixture
def pipe(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to read from of a pipe that the log is written to."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        logs.set_up("info", "json")
        yield reading
        with contextlib.suppress(OSError):
            os.close(reading)
        logging.getLogger().handlers[0].flush()  # or the thread goes on with a descriptor that is another file's


def dropped() -> float:
    return metrics.REGISTRY.get_sample_value("relay_log_lines_dropped_total") or 0.0


def read_until(reading: int, word: str) -> list[str]:
    """Read lines up to the one with the word."""
    data = b""
    while word.encode() not in data or not data.endswith(b"\n"):
        data += os.read(reading, 65536)
    return data.decode().splitlines()


def numbers(lines: list[str]) -> list[int]:
    """Return the numbers of the lines "line 0 …", "line 1 …"."""
    return [int(json.loads(line)["event"].split()[1]) for line in lines]


def test_a_reader_that_stands_still_delays_nothing_and_what_it_missed_is_counted(pipe: int) -> None:
    before, count = dropped(), 5000
    slowest = 0.0
    for n in range(count):
        started = time.perf_counter()
        logging.info("line %d %s", n, "x" * 2000)
        slowest = max(slowest, time.perf_counter() - started)
    missed = round(dropped() - before)
    assert slowest < 10, "nobody reads, so a line that waits would wait for ever"
    assert missed > 0
    lines = read_until(pipe, NOTICE)
    assert numbers(lines[:-1]) == list(range(count - missed)), "in order, up to the gap"
    assert json.loads(lines[-1])["event"].startswith(f"{missed} lines")
    assert json.loads(lines[-1])["level"] == "warning"
    logging.info("line 1 once more")
    assert numbers(read_until(pipe, "once more")) == [1]
    assert dropped() - before == missed


def test_what_waits_is_bounded(pipe: int) -> None:
    for _ in range(2 * log_output.MOST // 9000):
        logging.info("x" * 9000)
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, LogOutput)
    assert handler._waiting <= log_output.MOST


def test_a_closed_pipe_breaks_nothing(pipe: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = dropped()
    os.close(pipe)
    for n in range(50):
        logging.info("line %d", n)
    logging.getLogger().handlers[0].flush()
    assert dropped() - before == 50
    assert capfd.readouterr() == ("", "")


def test_a_pipe_that_does_not_block_is_waited_for(pipe: int) -> None:
    """As another program that shares it may have set it."""
    os.set_blocking(sys.stdout.fileno(), False)
    for n in range(2000):
        logging.info("line %d %s", n, "x" * 100)
    logging.info("the end")
    assert numbers(read_until(pipe, "the end")[:-1]) == list(range(2000))


def test_a_line_that_a_full_disk_cut_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "log"
    program = PROGRAM.replace("logs.set_up", "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, -1)); logs.set_up", 1)
    program = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{program}{MORE_ROOM}"
    with file.open("wb") as output:
        subprocess.run([sys.executable, "-c", program, "60"], stdout=output, check=True)
    lines = file.read_text().splitlines()
    whole = [line for line in lines if line.endswith("}")]
    assert len(lines) - len(whole) == 1
    assert json.loads(whole[-2])["event"] == "room"
    assert NOTICE in whole[-1]


PROGRAM = """
import logging, sys
from relay.telemetry import logs
logs.set_up("info", "json")
for n in range(int(sys.argv[1])):
    logging.getLogger("x").info("line %d", n)
"""


MORE_ROOM = """
logging.getLogger().handlers[0].flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
logging.getLogger("x").info("room")
"""


@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_a_process_that_ends_has_written_every_line_to_a_reader_that_reads(pause: float) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "3000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        data = b""
        while piece := os.read(process.stdout.fileno(), 4096):
            data += piece
            time.sleep(pause)
    assert numbers(data.decode().splitlines()) == list(range(3000))


def test_a_process_ends_although_nothing_reads() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "3000"], stdout=subprocess.PIPE) as process:
        assert process.wait(log_output.PATIENCE + 20) == 0


@pytest.mark.anyio
async def test_relay_works_while_nothing_reads_its_log(
    upstream: parties.Upstream, receiver: parties.Receiver, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 1024 + b"\n")
    os.set_blocking(writing, True)
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", UNIFIED_VIDEO_BASE_URL=upstream.url, LOG_LEVEL="debug")
    upstream.default = parties.done()
    async with serve(environ, tmp_path, output=writing) as process:
        os.close(writing)
        await process.ready()
        for n in range(20):
            hook = {"type": "webhook", "url": f"{receiver.url}/a"}
            await process.http.post("/v1/watches", json={"task_id": f"task-{n}", "targets": [hook]})
        await receiver.wait_for(20)
        assert (await process.http.get("/healthz")).status_code == 200
        lines = await asyncio.to_thread(read_until, reading, "task-19")
        assert sum("registered" in line for line in lines) == 20
        assert await process.stop() == 0
    os.close(reading)
