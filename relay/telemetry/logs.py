"""Logs: one line per event that matters, to standard output, as text or JSON, without secrets."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from relay.telemetry.log_output import LogOutput

MAX_LINE = 10_000
"""The most bytes of a line; platforms cut longer ones in the middle."""


def set_up(level: str, form: str) -> None:
    """Send all logging of the process through structlog.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `text` or `json`.
    """
    handler = LogOutput(sys.stdout)
    if form == "json":
        handler.setFormatter(_Lines(_json_line))
    else:
        handler.setFormatter(_Lines(_coloured() if sys.stdout.isatty() else _text_line))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Where in the code a line comes from is not shown. To find that out costs as much as the rest of a line.
    logging._srcfile = None  # as the documentation of `logging` says
    # These log too much, or whole URLs with the secrets in them.
    for chatty in ("httpx", "httpcore", "aiohttp", "apscheduler", "slack_sdk", "asyncio", "alembic", "tzlocal"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each broken request, and anyone can send those
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _as_message],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _as_message(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> tuple[tuple[structlog.typing.EventDict], dict[str, Any]]:
    """Give the event to `logging` as the message of a record, for every handler."""
    return (event,), {}


class _Lines(logging.Formatter):
    """Makes a line of a record, whether its message is an event of structlog's or the text of another library.

    Args:
        render: returns the line of an event, which has `timestamp`, `level` and `event`, and perhaps `exc_info`.
    """

    def __init__(self, render: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, cut to the length that platforms take."""
        event: dict[str, Any] = {"timestamp": _iso(record.created), "level": record.levelname.lower()}
        if isinstance(record.msg, dict):
            event |= record.msg
        else:
            event |= structlog.contextvars.get_contextvars()
            event |= {"event": record.getMessage(), "exc_info": record.exc_info}
        line = self._render(event)
        encoded = line.encode("utf-8", "replace")
        return line if len(encoded) <= MAX_LINE else encoded[: MAX_LINE - 3].decode("utf-8", "ignore") + "…"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _text_line(event: dict[str, Any]) -> str:
    """Return an event as a line of text, and the traceback behind it."""
    timestamp, level, text = event.pop("timestamp"), event.pop("level"), event.pop("event")
    traceback = structlog.processors.format_exc_info(None, "", event).pop("exception", None)
    more = " ".join(f"{name}={_value(event[name])}" for name in sorted(event))
    line = f"{timestamp} [{level:<9}] {_printable(str(text)):<30} {more}".rstrip()
    return line if traceback is None else f"{line}\n{traceback}"


def _value(value: object) -> str:
    return _printable(value if isinstance(value, str) else repr(value))


def _coloured() -> Callable[[dict[str, Any]], str]:
    """Return what makes lines for a person at a terminal."""
    # The plain traceback: the pretty one prints local variables, and so secrets.
    plain = structlog.dev.plain_traceback
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    return lambda event: renderer(None, "", {name: _shown(value) for name, value in event.items()})


def _shown(value: object) -> object:
    return _printable(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    """Escape line breaks and control characters: what a caller sends must not look like another line of the log."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _json_line(event: dict[str, Any]) -> str:
    """Return the event as one JSON object, without the middle of its long texts where it would be too long."""
    line = ""
    shown = structlog.processors.format_exc_info(None, "", event)
    for most in (MAX_LINE, 3000, 1000, 100):
        line = json.dumps({name: _short(value, most) for name, value in shown.items()}, default=repr)
        if len(line) <= MAX_LINE:
            break
    return line


def _short(value: object, most: int) -> object:
    """Return the beginning and twice as much of the end: the last line of a traceback says most."""
    if not isinstance(value, str) or len(value) <= most:
        return value
    return f"{value[: most // 3]} … {value[-most * 2 // 3 :]}"
