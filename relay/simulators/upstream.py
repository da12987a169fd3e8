"""The sandbox: a simulation of the documented upstream.

`GET /v1/video/query?id=sandbox:complete-in-5s` answers like the samples in the upstream's documentation. The id says
how the task behaves (`BEHAVIOURS`). Time counts from the first query of that id, any number of seconds works, and a
`#suffix` makes an id unique. `POST /v1/video/create` makes a task whose `sandbox` says the same, such as
`"sandbox": "complete-in-5s"`. This module imports nothing from relay, because it takes the place of a foreign API.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# The documented samples. The functions below fill in what differs from task to task.
INPUT = json.loads("""{"size": "small", "model": "sy_ore", "images": ["https://sandbox.invalid/cdn/1.png"],
    "prompt": "make animate", "orientation": "portrait"}""")
PENDING_INFO = json.loads("""{
    "id": "", "seed": null, "type": "video_gen", "user": "user-sandbox", "model": "sy_8", "title": "New Video",
    "width": 352, "height": 640, "prompt": "make animate", "sdedit": null, "status": "processing", "actions": null,
    "guidance": null, "n_frames": 450, "priority": 2, "operation": "simple_compose", "preset_id": null,
    "created_at": "", "n_variants": 1, "project_id": null, "request_id": null, "generations": [], "tracking_id": null,
    "progress_pct": 0, "remix_config": null,
    "inpaint_items": [{"type": "image", "preset_id": null, "crop_bounds": null, "frame_index": 0,
        "cameo_file_id": null, "generation_id": null, "upload_media_id": "media_sandbox", "source_end_frame": 0,
        "uploaded_file_id": null, "source_start_frame": 0}],
    "interpolation": null, "is_storyboard": null, "failure_reason": null, "organization_id": null,
    "moderation_result": {"code": null, "type": "passed", "task_id": "", "is_output_rejection": false,
        "results_by_frame_index": {}}, "needs_user_review": false, "queue_status_message": null,
    "progress_pos_in_queue": null, "num_unsafe_generations": 0, "estimated_queue_wait_time": null}""")
DRAFT_INFO = json.loads("""{
    "id": "", "url": "", "kind": "sora_draft", "tags": [], "title": null, "width": 352, "height": 640,
    "prompt": "make animate", "task_id": "", "encodings": {}, "created_at": 0, "generation_id": "",
    "draft_reviewed": false, "creation_config": {"prompt": "make animate", "task_id": null, "n_frames": null,
        "style_id": null, "orientation": null, "inpaint_image": null, "cameo_profiles": null,
        "remix_target_post": null}, "generation_type": "", "downloadable_url": ""}""")


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """A query about one task.

    Attributes:
        id: as the query names the task.
        seconds: the number in the id; 0 without one.
        first: when this id was queried for the first time, in Unix seconds.
        now: when this query came.
        nth: how many queries of this id came before.
    """

    id: str
    seconds: float
    first: float
    now: float
    nth: int

    @property
    def elapsed(self) -> float:
        """Return the seconds since the first query."""
        return max(0.0, self.now - self.first)

    @property
    def ended(self) -> float:
        """Return the time at which the task ends."""
        return self.first + self.seconds

    @property
    def progress(self) -> float:
        """Return a growing share of 1, below 1."""
        return min(self.elapsed / (self.seconds or self.elapsed + 60.0), 0.99)

    @property
    def task(self) -> str:
        """Return the upstream's internal id of the task, the same for each query."""
        return "task_" + hashlib.sha256(self.id.encode(errors="replace")).hexdigest()[:26]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the sandbox answers to a query, `delay` seconds late. A body that is no text is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] | None = None
    delay: float = 0.0


Behaviour = Callable[[TaskQuery], Reply]


def until(before: Behaviour, after: Behaviour) -> Behaviour:
    """Return a behaviour that changes from `before` to `after` when the task ends."""
    return lambda query: before(query) if query.elapsed < query.seconds else after(query)


