"""The operations on watches: register one or many, read, follow, list, stop."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from relay.actions import Judgement
from relay.channels.watch_request import WatchRequest
from relay.errors import Invalid, RelayError, TooLarge
from relay.model.task_ids import trimmed
from relay.model.watch import State
from relay.slices import Slices
from relay.store import apps, watches
from relay.web.api import watch_changes
from relay.web.api.answers import BatchItem, BatchOut, WatchOut, WatchPage
from relay.web.api.openapi.spec import (
    LIMITED,
    NO_NUL,
    answer,
    empty_answer,
    errors,
    header,
    headers_of,
    id_of,
    links_to,
    page,
    query,
    ref,
)
from relay.web.api.operations import ApiHandler, Operations
from relay.web.api.parameters import cursor, known, limit, one_of
from relay.web.api.schemas import MAX_BATCH_TARGETS, TARGETS_PER_TOKEN, BatchIn, WatchIn
from relay.web.api.views import callback_url, show_watch
from relay.web.api.watch_changes import MAX_WAIT
from relay.web.bodies import MAX_BATCH_BODY, MAX_BODY, JsonResponse, decoded, parse, read_json, read_undecoded
from relay.web.context import Context
from relay.web.errors import problem
from relay.web.rate_limit import charge
from relay.web.request_id import request_id_of

operations: Operations[ApiHandler] = Operations("Watches")

ITEM_TOO_LARGE = TooLarge(f"a registration may have {MAX_BODY} bytes, in a batch too")


@operations.add(
    "POST /v1/watches",
    "Watch a task",
    "Registers a task and where to tell its end. A 2xx is a promise, made after the commit, that every "
    "target will hear it. The same task registered again by the same app is the same watch: new targets "
    "are added (told at once if the task has already ended), one whose `delivery` is `dead` is open again "
    "(sent again now if the task has ended, under the same `webhook-id`), an `upstream_key` replaces the "
    "one before, and `metadata` and the deadline stay as they are. A watch that was stopped makes room for "
    "a new one.",
    {
        "201": answer("A new watch.", WatchOut, "Location") | links_to("/id", "readWatch", "stopWatch"),
        "200": answer("The watch that was there, with the new targets added.", WatchOut),
    },
    body=ref(WatchIn),
)
async def register_watch(context: Context, request: Request, app: apps.App) -> Response:
    """Register a watch: `POST /v1/watches`."""
    wanted = parse(WatchIn, await read_json(request))
    with context.tracing.span("register", "server", request.headers.get("traceparent")) as span:
        registered = await context.actions.register(app.id, wanted.request(), span.traceparent)
        span.note({"request_id": request_id_of(request), "watch_id": registered.watch.row.id})
    shown = show_watch(registered.watch, registered.targets, callback_url(context, registered.watch))
    if registered.created:
        return JsonResponse(shown, 201, {"Location": f"/v1/watches/{shown['id']}"})
    return JsonResponse(shown)


@operations.add(
    "GET /v1/watches",
    "List watches",
    "The app's watches, newest first. A page is shorter than `limit` where its watches have more than 2,000 targets "
    "together. Lists of one app are read one after the other.",
    {"200": answer("A page.", WatchPage)} | errors(422),
    (
        query("state", "Only in this state.", type="string", enum=[state.value for state in State]),
        query("provider", "Only of this provider.", type="string", pattern=NO_NUL),
        query("task_id", "Only of this task, without the blanks around its id.", type="string", pattern=NO_NUL),
        *page("wch"),
    ),
)
async def list_watches(context: Context, request: Request, app: apps.App) -> Response:
    """List the app's watches: `GET /v1/watches`."""
    given = known(request.query_params, "state", "provider", "task_id", "cursor", "limit")
    most = limit(given)
    task_id = given.get("task_id")
    wanted = watches.WatchFilter(
        one_of(given, "state", State), given.get("provider"), None if task_id is None else trimmed(task_id)
    )
    async with context.lists.one_at_a_time(app.id):
        newest, more = await context.db.read(watches.page, app.id, most, cursor(given, "wch"), wanted)
        slices = Slices()
        data = []
        for watch in newest:
            data.append(show_watch(watch, context.targets.show_all(watch), callback_url(context, watch)))
            await slices.turn()
        return JsonResponse(WatchPage(data=data, next_cursor=data[-1]["id"] if more else None))


