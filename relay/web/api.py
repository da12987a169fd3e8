"""The API under `/v1` (contract §2): every handler is one sentence about watches, deliveries or targets."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cadence import first_poll
from relay.errors import NotFound, RelayError, TooManyRequests, TooManyWatches
from relay.model import DeliveryState, State, Verdict
from relay.poller import key_owner
from relay.store import apps, replay, watches
from relay.store.group import Group
from relay.web.addresses import Refused
from relay.web.answers import BatchItem, BatchOut, DeliveryPage, ProviderOut, Providers, Retried, TestOut, WatchPage
from relay.web.context import Context
from relay.web.limits import RateLimiter
from relay.web.live import Live
from relay.web.mirror import Mirror
from relay.web.params import cursor, invalid, known, limit, moment, one_of
from relay.web.problems import MAX_BATCH_BODY, JsonResponse, parse, problem, read_json, request_id_of
from relay.web.schemas import BatchIn, RetryIn, TestIn, WatchIn, json_text
from relay.web.views import show_attempt, show_delivery, show_watch

log = structlog.stdlib.get_logger(__name__)

COUNT_EVERY = 10.0
"""Seconds for which the count of an app's watches is believed."""

Handler = Callable[["Api", Request, apps.App], Awaitable[Response]]
Outcome = watches.Registered | RelayError


