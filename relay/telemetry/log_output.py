"""The way of the log to standard output, which never waits for its reader.

A terminal with Ctrl-S, a log driver whose server is away, or a pager reads nothing for a while. A pipe is full then
after 64 KiB, and a process that waits for it stands still with all its work. So a thread writes. Lines that it cannot
write in time are dropped and counted. While the reader reads, every line arrives, in order, up to the last one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Sequence
from typing import TextIO

MOST = 4 * 2**20
"""Bytes of lines that may wait for the reader."""

CHUNK = 4096
"""Bytes of one write: small, so that a slow reader shows progress."""

PATIENCE = 2.0
"""Seconds without progress after which `flush`, and so the end of the process, stops waiting for the reader."""


class LogOutput(logging.Handler):
    """A handler of `logging` that queues lines for a thread of its own.

    Args:
        stream: where the lines go; past its buffer, if it has a file descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):
            self._descriptor = stream.fileno()
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, with those of the line that is being written
        self._progress = 0  # grows with each write, for `flush`
        self._dropped = 0  # lines since the last notice
        self._full = False
        self._torn = False  # the last line was written in part
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop it if too much waits already."""
        try:
            line = f"{self.format(record)}\n".encode(self._encoding, "replace")
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            # Once the queue is full, every line is dropped until it is empty: one gap, not hundreds.
            self._full = self._full or self._waiting + len(line) > MOST
            if self._full:
                self._drop(1)
                return
            idle = not self._lines
            self._lines.append(line)
            self._waiting += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            if idle:  # else it takes this line with the others
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, for as long as the reader reads."""
        with self._changed:
            seen = None
            while self._waiting and self._progress != seen:
                seen = self._progress
                self._changed.wait(PATIENCE)

    def _drop(self, lines: int) -> None:
        from relay.telemetry import metrics  # which short commands do not need

        self._dropped += lines
        metrics.LOG_LINES_DROPPED.inc(lines)

    def _run(self) -> None:
        while True:
            lines = self._next()
            self._settle(lines, written=self._write(b"".join(lines)))

    def _next(self) -> list[bytes]:
        """Wait for lines, and return as many as go into one write."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines)
            lines = [self._lines.popleft()]
            size = len(lines[0])
            while self._lines and (size := size + len(self._lines[0])) <= CHUNK:
                lines.append(self._lines.popleft())
            return lines

    def _settle(self, lines: Sequence[bytes], *, written: bool) -> None:
        """Forget lines that waited. If the reader is back, queue one line that says how many it missed."""
        with self._changed:
            self._progress += 1
            self._waiting -= sum(map(len, lines))
            if not written:
                self._drop(len(lines))
            if not self._lines:
                self._full = False
                if written and self._dropped:
                    # Not through `logging`, whose lock the end of the process holds while it waits for the last line.
                    self.emit(_notice(self._dropped))
                    self._dropped = 0
            self._changed.notify_all()

    def _write(self, line: bytes) -> bool:
        """Write lines, however long the reader takes; return False where there is no reader, or no room."""
        rest = line = b"\n" + line if self._torn else line
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
                with self._changed:
                    self._progress += 1
                    self._changed.notify_all()
        except (OSError, ValueError):  # a closed pipe, a full disk; a closed stream
            self._torn = self._torn or len(rest) < len(line)
            return False
        self._torn = False
        return True

    def _write_some(self, data: bytes) -> int:
        if self._descriptor is None:
            self._stream.write(data.decode(self._encoding))
            self._stream.flush()
            return len(data)
        try:
            return os.write(self._descriptor, data[:CHUNK])
        except BlockingIOError:  # another program has set the pipe so
            select.select([], [self._descriptor], [])
            return 0


def _notice(lines: int) -> logging.LogRecord:
    text = f"{lines} lines of the log were dropped: nothing read them"
    level = logging.WARNING
    return logging.makeLogRecord({"msg": text, "levelno": level, "levelname": logging.getLevelName(level)})
