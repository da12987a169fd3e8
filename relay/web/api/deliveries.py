"""The operations on deliveries: read, list, send again one or many."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from relay.model.delivery import DeliveryState
from relay.slices import Slices
from relay.store import apps, deliveries
from relay.web.api.answers import DeliveryOut, DeliveryPage, Retried
from relay.web.api.openapi.spec import NO_NUL, answer, errors, id_of, links_to, page, query, ref
from relay.web.api.operations import ApiHandler, Operations
from relay.web.api.parameters import cursor, known, limit, moment, one_of
from relay.web.api.schemas import RetryIn
from relay.web.api.views import show_delivery
from relay.web.bodies import JsonResponse, parse, read_json
from relay.web.context import Context

operations: Operations[ApiHandler] = Operations("Deliveries")

STATES = [state for state in DeliveryState if state is not DeliveryState.WAITING]
"""States of a delivery that exists: a target that waits for the end has none yet."""


@operations.add(
    "GET /v1/deliveries",
    "List deliveries",
    "The outbox: every event on its way to every target, newest first, with its last 20 attempts, the count of all "
    "(`attempt_count`), and of the answer to each the first 1 KiB. Lists of one app are read one after the other.",
    {"200": answer("A page.", DeliveryPage) | links_to("/data/0/id", "readDelivery", "retryDelivery")} | errors(422),
    (
        query("state", "Only in this state.", type="string", enum=[state.value for state in STATES]),
        query("watch_id", "Only of this watch.", type="string", pattern=NO_NUL),
        *page("dlv"),
    ),
)
async def list_deliveries(context: Context, request: Request, app: apps.App) -> Response:
    """List the app's deliveries: `GET /v1/deliveries`."""
    given = known(request.query_params, "state", "watch_id", "cursor", "limit")
    most = limit(given)
    wanted = (cursor(given, "dlv"), one_of(given, "state", STATES), given.get("watch_id"))
    async with context.lists.one_at_a_time(app.id):
        newest = await context.db.read(deliveries.newest, app.id, most + 1, *wanted)
        slices = Slices()
        data = []
        for delivery in newest[:most]:
            data.append(show_delivery(delivery))
            await slices.turn()
        return JsonResponse(DeliveryPage(data=data, next_cursor=data[-1]["id"] if len(newest) > most else None))


@operations.add(
    "GET /v1/deliveries/{id}",
    "Read a delivery",
    "The delivery with its last 20 attempts and the count of all; of the answer to each, the first 16 KiB.",
    {"200": answer("The delivery.", DeliveryOut)} | errors(404),
    (id_of("dlv"),),
)
async def read_delivery(context: Context, request: Request, app: apps.App) -> Response:
    """Read a delivery: `GET /v1/deliveries/{id}`."""
    return JsonResponse(show_delivery(await context.db.read(deliveries.read, app.id, request.path_params["id"])))


@operations.add(
    "POST /v1/deliveries/{id}/retry",
    "Send again",
    "Sends the delivery again now, with the same `webhook-id` and a fresh schedule.",
    {"202": answer("It is on its way.", DeliveryOut)} | errors(404, 409),
    (id_of("dlv"),),
)
async def retry_delivery(context: Context, request: Request, app: apps.App) -> Response:
    """Send a delivery again: `POST /v1/deliveries/{id}/retry`."""
    return JsonResponse(show_delivery(await context.actions.send_again(app.id, request.path_params["id"])), 202)


@operations.add(
    "POST /v1/deliveries/retry",
    "Send many again",
    "For after a receiver's outage: sends again every delivery in a state, by default the dead ones.",
    {"202": answer("They are on their way.", Retried)},
    body=ref(RetryIn),
)
async def retry_deliveries(context: Context, request: Request, app: apps.App) -> Response:
    """Send many deliveries again: `POST /v1/deliveries/retry`."""
    wanted = parse(RetryIn, await read_json(request))
    selection = deliveries.Selection(
        DeliveryState(wanted.state), moment("/since", wanted.since), moment("/until", wanted.until), wanted.host
    )
    return JsonResponse(Retried(retried=await context.actions.send_many_again(app.id, selection)), 202)
