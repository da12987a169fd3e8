"""Reports of crashes to Sentry, where SENTRY_DSN is set: each line of the log with a traceback, and nothing else.

The reports come from the log, so code that logs an exception needs no second call. A report contains the stack and the
ids that lead to the rest in the log. It contains no request, no body, no message, no variables and no host name.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from relay import __version__
from relay.errors import ConfigError, RelayError

if TYPE_CHECKING:
    from sentry_sdk import Client

TAGS = ("request_id", "watch_id", "delivery_id", "claim", "job", "path")
"""The keys of a log line that become tags of the report."""

FLUSH_TIMEOUT = 2.0
"""Seconds that an ending process waits for reports that are not sent yet."""


class _CrashReporter(logging.Handler):
    """Reports each exception in the log to Sentry."""

    def __init__(self, client: Client) -> None:
        super().__init__(logging.ERROR)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        """Report the exception of a log record, if it has one.

        structlog puts its whole event into the record's message; other loggers have the exception beside it.
        """
        line: dict[str, Any] = record.msg if isinstance(record.msg, dict) else {"event": str(record.msg)}
        exc_info = line.get("exc_info") or record.exc_info
        if exc_info is True:
            exc_info = sys.exc_info()
        error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
        if isinstance(error, BaseException):
            self.report(error, line, record.name)

    def report(self, error: BaseException, line: Mapping[str, Any], logger: str) -> None:
        """Report one exception with the ids of its log line."""
        from sentry_sdk.utils import event_from_exception

        event, hint = event_from_exception(error, client_options=self._client.options)
        event["level"] = "error"
        event["logger"] = logger
        event["transaction"] = str(line.get("event", ""))
        event["tags"] = {name: str(line[name]) for name in TAGS if line.get(name)}
        self._client.capture_event(event, hint)


def _scrubbed(event: Any, _hint: Any) -> Any:
    """Remove what the SDK adds by itself, and the messages of exceptions, which may repeat what was sent."""
    for error in event["exception"]["values"]:
        error.pop("value", None)
    for name in ("server_name", "user", "request", "breadcrumbs", "extra", "modules", "contexts"):
        event.pop(name, None)
    return event


@contextlib.contextmanager
def reporting_crashes(dsn: str | None) -> Iterator[None]:
    """Report crashes to Sentry while the context lasts. Without a DSN, do nothing.

    Raises:
        ConfigError: sentry_sdk is not installed, or the DSN is not valid.
    """
    if dsn is None:
        yield
        return
    try:
        from sentry_sdk import Client
        from sentry_sdk.utils import BadDsn
    except ImportError:
        raise ConfigError(
            "SENTRY_DSN is set, but its SDK is not installed: pip install 'relay-bridge[sentry]'"
        ) from None
    try:
        client = Client(
            dsn=dsn,
            release=f"relay@{__version__}",
            default_integrations=False,
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            before_send=_scrubbed,
        )
    except BadDsn:
        raise ConfigError("SENTRY_DSN: must be like https://key@sentry.example/1") from None
    reporter = _CrashReporter(client)
    logging.getLogger().addHandler(reporter)
    try:
        yield
    except RelayError:
        raise
    except Exception as error:
        reporter.report(error, {"event": "the process broke"}, __name__)
        raise
    finally:
        logging.getLogger().removeHandler(reporter)
        client.close(timeout=FLUSH_TIMEOUT)
