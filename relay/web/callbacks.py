"""Callbacks of upstreams: they say that there is news of a task, and relay asks. What they say is never believed."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from relay.errors import NotFound, RelayError
from relay.web.api.openapi.spec import errors, json_of
from relay.web.api.operations import Operations, PublicHandler
from relay.web.bodies import JsonResponse, read_body
from relay.web.context import context_of

MAX_CALLBACK = 64 * 1024
"""Bytes of a callback's body that are read."""

operations: Operations[PublicHandler] = Operations("Callbacks", public=True)


_TOKEN = {
    "name": "token",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "examples": ["wch_01K6X15VHRFF09DKKQJRZWHM60.Yk3vZ0u4m1yQ2cW7Jr8d5A"]},
}
_ANSWER = {"type": "object", "properties": {"challenge": {"type": "string"}}}


@operations.add(
    "POST /in/{token}",
    "Say that there is news of a task",
    "For the upstream's own callback: the address is the `callback_url` of a watch. relay asks the upstream at once, "
    "at most once a second per watch; the body is never believed, read up to 64 KiB, and may be anything. A JSON "
    "`challenge` comes back. A watch that has ended is no error.",
    {
        "200": {"description": "relay asks, or the watch has ended.", "content": json_of(_ANSWER)},
        **errors(404, 503),
    },
    (_TOKEN,),
)
async def receive_callback(request: Request) -> Response:
    """Take a callback of an upstream: `POST /in/{token}`."""
    context = context_of(request)
    watch_id = context.callback_tokens.id_of(request.path_params["token"])
    if watch_id is None:
        raise NotFound("no watch has this callback")
    await context.callbacks.came(watch_id)
    return JsonResponse(_echo(await _body(request)))


async def _body(request: Request) -> bytes | bytearray:
    """Return the body, empty if it is too large or does not arrive: it says nothing that counts."""
    try:
        return await read_body(request, MAX_CALLBACK)
    except RelayError:
        return b""


def _echo(body: bytes | bytearray) -> dict[str, Any]:
    """Return the challenge of an upstream that wants to see it, or nothing."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    challenge = said.get("challenge") if isinstance(said, dict) else None
    return {"challenge": challenge} if isinstance(challenge, str | int | float) else {}