def always(reply: Reply) -> Behaviour:
    """Return a behaviour that gives the same reply to every query."""
    return lambda _: reply


def refused(status: int, message: str, type: str = "new_api_error", code: str = "", **headers: str) -> Reply:
    """Reply with an error of the gateway in front of the upstream."""
    error = {"message": message, "type": type}
    if code:
        error["code"] = code
    return Reply({"error": error}, status, headers)


def no_such_task(message: str = "task_not_exist") -> Reply:
    """Reply that the id is unknown."""
    return Reply({"code": "task_not_exist", "message": message, "data": None}, 400)


def pending(query: TaskQuery, status: str = "pending", /, **info: Any) -> Reply:
    """Reply that the task is under way. `info` replaces fields of `pending_info`."""
    filled = {"id": query.task, "created_at": _iso(query.first, "microseconds"), "progress_pct": query.progress}
    moderation = PENDING_INFO["moderation_result"] | {"task_id": query.task}
    pending_info = PENDING_INFO | filled | {"moderation_result": moderation} | info
    detail = {"id": query.task, "input": INPUT, "status": status, "pending_info": pending_info}
    return Reply({"id": query.id, "detail": detail, "status": status, "status_update_time": int(query.now * 1000)})


def completed_without_url(query: TaskQuery, **links: Any) -> Reply:
    """Reply that the task has completed. Without `links`, no link stands anywhere."""
    detail = {"id": query.task, "input": INPUT, "status": "completed", **links}
    body = {"id": query.id, "width": 352, "detail": detail, "height": 640, "status": "completed"}
    return Reply(body | {"status_update_time": int(query.ended * 1000)})


def completed(query: TaskQuery) -> Reply:
    """Reply that the task has completed, with links to its results."""
    video = _link(query, "src.mp4")
    gif = _link(query, "preview.gif")
    thumbnail = _link(query, "thumbnail.webp")
    paths = {"md": _link(query, "md.mp4"), "gif": gif, "source": video, "source_wm": video, "thumbnail": thumbnail}
    generation = query.task.replace("task_", "gen_")
    draft = DRAFT_INFO | {
        "id": generation,
        "url": video,
        "task_id": query.task,
        "encodings": {name: {"path": path} for name, path in paths.items()} | {"unfurl": None},
        "created_at": query.ended,
        "generation_id": generation,
        "downloadable_url": video,
    }
    reply = completed_without_url(query, url=video, gif_url=gif, thumbnail_url=thumbnail, draft_info=draft)
    return Reply(reply.body | {"video_url": video, "thumbnail_url": thumbnail})


def completed_slowly(query: TaskQuery) -> Reply:
    """Reply as `completed` does, after the number of seconds in the id."""
    return replace(completed(query), delay=min(query.seconds, 60))


def failed(query: TaskQuery, error: Any = "Task failed: its id asked for it", status: str = "failed") -> Reply:
    """Reply that the task has failed."""
    return Reply({"id": query.id, "status": status, "status_update_time": int(query.ended * 1000), "error": error})


def error_status(query: TaskQuery) -> Reply:
    """Reply with a status that may mean an unknown task or a failed one."""
    return failed(query, "task not found", "error")


def new_status(query: TaskQuery) -> Reply:
    """Reply with a status that no documentation mentions."""
    return pending(query, "grading")


def moderated(query: TaskQuery) -> Reply:
    """Reply that the task has failed because its prompt was rejected."""
    code = "content_policy_violation"
    reason = "The prompt was rejected by the content policy"
    verdict = PENDING_INFO["moderation_result"] | {"code": code, "type": "rejected", "task_id": query.task}
    body = pending(query, "failed", status="failed", failure_reason=reason, moderation_result=verdict).body
    return Reply(body | failed(query, {"code": code, "message": reason}).body)


