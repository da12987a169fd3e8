"""A client of relay's own API for the command line. It registers a task and follows it until its event is delivered."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Any, Self

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from relay.errors import ConfigError, RelayError
from relay.security.guard import is_loopback
from relay.settings.sources import from_environment
from relay.settings.types import fits_in_a_header

PAGE = 200
"""Rows that a page of a list may have."""

UNSETTLED = ("pending", "held")
"""What becomes of a target that is still to be notified of the end."""

READ_EVERY = 1.0
"""Seconds between two reads of a watch that is followed."""

MAX_OUTAGE = 120.0
"""Seconds without an answer after which following gives up. A deployment or a restart takes less."""


Rows = list[dict[str, Any]]


class ApiError(RelayError):
    """relay's API refused a request."""

    code = "api_error"


class ApiUnavailable(ApiError):
    """relay's API does not answer at the moment."""

    code = "api_unavailable"


class ApiClient:
    """relay's HTTP API.

    Args:
        url: where relay is.
        key: an app's API key.

    Raises:
        ApiError: this URL, this key or the environment's proxy cannot be used.
    """

    def __init__(self, url: str, key: str) -> None:
        if not fits_in_a_header(key):
            raise ApiError("RELAY_API_KEY: the API key has characters that an HTTP header cannot carry")
        self.key = key
        self._url = url
        # The environment's proxies are for other machines. httpx uses none with a transport that it is given.
        direct = httpx.AsyncHTTPTransport() if _is_this_machine(url) else None
        headers = {"Authorization": f"Bearer {key}"}
        try:
            self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30, transport=direct)
        except (ImportError, ValueError, httpx.InvalidURL):  # whose text may contain the proxy's password
            raise ApiError(
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY: the proxy cannot be used, it must be like http://proxy:3128"
            ) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._client.aclose()

    async def register(self, body: dict[str, Any]) -> dict[str, Any]:
        """Register a watch and return it."""
        return await self._request("POST", "/v1/watches", json=body)

    async def submit(self, path: str, body: bytes, headers: list[tuple[str, str]]) -> httpx.Response:
        """Send a create call, and return the upstream's own answer, or relay's about it."""
        try:
            return await self._client.post(path, content=body, headers=headers, timeout=None)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise ApiUnavailable(
                f"no answer from {self._url}: {why}; 'GET /v1/submissions' says what was sent"
            ) from None

    async def read(self, watch_id: str) -> dict[str, Any]:
        """Return a watch."""
        return await self._request("GET", f"/v1/watches/{watch_id}")

    async def list(self) -> dict[str, Any]:
        """Return the first page of watches, newest first."""
        return await self._request("GET", "/v1/watches")

    async def pages(self, path: str, query: Mapping[str, str | None], limit: int) -> Rows:
        """Return the newest rows of a list, `limit` at most, from as many pages as they take."""
        given = {name: value for name, value in query.items() if value is not None}
        rows: Rows = []
        while True:
            page = await self._request("GET", path, params=given | {"limit": str(min(PAGE, limit - len(rows)))})
            rows += page["data"]
            if page["next_cursor"] is None or len(rows) >= limit:
                return rows
            given["cursor"] = page["next_cursor"]

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request, with a body in JSON if there is one, and return the answer."""
        return await self._request("POST", path, json=body)

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, **options)
        except ValueError as error:  # half a surrogate pair, a number that is none: what a shell lets pass
            raise ApiError(f"this cannot be sent: {error}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            error_class = ApiUnavailable if isinstance(error, httpx.TransportError) else ApiError
            reason = str(error) or type(error).__name__
            raise error_class(
                f"no answer from {self._url}: {reason}; check that relay is running there and that RELAY_URL is right"
            ) from None
        try:
            body = response.json()
        except ValueError:
            body = None
        error_class = ApiUnavailable if response.status_code == 429 or response.is_server_error else ApiError
        if not isinstance(body, dict):
            raise error_class(f"{self._url} does not answer like relay: check RELAY_URL")
        if not response.is_success:
            raise error_class(str(body.get("detail", response.status_code)))
        return body


def client_of_environment() -> ApiClient:
    """Return a client of the relay at RELAY_URL, with the API key in RELAY_API_KEY.

    Raises:
        ConfigError: there is no key.
        ApiError: the URL or the key cannot be used.
    """
    key = from_environment("RELAY_API_KEY", os.environ)
    if not key:
        raise ConfigError("RELAY_API_KEY is not set: set it to the API key that 'relay apps create NAME' prints")
    return ApiClient(os.environ.get("RELAY_URL") or "http://127.0.0.1:8000", key)


def _is_this_machine(url: str) -> bool:
    try:
        return is_loopback(httpx.URL(url).host)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ApiError(f"RELAY_URL: {url!r} is not a valid URL: {error}") from None


async def _read(api: ApiClient, watch_id: str, console: Console) -> dict[str, Any]:
    """Return a watch, and wait through an outage of relay: its watches outlive a deployment or a restart."""
    unavailable_since = None
    while True:
        try:
            watch = await api.read(watch_id)
        except ApiUnavailable as error:
            now = time.monotonic()
            if unavailable_since is None:
                console.print(f"{error.detail} Trying again.", markup=False, soft_wrap=True)
                unavailable_since = now
            elif now - unavailable_since > MAX_OUTAGE:
                raise
            await asyncio.sleep(READ_EVERY)
        else:
            if unavailable_since is not None:
                console.print("relay answers again.", markup=False)
            return watch


async def follow(api: ApiClient, watch_id: str, console: Console) -> bool:
    """Show the progress of a task until its targets are notified; return whether it completed and all of them were.

    On a terminal this is a progress bar, elsewhere a line for each change.
    """
    progress_bar = Progress(
        TextColumn("{task.fields[status]:<24}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    last_line = ""
    with progress_bar:
        bar = progress_bar.add_task("", total=1.0, status="watching")
        while True:
            watch = await _read(api, watch_id, console)
            status = watch["upstream_status"] or watch["state"]
            progress = watch["progress"]
            progress_bar.update(bar, completed=progress or 0.0, status=status)
            line = status if progress is None else f"{status} {progress:.0%}"
            if line != last_line and not console.is_terminal:
                console.print(line, markup=False)
            last_line = line
            if watch["state"] != "watching":
                break
            await asyncio.sleep(READ_EVERY)
    delivered = await _follow_deliveries(api, watch, console)
    console.print(_end(watch), markup=False, soft_wrap=True)
    return delivered and bool(watch["state"] == "completed")


async def _follow_deliveries(api: ApiClient, watch: dict[str, Any], console: Console) -> bool:
    """Show what becomes of each target of a watch that has ended; return whether none is given up."""
    shown = dict[str, str]()
    while True:
        targets = watch.get("targets", [])
        last = {}
        if any(target["delivery"] in UNSETTLED for target in targets):
            rows = await api.pages("/v1/deliveries", {"watch_id": watch["id"]}, len(targets))
            last = {row["target_id"]: _attempts(row) for row in rows}
        for target in targets:
            line = f"{target['delivery']}: {target.get('url') or target.get('channel') or target['type']}"
            line += last.get(target["id"], "")
            if target["delivery"] != "waiting" and shown.get(target["id"]) != line:
                shown[target["id"]] = line
                console.print(line, markup=False, soft_wrap=True)
        if not any(target["delivery"] in UNSETTLED for target in targets):
            return all(target["delivery"] != "dead" for target in targets)
        await asyncio.sleep(READ_EVERY)
        watch = await _read(api, watch["id"], console)


def _attempts(delivery: dict[str, Any]) -> str:
    """Return in words what came of the attempts of a delivery that is under way; nothing before the first one."""
    if not delivery["attempts"]:
        return ""
    last = max(delivery["attempts"], key=lambda attempt: attempt["number"])
    said = f" ({last['status'] or last['error']} at attempt {delivery['attempt_count']}"
    return f"{said}, next at {delivery['next_attempt_at']})" if delivery["next_attempt_at"] else f"{said})"


def _end(watch: dict[str, Any]) -> str:
    """Describe the end of a watch in a line."""
    if watch["state"] == "completed":
        return f"completed: {(watch['result'] or {}).get('url') or 'without a link'}"
    reason = (watch["error"] or {}).get("message", "")
    return f"{watch['state']}: {reason}" if reason else str(watch["state"])
