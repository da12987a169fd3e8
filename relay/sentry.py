"""Crashes for whoever runs Sentry: whatever the log shows with a traceback, and nothing else.

On where SENTRY_DSN is set. It goes by the log, so that the one who writes a line need not think of it. What is sent is
where it happened and the ids by which the log has the rest: no request, no body, no words, no variables, no machine.
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

IDS = ("request_id", "watch_id", "delivery_id", "claim", "job", "path")
"""Of what a line of the log says, that which is told along."""

FLUSH = 2.0
"""Seconds that a process which ends waits for what has not been sent."""


class _Teller(logging.Handler):
    """Tells Sentry what is logged with an exception."""

    def __init__(self, client: Client) -> None:
        super().__init__(logging.ERROR)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        """What structlog was given is the record's message; others give the exception beside theirs."""
        said: dict[str, Any] = record.msg if isinstance(record.msg, dict) else {"event": str(record.msg)}
        found = said.get("exc_info") or record.exc_info
        if found is True:
            found = sys.exc_info()
        error = found[1] if isinstance(found, tuple) else found
        if isinstance(error, BaseException):
            self.tell(error, said, record.name)

    def tell(self, error: BaseException, said: Mapping[str, Any], logger: str) -> None:
        """Tells of one crash, with the ids of what was said of it."""
        from sentry_sdk.utils import event_from_exception

        event, hint = event_from_exception(error, client_options=self._client.options)
        event["level"], event["logger"] = "error", logger
        event["transaction"] = str(said.get("event", ""))
        event["tags"] = {name: str(said[name]) for name in IDS if said.get(name)}
        self._client.capture_event(event, hint)


def _scrubbed(event: Any, _hint: Any) -> Any:
    """Without what the SDK adds of its own accord, and without the words of exceptions, which repeat what was sent."""
    for error in event["exception"]["values"]:
        error.pop("value", None)
    for name in ("server_name", "user", "request", "breadcrumbs", "extra", "modules", "contexts"):
        event.pop(name, None)
    return event


@contextlib.contextmanager
def telling(dsn: str | None) -> Iterator[None]:
    """Tells Sentry of crashes while inside; nothing at all without a DSN.

    Raises:
        ConfigError: the extra is not installed, or the DSN is none.
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
        raise ConfigError("SENTRY_DSN: must be like https://key@sentry.example/1, not (a secret, not shown)") from None
    teller = _Teller(client)
    logging.getLogger().addHandler(teller)
    try:
        yield
    except RelayError:
        raise
    except Exception as error:
        teller.tell(error, {"event": "the process broke"}, __name__)
        raise
    finally:
        logging.getLogger().removeHandler(teller)
        client.close(timeout=FLUSH)