def backwards(query: TaskQuery) -> Reply:
    """Reply with a status that goes back once on its way."""
    status, progress = (("processing", 0.6), ("pending", 0.1), ("processing", 0.8))[int(3 * query.progress)]
    return pending(query, status, progress_pct=progress)


def rate_limited(query: TaskQuery) -> Reply:
    """Refuse the query until the number of seconds in its id has passed."""
    wait = {"Retry-After": str(max(1, math.ceil(query.seconds - query.elapsed)))}
    return refused(429, "您已达到请求数限制，请稍后再试", code="rate_limit_exceeded", **wait)


def garbage(query: TaskQuery) -> Reply:
    """Reply with a gateway's HTML page and with half a JSON document by turns."""
    if query.nth % 2:
        return Reply(f'{{"id": "{query.task}", "status": "compl', headers={"content-type": "application/json"})
    return Reply("<!DOCTYPE html><html><title>Just a moment...</title></html>", headers={"content-type": "text/html"})


not_found = always(refused(404, "task not found", code="task_not_found"))
quota = always(refused(429, "用户额度不足, 剩余额度: 0.000000", "insufficient_quota", "insufficient_user_quota"))
error_500 = always(refused(500, "get task failed", code="get_task_failed"))
redirect = always(Reply("", 302, {"location": "https://sandbox.invalid/login"}))

NO_KEY = refused(401, "未提供令牌 (send Authorization: Bearer and any key)")

BEHAVIOURS: dict[str, tuple[Behaviour, str]] = {
    "complete-in-Ns": (until(pending, completed), "pending with growing progress, then completed"),
    "fail-in-Ns": (until(pending, failed), "pending, then failed"),
    "moderated-in-Ns": (until(pending, moderated), "pending, then failed with content_policy_violation"),
    "backwards-in-Ns": (until(backwards, completed), "processing, pending, processing, then completed"),
    "never": (pending, "pending for ever"),
    "unknown": (always(no_such_task()), "HTTP 400 task_not_exist, always"),
    "error-status": (error_status, 'HTTP 200 with status "error", always'),
    "not-found-until-Ns": (until(not_found, completed), "HTTP 404 as right after creation, then completed"),
    "rate-limited-until-Ns": (until(rate_limited, completed), "HTTP 429 with Retry-After, then completed"),
    "quota": (quota, "HTTP 429 insufficient_user_quota, always"),
    "unauthorized": (always(refused(401, "无效的令牌")), "HTTP 401, always"),
    "error-500-until-Ns": (until(error_500, completed), "HTTP 500, then completed"),
    "garbage-until-Ns": (until(garbage, completed), "HTML and broken JSON by turns, then completed"),
    "redirect-until-Ns": (until(redirect, completed), "a redirect to a login page, then completed"),
    "new-status-until-Ns": (until(new_status, completed), "an unseen status, then completed"),
    "complete-without-url": (completed_without_url, "completed at once, without a link anywhere"),
    "late-url-until-Ns": (until(completed_without_url, completed), "completed at once, but the links come late"),
    "slow-answer-Ns": (completed_slowly, "completed; an answer takes N s (at most 60)"),
}


def behaviours() -> dict[str, str]:
    """Return every kind of id (N: a number of seconds) and what it does."""
    return {f"sandbox:{name}": does for name, (_, does) in BEHAVIOURS.items()}


