"""The query endpoint, mirrored (contract §5): a program that polls an upstream today can poll relay instead.

A watched task is answered with what relay already knows, byte for byte as the upstream said it. Any other id is asked
for through the rate budget, and those who ask for the same one at the same time share one call.
"""

from __future__ import annotations

import asyncio
import time

import httpx
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from relay.errors import ConfigError, TooManyRequests, UpstreamUnavailable
from relay.model import Kind, Reading
from relay.outbound import failure_class
from relay.poller import key_owner
from relay.provider import Provider
from relay.reading import Answer
from relay.store import apps, polling
from relay.web.context import Context
from relay.web.params import invalid
from relay.web.schemas import TaskId

TASK_ID = TypeAdapter[str](TaskId)

Asked = tuple[str, str | None, str]
"""Provider, key and task id."""

UNTRUSTED = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
"""Headers of an answer that may be anybody's page, for the case that a browser shows it."""

PASSED_ON = ("content-type", "retry-after")
"""Headers of the upstream that reach the caller."""


class Mirror:
    """The upstreams' answers.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._under_way: dict[Asked, asyncio.Task[Answer]] = {}

    async def query(self, request: Request, app: apps.App) -> Response:
        """`GET /v1/video/query?id=`"""
        context, task_id = self._context, _task_id(request)
        name, key, headers = context.settings.provider, None, {}
        known = await context.db.read(polling.last_answer, app.id, task_id, name)
        if known is not None:
            headers["Relay-Watch"] = known.watch_id
            if known.body is not None and known.holds:
                age = max(0, context.clock() - known.at) // 1000
                headers["Age"] = str(age)
                return Response(known.body, known.status, headers, media_type="application/json")
            name = known.provider
            if known.upstream_key is not None:
                owner = key_owner(app.id, name, task_id)
                key = context.vault.open(known.upstream_key, owner).decode()
        provider = context.providers.get(name)
        if provider is None or not provider.configured:
            remedy = provider.remedy if provider else "declare it in config/providers"
            raise UpstreamUnavailable(f"'{name}' cannot be asked by this deployment: {remedy}")
        answer = await self._shared(provider, key, task_id)
        if answer.truncated:
            raise UpstreamUnavailable("the upstream's answer is larger than relay passes on")
        headers |= {"Age": "0", "content-type": "application/json"} | UNTRUSTED
        # What is not ASCII has no one meaning in a header, and would not go out.
        headers |= {one: said for one in PASSED_ON if (said := answer.headers.get(one)) and said.isascii()}
        return Response(answer.body, answer.status, headers)

    async def _shared(self, provider: Provider, key: str | None, task_id: str) -> Answer:
        """The answer to one call, whoever else waits for it, too, and whoever of them goes away."""
        asked = (provider.name, key, task_id)
        task = self._under_way.get(asked)
        if task is None:
            task = self._under_way[asked] = asyncio.create_task(self._ask(provider, key, task_id))
            task.add_done_callback(lambda _: self._under_way.pop(asked, None))
        return await asyncio.shield(task)

    async def _ask(self, provider: Provider, key: str | None, task_id: str) -> Answer:
        context, lane = self._context, provider.lane(key)
        if wait := await context.budget.enter(lane, provider.definition.budget):
            raise TooManyRequests(f"{provider.host} is asked as often as it may be", retry_after=wait)
        started, reading = time.monotonic(), Reading(Kind.NOT_ANSWERED)
        try:
            answer = await provider.ask(task_id, key)
            reading = provider.read(answer, context.clock())
        except (httpx.HTTPError, ConfigError) as error:
            what = error.detail if isinstance(error, ConfigError) else failure_class(error)
            raise UpstreamUnavailable(f"no answer from {provider.host}: {what}") from None
        finally:
            done = time.monotonic()
            context.budget.done(lane, done - started, done, refused=reading.limited, retry_after=reading.retry_after)
        return answer


def _task_id(request: Request) -> str:
    """The id that is asked about: one that could be registered, since it becomes part of the upstream's address."""
    try:
        return TASK_ID.validate_python(request.query_params.get("id", ""))
    except ValidationError:
        example = "such as ?id=task_01k6x15vhrff09dkkqjrzwhm60"
        raise invalid("/id", f"must be the id of a task, {example}; no part of it is '.' or '..'") from None
