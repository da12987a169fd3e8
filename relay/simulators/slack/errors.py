"""The error that the Web API, the hooks and the checks of blocks all raise."""

from typing import Any


class SlackError(Exception):
    """Slack refuses a call: the error's name, the HTTP status, and what else the answer carries."""

    def __init__(self, error: str, *, status: int = 200, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.details = details
