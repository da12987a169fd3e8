"""Logs: one line per thing that matters, to standard output, as text or JSON, without secrets."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import structlog

MAX_LINE = 10_000
"""Bytes of a line; platforms cut longer ones in the middle."""


def set_up(level: str, form: str) -> None:
    """Sends all logging of the process through structlog.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: `text` or `json`.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        renderers += [structlog.processors.format_exc_info, _json_line]
    else:
        # The plain traceback: the pretty one prints local variables, secrets included.
        plain = structlog.dev.plain_traceback
        renderers += [_one_line, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=plain)]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Cut(foreign_pre_chain=shared, processors=renderers))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # These say more than one wants to know, or whole URLs with the secrets in them.
    for chatty in ("httpx", "httpcore", "aiohttp", "apscheduler", "slack_sdk", "asyncio", "alembic", "tzlocal"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each broken request, as many as strangers like
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _one_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Without line breaks and control characters: what a caller sends must not look like another line of the log."""
    return {name: _printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _json_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    """One object; where it would be too long, the middle of its long texts is left out."""
    line = ""
    for most in (MAX_LINE, 3000, 1000, 100):
        line = json.dumps({name: _short(value, most) for name, value in event.items()}, default=repr)
        if len(line) <= MAX_LINE:
            break
    return line


def _short(value: object, most: int) -> object:
    """The beginning and, because the last line of a traceback says most, twice as much of the end."""
    if not isinstance(value, str) or len(value) <= most:
        return value
    return f"{value[: most // 3]} … {value[-most * 2 // 3 :]}"


class _Cut(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        encoded = line.encode("utf-8", "replace")
        return line if len(encoded) <= MAX_LINE else encoded[: MAX_LINE - 3].decode("utf-8", "ignore") + "…"