@operations.add(
    "POST /v1/watches/batch",
    "Watch many tasks",
    "Up to 1,000 registrations, with 10,000 targets in all, in one transaction. Each is judged by itself and "
    "answered in order; good ones are kept although others are refused, such as a watch too many (429). A batch "
    "costs one request of the rate limit per 20 targets, and batches of one app are worked on one after the other.",
    {"200": answer("One item per registration, in order.", BatchOut)},
    body=ref(BatchIn),
)
async def register_watches(context: Context, request: Request, app: apps.App) -> Response:
    """Register many watches: `POST /v1/watches/batch`."""
    body = await read_undecoded(request, MAX_BATCH_BODY)
    async with context.batches.one_at_a_time(app.id, len(body)):
        # In a thread: 16 MiB of small objects would hold the loop for more than a second.
        wanted = parse(BatchIn, await asyncio.to_thread(decoded, body)).watches
        if (targets := sum(map(_targets_of, wanted))) > MAX_BATCH_TARGETS:
            raise TooLarge(f"a batch may have {MAX_BATCH_TARGETS} targets in all; this one has {targets}")
        charge(request, math.ceil(targets / TARGETS_PER_TOKEN))
        slices = Slices()
        items = []
        for item in wanted:
            # No item is larger than a registration by itself: a million fields in one would all be named as wrong.
            items.append(ITEM_TOO_LARGE if len(body) > MAX_BODY and _is_too_large(item) else _parsed(item))
            await slices.turn()
        valid = [item for item in items if isinstance(item, WatchRequest)]
        with context.tracing.span("register", "server", request.headers.get("traceparent")) as span:
            judgements = iter(await context.actions.register_many(app.id, valid, span.traceparent))
            span.note({"request_id": request_id_of(request), "watches": len(valid)})
        data = []
        for outcome in items:
            data.append(_batch_item(context, request, outcome if isinstance(outcome, RelayError) else next(judgements)))
            await slices.turn()
        return JsonResponse(BatchOut(data=data))


def _targets_of(item: Any) -> int:
    """Return how many targets an item of a batch has, whatever it is."""
    targets = item.get("targets") if isinstance(item, dict) else None
    return len(targets) if isinstance(targets, list) else 0


def _is_too_large(item: Any) -> bool:
    try:
        return len(json.dumps(item, ensure_ascii=False)) > MAX_BODY
    except RecursionError:
        return True


def _parsed(item: Any) -> WatchRequest | RelayError:
    try:
        return parse(WatchIn, item, what="the item").request()
    except RelayError as error:
        return error


def _batch_item(context: Context, request: Request, judgement: Judgement) -> BatchItem:
    if isinstance(judgement, RelayError):
        return {"status": judgement.status, "error": problem(judgement, request_id_of(request))}
    shown = show_watch(judgement.watch, judgement.targets, callback_url(context, judgement.watch))
    return {"status": 201 if judgement.created else 200, "watch": shown}


@operations.add(
    "GET /v1/watches/{id}",
    "Read a watch",
    "The watch as it stands; with `Prefer: wait`, as soon as it is no longer what it was. Its `ETag` is "
    "weak: it leaves out `polls`, `last_poll_at`, `next_poll_at` and `estimated_end`.",
    {
        "200": answer("The watch.", WatchOut, "ETag", "Preference-Applied"),
        "304": empty_answer("It still is what `If-None-Match` names.", "ETag", "Preference-Applied"),
    }
    | errors(404),
    (
        id_of("wch"),
        header(
            "Prefer",
            f"`wait=N` holds the answer for up to N seconds (at most {MAX_WAIT}) until the watch is no "
            "longer what `If-None-Match` names, or without that, what it is now.",
        ),
        header("If-None-Match", "The `ETag` of what you have."),
    ),
)
async def read_watch(context: Context, request: Request, app: apps.App) -> Response:
    """Read a watch, at once or when it has changed: `GET /v1/watches/{id}`."""
    return await watch_changes.read(context, request, app.id)


@operations.add(
    "DELETE /v1/watches/{id}",
    "Stop watching",
    "The watch becomes `cancelled` and tells nobody; one that has ended stays as it is.",
    {"204": empty_answer("Stopped.")} | errors(404, 422),
    (
        id_of("wch"),
        query("erase", "Also removes everything stored about the task, undelivered events too.", type="boolean"),
    ),
)
async def stop_watch(context: Context, request: Request, app: apps.App) -> Response:
    """Stop a watch, or erase it: `DELETE /v1/watches/{id}`."""
    watch_id = request.path_params["id"]
    match known(request.query_params, "erase").get("erase", "false"):
        case "true":
            await context.actions.erase(app.id, watch_id)
        case "false":
            await context.actions.stop(app.id, watch_id)
        case _:
            raise Invalid.at("/erase", "must be true or false")
    return Response(status_code=204)


@operations.add(
    "GET /v1/watches/{id}/events",
    "Follow a watch",
    "Server-sent events, each with the watch as its data: `progress` at once and whenever something new "
    "was read, then the end (`task.completed`, `task.failed`, `task.expired`, `task.lost` or "
    "`task.cancelled`), with which the stream closes. A comment comes at once and whenever 15 s pass in "
    "silence; after an hour the stream closes in any case. Who comes back with `Last-Event-ID` hears what "
    "is newer. An app may have 100 streams and waiting answers open at a process (429).",
    {
        "200": {
            "description": "The stream.",
            "headers": headers_of(*LIMITED),
            "content": {"text/event-stream": {"schema": {"description": "`id`, `event`, and the watch as `data`."}}},
        },
        "204": empty_answer("The end was the last event that you heard."),
    }
    | errors(404),
    (id_of("wch"), header("Last-Event-ID", "The `id` of the last event that you heard.")),
)
async def follow_watch(context: Context, request: Request, app: apps.App) -> Response:
    """Stream what happens to a watch: `GET /v1/watches/{id}/events`."""
    return await watch_changes.follow(context, request, app.id)
