"""How the stand-in says no, in one place because the Web API, hooks and block checks all do."""

from typing import Any


class Refusal(Exception):
    """Slack said no: the error's name, the HTTP status, and what the answer carries besides."""

    def __init__(self, error: str, *, status: int = 200, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.details = details
