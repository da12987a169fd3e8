"""The command `relay submit`: send a create call through relay, and follow what it creates."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from relay.cli.common import console, run_async
from relay.errors import ConfigError


def submit(
    file: Annotated[str, typer.Argument(help="The JSON to send, or '-' for standard input.", metavar="FILE|-")],
    provider: Annotated[str | None, typer.Option(help="Which upstream; the configured one by default.")] = None,
    path: Annotated[str, typer.Option(help="The path of the create call at the upstream.")] = "/v1/video/create",
    webhook: Annotated[list[str] | None, typer.Option(help="A URL to notify of the end.", metavar="URL")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Makes the call safe to repeat.", metavar="K")] = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Show progress until the task ends.")] = False,
) -> None:
    """Send a create call through relay, and print the answer.

    Example: relay submit task.json --webhook https://app.example/hooks --idempotency-key order-42 --follow

    Reads RELAY_URL and RELAY_API_KEY.
    """
    from relay.cli.client import ApiClient, ApiError, follow
    from relay.settings.sources import from_environment
    from relay.settings.types import fits_in_a_header

    key = from_environment("RELAY_API_KEY", os.environ)
    if not key:
        raise ConfigError("RELAY_API_KEY is not set: set it to the API key that 'relay apps create NAME' prints")
    if not path.startswith("/"):
        raise typer.BadParameter("--path must begin with '/'")
    if unfit := [value for value in (*(webhook or ()), idempotency_key) if not fits_in_a_header(value)]:
        raise typer.BadParameter(f"{unfit[0]!r} holds characters that no header can carry")
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from None
    headers = [("Content-Type", "application/json"), *(("Relay-Webhook", url) for url in webhook or ())]
    if idempotency_key is not None:
        headers.append(("Idempotency-Key", idempotency_key))
    where = path if provider is None else f"/via/{provider}{path}"

    async def go() -> bool:
        async with ApiClient(os.environ.get("RELAY_URL") or "http://127.0.0.1:8000", key) as api:
            answer = await api.submit(where, body, headers)
            if answer.headers.get("content-type") == "application/problem+json":
                raise ApiError(str(answer.json().get("detail")))
            console.print(answer.text, soft_wrap=True)
            watch_id = answer.headers.get("relay-watch")
            if watch_id is None or not answer.is_success:
                return answer.is_success and not follow_ and "relay-error" not in answer.headers
            console.print(f"watched as {watch_id}")
            return await follow(api, watch_id, console) if follow_ else True

    if not run_async(go()):
        raise typer.Exit(1)