class Api:
    """The handlers of one deployment."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._live, self._mirror = Live(context), Mirror(context)
        self._under_way: dict[str, tuple[float, int]] = {}
        # Requests that come within a few milliseconds of each other share a commit. A batch has one to itself: together
        # they would hold the database for seconds, and name more ids than one statement may.
        self._registrations: Group[Sequence[watches.Registration], Sequence[Outcome]] = Group(
            self._commit, gather=0.001, most=200
        )
        self._batches: Group[Sequence[watches.Registration], Sequence[Outcome]] = Group(
            self._commit, gather=0.0, most=1
        )

    # Registering

    async def register(self, request: Request, app: apps.App) -> Response:
        """`POST /v1/watches`"""
        wanted = parse(WatchIn, await read_json(request))
        with self._context.tracing.span("register", "server", request.headers.get("traceparent")) as span:
            outcome = await self._add(app, wanted, span.traceparent)
            span.note({"request_id": request_id_of(request), "watch_id": outcome.watch.row.id})
        status, headers = 200, {}
        if outcome.created:
            status, headers = 201, {"Location": f"/v1/watches/{outcome.watch.row.id}"}
        return JsonResponse(show_watch(outcome.watch, self._context.addresses), status, headers)

    async def add(self, app: apps.App, wanted: WatchIn) -> watches.Registered:
        """Registers a task for an app that does not ask over HTTP.

        Raises:
            RelayError: what the API would answer.
        """
        return await self._add(app, wanted, None)

    async def _add(self, app: apps.App, wanted: WatchIn, traceparent: str | None) -> watches.Registered:
        registration = await self._registration(app, wanted, traceparent, await self._no_room(app))
        (outcome,) = await self._registrations.put([registration])
        if isinstance(outcome, RelayError):
            raise outcome
        if outcome.created:
            log.info("registered", watch_id=outcome.watch.row.id, task_id=wanted.task_id)
        return outcome

    async def register_batch(self, request: Request, app: apps.App) -> Response:
        """`POST /v1/watches/batch`"""
        wanted = parse(BatchIn, await read_json(request, MAX_BATCH_BODY)).watches
        with self._context.tracing.span("register", "server", request.headers.get("traceparent")) as span:
            no_room = await self._no_room(app)
            judged = await asyncio.gather(*(self._judged(app, one, span.traceparent, no_room) for one in wanted))
            good = [one for one in judged if isinstance(one, watches.Registration)]
            outcomes = iter(await self._batches.put(good) if good else ())
            span.note({"request_id": request_id_of(request), "watches": len(good)})
        data: list[BatchItem] = []
        for one in judged:
            outcome = one if isinstance(one, RelayError) else next(outcomes)
            if isinstance(outcome, RelayError):
                data.append({"status": outcome.status, "error": problem(outcome, request_id_of(request))})
            else:
                shown = show_watch(outcome.watch, self._context.addresses)
                data.append({"status": 201 if outcome.created else 200, "watch": shown})
        log.info("registered", watches=sum(item["status"] == 201 for item in data))
        return JsonResponse(BatchOut(data=data))

    async def _no_room(self, app: apps.App) -> TooManyWatches | None:
        """The refusal for an app that has as many watches under way as it may; counted anew every few seconds."""
        most, now = self._context.settings.max_watches, time.monotonic()
        counted_at, count = self._under_way.get(app.id, (0.0, 0))
        if now - counted_at > COUNT_EVERY:
            count = await self._context.db.read(watches.under_way, app.id)
            self._under_way[app.id] = (now, count)
        if count < most:
            return None
        return TooManyWatches(f"an app may have {most} watches under way", retry_after=COUNT_EVERY)

    async def _judged(
        self, app: apps.App, item: Any, traceparent: str | None, no_room: TooManyWatches | None
    ) -> watches.Registration | RelayError:
        try:
            return await self._registration(app, parse(WatchIn, item, what="the item"), traceparent, no_room)
        except RelayError as error:
            return error

    async def _registration(
        self, app: apps.App, wanted: WatchIn, traceparent: str | None, no_room: TooManyWatches | None
    ) -> watches.Registration:
        """A request, judged by what this deployment knows and allows."""
        context, settings = self._context, self._context.settings
        name = settings.provider if wanted.provider is None else wanted.provider
        provider = context.providers.get(name)
        if provider is None:
            known = ", ".join(sorted(context.providers))
            raise invalid("/provider", f"'{name}' is not declared here; there is {known}")
        if not provider.configured:
            raise invalid("/provider", f"'{name}' has no address in this deployment: {provider.remedy}")
        longest = int(settings.max_expires_in)
        if wanted.expires_in is not None and wanted.expires_in > longest:
            raise invalid("/expires_in", f"must be at most {longest} seconds")
        for index, target in enumerate(wanted.targets):
            try:
                await context.addresses.check(target)
            except Refused as refused:
                raise invalid(f"/targets/{index}/{refused.field}", str(refused)) from None
        now = context.clock()
        key = wanted.upstream_key
        owner = key_owner(app.id, name, wanted.task_id)
        return watches.Registration(
            app.id,
            name,
            wanted.task_id,
            tuple(context.addresses.seal(app.id, target) for target in wanted.targets),
            json_text(wanted.metadata),
            None if key is None else context.vault.seal(key.encode(), owner),
            first_poll(settings.poll_interval or provider.definition.cadence, now, random.random()),  # noqa: S311
            now + round((wanted.expires_in or settings.expires_in) * 1000),
            traceparent,
            no_room,
        )

    async def _commit(self, groups: Sequence[Sequence[watches.Registration]]) -> Sequence[Sequence[Outcome]]:
        context, now = self._context, self._context.clock()
        wanted = [one for group in groups for one in group]
        registered = await context.db.run(watches.register, wanted, now)
        for one, outcome in zip(wanted, registered, strict=True):
            if isinstance(outcome, watches.Registered) and outcome.created and one.app_id in self._under_way:
                counted_at, count = self._under_way[one.app_id]
                self._under_way[one.app_id] = (counted_at, count + 1)
        outcomes = iter(registered)
        context.due((min(one.first_poll_at for one in wanted) - now) / 1000)
        context.told()
        context.changes.announce([one.watch.row.id for one in registered if isinstance(one, watches.Registered)])
        return [[next(outcomes) for _ in group] for group in groups]

    # Watches

    async def read_watch(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/watches/{id}`"""
        return await self._live.read(request, app)

    async def follow_watch(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/watches/{id}/events`"""
        return await self._live.events(request, app)

    async def list_watches(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/watches`"""
        query = known(request.query_params, "state", "provider", "task_id", "cursor", "limit")
        most = limit(query)
        found = await self._context.db.read(
            watches.newest,
            app.id,
            most + 1,
            cursor(query, "wch"),
            one_of(query, "state", State),
            query.get("provider"),
            query.get("task_id"),
        )
        page, more = found[:most], len(found) > most
        return JsonResponse(
            WatchPage(
                data=[show_watch(one, self._context.addresses) for one in page],
                next_cursor=page[-1].row.id if more else None,
            )
        )

    async def stop_watch(self, request: Request, app: apps.App) -> Response:
        """`DELETE /v1/watches/{id}`"""
        query = known(request.query_params, "erase")
        if query.get("erase", "false") not in ("true", "false"):
            raise invalid("/erase", "must be true or false")
        if query.get("erase") == "true":
            await self._context.db.run(watches.erase, app.id, request.path_params["id"])
        else:
            await self._context.db.run(watches.cancel, app.id, request.path_params["id"], self._context.clock())
        self._context.changes.announce([request.path_params["id"]])
        return Response(status_code=204)

    # Deliveries

    async def read_delivery(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/deliveries/{id}`"""
        return JsonResponse(show_delivery(await self._context.db.read(replay.read, app.id, request.path_params["id"])))

    async def list_deliveries(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/deliveries`"""
        query = known(request.query_params, "state", "watch_id", "cursor", "limit")
        most = limit(query)
        state = one_of(query, "state", [one for one in DeliveryState if one is not DeliveryState.WAITING])
        before = cursor(query, "dlv")
        found = await self._context.db.read(replay.newest, app.id, most + 1, before, state, query.get("watch_id"))
        page, more = found[:most], len(found) > most
        return JsonResponse(
            DeliveryPage(data=[show_delivery(one) for one in page], next_cursor=page[-1].row.id if more else None)
        )

    async def retry_delivery(self, request: Request, app: apps.App) -> Response:
        """`POST /v1/deliveries/{id}/retry`"""
        now = self._context.clock()
        found = await self._context.db.run(replay.retry, app.id, request.path_params["id"], now)
        self._context.told()
        self._context.changes.announce([found.row.watch_id])
        return JsonResponse(show_delivery(found), 202)

    async def retry_deliveries(self, request: Request, app: apps.App) -> Response:
        """`POST /v1/deliveries/retry`"""
        wanted = parse(RetryIn, await read_json(request))
        retried = await self._context.db.run(
            replay.retry_many,
            app.id,
            self._context.clock(),
            DeliveryState(wanted.state),
            moment("/since", wanted.since),
            moment("/until", wanted.until),
            wanted.host,
        )
        self._context.told()
        return JsonResponse(Retried(retried=retried), 202)

    # The rest

    async def mirror(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/video/query?id=`"""
        return await self._mirror.query(request, app)

    async def test_target(self, request: Request, app: apps.App) -> Response:
        """`POST /v1/targets/test`"""
        context = self._context
        body = await read_json(request)
        target = parse(TestIn, {"target": body}, below="/target").target
        try:
            await context.addresses.check(target)
        except Refused as refused:
            raise invalid(f"/{refused.field}", str(refused)) from None
        words = "This is a test event of relay. Its signature is made like that of every other event."
        sealed, parent = context.addresses.seal(app.id, target), request.headers.get("traceparent")
        message_id, attempt = await context.dispatcher.test(app.id, sealed, words, parent)
        delivered = attempt.outcome.verdict is Verdict.DELIVERED
        return JsonResponse(TestOut(webhook_id=message_id, delivered=delivered, attempt=show_attempt(attempt)))

    async def list_providers(self, _request: Request, _app: apps.App) -> Response:
        """`GET /v1/providers`"""
        data = [
            ProviderOut(
                name=provider.name,
                title=provider.definition.title,
                default=provider.name == self._context.settings.provider,
                configured=provider.configured,
                statuses={kind: list(words) for kind, words in provider.definition.statuses},
            )
            for _, provider in sorted(self._context.providers.items())
        ]
        return JsonResponse(Providers(data=data))


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/watches", Api.register),
    ("GET", "/v1/watches", Api.list_watches),
    ("POST", "/v1/watches/batch", Api.register_batch),
    ("GET", "/v1/watches/{id}", Api.read_watch),
    ("DELETE", "/v1/watches/{id}", Api.stop_watch),
    ("GET", "/v1/watches/{id}/events", Api.follow_watch),
    ("GET", "/v1/deliveries", Api.list_deliveries),
    ("POST", "/v1/deliveries/retry", Api.retry_deliveries),
    ("GET", "/v1/deliveries/{id}", Api.read_delivery),
    ("POST", "/v1/deliveries/{id}/retry", Api.retry_delivery),
    ("POST", "/v1/targets/test", Api.test_target),
    ("GET", "/v1/providers", Api.list_providers),
    ("GET", "/v1/video/query", Api.mirror),
)


def routes(context: Context) -> list[Route]:
    """The API's routes, each behind an API key."""
    api, limiter = Api(context), RateLimiter(context.settings.rate_limit)
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in ROUTES:
        by_path.setdefault(path, {})[method] = handler

    def endpoint(handlers: dict[str, Handler]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            app = await context.app_of(request)
            wait, headers = limiter.take(app.id, time.monotonic())
            request.state.headers = headers
            if wait:
                raise TooManyRequests(f"at most {context.settings.rate_limit} requests per second", retry_after=wait)
            if any("\0" in value for value in request.path_params.values()):  # no text of PostgreSQL's holds one
                raise NotFound("no id holds control characters")
            method = "GET" if request.method == "HEAD" else request.method
            return await handlers[method](api, request, app)

        return handle

    return [Route(path, endpoint(handlers), methods=list(handlers)) for path, handlers in by_path.items()]
