"""The upstream of the latency benchmark: a task ends at the monotonic time that its id says.

The answer that tells the end says when it was given, so that the receiver of the event can tell how long that took. It
runs in a process of its own, and does no more per request than it must, as `upstream` does.
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import cast

from tests.bench import child

PENDING = (Path(__file__).parent / "pending.json").read_bytes()
COMPLETED = (Path(__file__).parents[1] / "answers/unified-video/bodies/documented-completed.json").read_bytes()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
NOT_YET = HEAD % (len(PENDING), PENDING)
END = COMPLETED[COMPLETED.index(b",") :]
"""The documented answer without its first member, which is the id."""


class Ending(asyncio.Protocol):
    """Answers every request head by the id in its target; requests carry no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for head in heads:
            task_id = head[head.index(b"id=") + 3 : head.index(b" HTTP")]
            now = time.monotonic()
            if now < float(task_id[5:]):
                self.transport.write(NOT_YET)
            else:
                body = b'{"id":"%b","answered_at":%f%b' % (task_id, now, END)
                self.transport.write(HEAD % (len(body), body))


running = partial(child.running, "tests.bench.ending")
"""Runs the upstream in a process of its own for the length of the block, and gives its port on 127.0.0.1."""


if __name__ == "__main__":
    child.main(lambda: child.listening(Ending))