def create_app(clock: Callable[[], float] = time.time, remembered_ids: int = 100_000) -> Starlette:
    """Return the sandbox as an ASGI app.

    Args:
        clock: returns the time in Unix seconds.
        remembered_ids: for how many ids, those queried last, the time of the first query is remembered.
    """
    seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def reply_to(id: str) -> Reply:
        name, seconds = _parse(id)
        if name not in BEHAVIOURS:
            known = f"; known here (N: seconds): {', '.join(behaviours())}" if id.startswith("sandbox:") else ""
            return no_such_task("task_not_exist" + known)
        now = clock()
        first, nth = seen.pop(id, (now, 0))
        seen[id] = (first, nth + 1)
        if len(seen) > remembered_ids:
            seen.popitem(last=False)
        return BEHAVIOURS[name][0](TaskQuery(id, seconds, first, now, nth))

    async def query_task(request: Request) -> Response:
        if not _has_key(request):
            return _response(NO_KEY)
        id = request.query_params.get("id", "")
        reply = reply_to(id) if id else refused(400, "id is required", code="invalid_parameter")
        if reply.delay:
            await asyncio.sleep(reply.delay)
        return _response(reply)

    async def create_task(request: Request) -> Response:
        if not _has_key(request):
            return _response(NO_KEY)
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            wanted = await request.json()
            id = f"sandbox:{wanted.get('sandbox', 'complete-in-5s')}#{secrets.token_hex(8)}"
            if wanted["model"] and wanted["prompt"] and _parse(id)[0] in BEHAVIOURS:
                return _response(Reply({"id": id, "status": "pending", "status_update_time": int(clock() * 1000)}))
        message = f"model and prompt are required; sandbox may be one of {', '.join(BEHAVIOURS)}"
        return _response(refused(400, message, code="invalid_parameter"))

    async def about(_: Request) -> Response:
        usage = "GET /v1/video/query?id=sandbox:complete-in-5s%23any-suffix with Authorization: Bearer any-key"
        return JSONResponse({"about": "relay's sandbox upstream", "usage": usage, "behaviours": behaviours()})

    async def refuse(_: Request, error: Any) -> Response:
        return _response(refused(error.status_code, error.detail, "invalid_request_error", **(error.headers or {})))

    routes = [Route("/", about), Route("/v1/video/query", query_task)]
    for route in routes:
        route.methods = {"GET"}  # starlette would answer HEAD as well
    routes.append(Route("/v1/video/create", create_task, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse})


def _has_key(request: Request) -> bool:
    return re.fullmatch(r"(?i)bearer +\S.*", request.headers.get("authorization", "")) is not None


def _parse(id: str) -> tuple[str, float]:
    """Split `sandbox:complete-in-0.5s#7` into `complete-in-Ns` and 0.5. An id of another kind has no name."""
    match = re.fullmatch(r"sandbox:([a-z0-9-]+?)(?:(?<=-)([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:#.*)?", id, re.DOTALL)
    if match is None:
        return "", 0.0
    name, seconds = match.groups()
    return (f"{name}Ns", float(seconds)) if seconds else (name, 0.0)


def _link(query: TaskQuery, file: str) -> str:
    """Return a link that looks signed, like those of the samples: valid until six days after the task's end."""
    start, end = _iso(query.ended - 3600), _iso(query.ended + 6 * 86_400)
    # Made of nothing that changes, because an upstream gives the same link in every answer.
    signature = hashlib.sha256(f"{query.id} {file} {end}".encode(errors="replace")).hexdigest()
    params = {"st": start, "se": end, "sks": "b", "skt": start, "ske": end, "sv": "2018-11-09", "sr": "b", "sp": "r"}
    params |= {"spr": "https,http", "sig": signature}
    path = f"assets%2F{query.task}%2Fvideos%2F00000_wm%2F{file}"
    return f"https://sandbox.invalid/vg-assets/{path}?{urlencode(params)}"


def _response(reply: Reply) -> Response:
    response_class = Response if isinstance(reply.body, str) else JSONResponse
    return response_class(reply.body, reply.status, reply.headers)


def _iso(at: float, precision: str = "seconds") -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


class SandboxTransport(httpx.AsyncBaseTransport):
    """The sandbox as an httpx transport: its queries need no network."""

    def __init__(self) -> None:
        self._transport = httpx.ASGITransport(create_app())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer within the request's `timeout` in seconds. The extension `target` replaces path and query."""
        if target := request.extensions.get("target"):
            request.url = request.url.copy_with(raw_path=target)
        try:
            async with asyncio.timeout(request.extensions["timeout"]):
                return await self._transport.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout("no complete answer in time", request=request) from None
