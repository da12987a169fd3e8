"""A client of relay's own API, for the command line: registers a task and follows it to its end."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from relay.errors import RelayError
from relay.guard import is_loopback
from relay.values import fits_in_a_header

LOOK_EVERY = 1.0

PATIENCE = 120.0
"""Seconds without an answer after which following gives up: longer than a deployment or a restart takes."""


class ApiRefused(RelayError):
    """relay's API did not do what was asked."""

    code = "api_refused"


class ApiAway(ApiRefused):
    """relay's API does not answer at the moment."""

    code = "api_away"


class Api:
    """relay's HTTP API. The environment's proxies are for what is elsewhere, not for this machine.

    Args:
        url: where relay is.
        key: an app's API key.

    Raises:
        ApiRefused: nothing can be asked with this address, this key or the environment's proxies.
    """

    def __init__(self, url: str, key: str) -> None:
        if not fits_in_a_header(key):
            raise ApiRefused("the API key holds characters that no header can carry")
        self.key = key
        self._url = url
        # A transport of one's own is what httpx uses no proxy with; the environment's certificates still count.
        direct = httpx.AsyncHTTPTransport() if _here(url) else None
        headers = {"Authorization": f"Bearer {key}"}
        try:
            self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=30, transport=direct)
        except (ImportError, ValueError, httpx.InvalidURL):  # a text of theirs may hold the proxy's password
            raise ApiRefused(
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY: the proxy cannot be used, it must be like http://proxy:3128"
            ) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._client.aclose()

    async def register(self, body: dict[str, Any]) -> dict[str, Any]:
        """Registers a watch and returns it."""
        return await self._ask("POST", "/v1/watches", json=body)

    async def read(self, watch_id: str) -> dict[str, Any]:
        """One watch."""
        return await self._ask("GET", f"/v1/watches/{watch_id}")

    async def list(self) -> dict[str, Any]:
        """The first page of watches, newest first."""
        return await self._ask("GET", "/v1/watches")

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, **options)
            body = response.json()
        except httpx.TransportError as error:
            raise ApiAway(
                f"no answer from {self._url}: {error}; is relay running there, and RELAY_URL right?"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ApiRefused(
                f"no answer from {self._url}: {error}; is relay running there, and RELAY_URL right?"
            ) from None
        except ValueError:
            body = None
        away = response.status_code == 429 or response.is_server_error
        if not isinstance(body, dict):
            kind = ApiAway if away else ApiRefused
            raise kind(f"{self._url} does not answer like relay: is RELAY_URL right?")
        if not response.is_success:
            raise (ApiAway if away else ApiRefused)(str(body.get("detail", response.status_code)))
        return body


def _here(url: str) -> bool:
    """Whether the address is one of this machine."""
    try:
        return is_loopback(httpx.URL(url).host)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ApiRefused(f"RELAY_URL: {url!r} is no address: {error}") from None


async def _look(api: Api, watch_id: str, console: Console) -> dict[str, Any]:
    """The watch, through outages of relay: a deployment or a restart ends nothing that it watches."""
    since = None
    while True:
        try:
            watch = await api.read(watch_id)
        except ApiAway as error:
            now = time.monotonic()
            if since is None:
                console.print(f"{error.detail} Trying again.", markup=False, soft_wrap=True)
                since = now
            elif now - since > PATIENCE:
                raise
            await asyncio.sleep(LOOK_EVERY)
        else:
            if since is not None:
                console.print("relay answers again.", markup=False)
            return watch


async def follow(api: Api, watch_id: str, console: Console) -> bool:
    """Shows a progress bar until the task ends; True if it completed.

    Without a terminal, a line for each change.
    """
    bar = Progress(
        TextColumn("{task.fields[word]:<24}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    said = ""
    with bar:
        shown = bar.add_task("", total=1.0, word="watching")
        while True:
            watch = await _look(api, watch_id, console)
            word = watch["upstream_status"] or watch["state"]
            progress = watch["progress"]
            bar.update(shown, completed=progress or 0.0, word=word)
            line = word if progress is None else f"{word} {progress:.0%}"
            if line != said and not console.is_terminal:
                console.print(line, markup=False)
            said = line
            if watch["state"] != "watching":
                break
            await asyncio.sleep(LOOK_EVERY)
    if watch["state"] == "completed":
        console.print(
            f"completed: {(watch['result'] or {}).get('url') or 'without a link'}", markup=False, soft_wrap=True
        )
        return True
    reason = (watch["error"] or {}).get("message", "")
    console.print(f"{watch['state']}{': ' if reason else ''}{reason}", markup=False, soft_wrap=True)
    return False
