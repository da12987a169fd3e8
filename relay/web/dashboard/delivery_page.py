"""The page of a delivery: what was sent, to the byte, and how to send and verify it by hand."""

from __future__ import annotations

import shlex

from starlette.requests import Request
from starlette.responses import Response

from relay.channels.base import Preview
from relay.errors import Invalid
from relay.store import sent
from relay.store.schema import AnyRow
from relay.store.sent import Sent
from relay.web.dashboard import rendering, words
from relay.web.dashboard.buttons import Buttons, usable_id
from relay.web.dashboard.frame import Frame
from relay.web.dashboard.sessions import Session

INLINE = 32 * 1024
"""Bytes of a body that stand in a command; a longer one is read from its file."""

SHOWN = 64 * 1024
"""Bytes of a body that the page shows; the file has all of them."""

PYTHON = """\
import base64, hashlib, hmac, os, pathlib

body = pathlib.Path("{file}").read_bytes()
key = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
mac = hmac.digest(key, b"{id}.{timestamp}." + body, hashlib.sha256)
expected = "v1," + base64.b64encode(mac).decode()
print("it matches" if expected in "{signature}".split() else "it does not match")
"""

NODE = """\
const { createHmac } = require("node:crypto");

const body = require("node:fs").readFileSync("{file}");
const key = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");
const mac = createHmac("sha256", key).update("{id}.{timestamp}.").update(body).digest("base64");
console.log("{signature}".split(" ").includes("v1," + mac) ? "it matches" : "it does not match");
"""


class SentPages:
    """The page `/deliveries/{id}`, and the body that it offers as a file.

    Args:
        frame: of the pages.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._context = frame.context
        self._buttons = Buttons(frame.context)

    async def page(self, request: Request, session: Session) -> Response:
        """Show a delivery: `GET /deliveries/{id}`, `?attempt=` for another than the last; `POST` to send it again."""
        delivery_id = usable_id(request.path_params["id"])
        form = await self._frame.form(request, session)
        notice = None if form is None else await self._buttons.retry(delivery_id)
        story = await self._context.db.read(sent.read, delivery_id)
        now = self._context.clock()
        attempt = _attempt(request, story)
        as_sent = await self._preview(story, now if attempt is None else attempt.at)
        anew = await self._preview(story, now)
        target = words.stored_target(story.row)
        called = words.title(self._context.targets, target)
        row = story.delivery.row
        return self._frame.page(
            request,
            session,
            "delivery.html",
            notice,
            delivery=story.delivery,
            row=row,
            about=story.row,
            attempt=attempt,
            place=words.place(self._context.targets, target),
            why="" if row.reason is None else words.why(row.reason, words.path_of(called)),
            body=rendering.text(story.row.body, SHOWN),
            size=len(story.row.body),
            sent=as_sent,
            by_hand=None if as_sent is None or anew is None else _by_hand(story, as_sent, anew),
        )

    async def body(self, request: Request, session: Session) -> Response:
        """Answer with the body of the event, to the byte, as a file: `GET /deliveries/{id}/body`."""
        del session
        story = await self._context.db.read(sent.read, usable_id(request.path_params["id"]))
        headers = {
            **rendering.HEADERS,
            "Content-Disposition": f'attachment; filename="{_file(story)}"',
        }
        return Response(story.row.body, headers=headers, media_type="application/json")

    async def _preview(self, story: Sent, at: int) -> Preview | None:
        row = story.delivery.row
        content = self._context.targets.content(words.stored_target(story.row))
        of_event = (row.webhook_id, row.event_type, bytes(story.row.body))
        return await self._context.actions.sender.preview(row.app_id, story.row.type, content, of_event, at)


def _attempt(request: Request, story: Sent) -> AnyRow | None:
    """Return the attempt that is asked for; the last one if none is, and None if there is none yet.

    Raises:
        Invalid: it is none of those that are kept.
    """
    attempts = story.delivery.attempts
    wanted = request.query_params.get("attempt")
    if wanted is None:
        return attempts[-1] if attempts else None
    chosen = next((attempt for attempt in attempts if str(attempt.number) == wanted), None)
    if chosen is None:
        raise Invalid.at("/attempt", "is none of the attempts that are kept")
    return chosen


def _by_hand(story: Sent, as_sent: Preview, anew: Preview) -> dict[str, str]:
    """Return what sends a delivery, and what verifies it, to be copied."""
    fields = {
        "file": _file(story),
        "id": as_sent.headers["webhook-id"],
        "timestamp": as_sent.headers["webhook-timestamp"],
        "signature": as_sent.headers["webhook-signature"],
    }
    return {
        "signed": f"{fields['id']}.{fields['timestamp']}.",
        "curl": _curl(story, anew),
        "python": _filled(PYTHON, fields),
        "node": _filled(NODE, fields),
    }


def _filled(program: str, fields: dict[str, str]) -> str:
    for name, value in fields.items():
        program = program.replace(f"{{{name}}}", value)
    return program


def _curl(story: Sent, preview: Preview) -> str:
    body = bytes(story.row.body)
    headers = [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in preview.headers.items()]
    given = f"@{_file(story)}" if len(body) > INLINE else body.decode()
    return " \\\n  ".join([f"curl {shlex.quote(preview.url)}", *headers, f"--data-binary {shlex.quote(given)}"])


def _file(story: Sent) -> str:
    return f"{story.delivery.row.webhook_id}.json"
