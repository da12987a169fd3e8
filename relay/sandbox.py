"""The documented upstream, played.

`GET /v1/video/query?id=sandbox:complete-in-5s` answers as the documentation's samples do. The id says how the task
behaves (`BEHAVIOURS`); time counts from the first query of that id, any number of seconds will do, and a `#suffix`
makes an id unique. This module imports nothing of relay: it stands where somebody else's API would.
"""

import asyncio
import hashlib
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# The documented samples; what differs from task to task is filled in below.
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
class Ask:
    """One query of one id: the `nth` (from 0), with the number of `seconds` in the id (0 where it has none)."""

    id: str
    seconds: float
    first: float
    now: float
    nth: int

    @property
    def elapsed(self) -> float:
        return max(0.0, self.now - self.first)

    @property
    def ended(self) -> float:
        return self.first + self.seconds

    @property
    def progress(self) -> float:
        return min(self.elapsed / (self.seconds or self.elapsed + 60.0), 0.99)

    @property
    def task(self) -> str:
        return "task_" + hashlib.sha256(self.id.encode(errors="replace")).hexdigest()[:26]


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    status: int = 200
    headers: Mapping[str, str] | None = None
    delay: float = 0.0


Play = Callable[[Ask], Answer]


def until(before: Play, after: Play) -> Play:
    return lambda ask: before(ask) if ask.elapsed < ask.seconds else after(ask)


def always(answer: Answer) -> Play:
    return lambda _: answer


def refused(status: int, message: str, type: str = "new_api_error", code: str = "", **headers: str) -> Answer:
    return Answer({"error": {"message": message, "type": type} | ({"code": code} if code else {})}, status, headers)


def no_such_task(message: str = "task_not_exist") -> Answer:
    return Answer({"code": "task_not_exist", "message": message, "data": None}, 400)


def pending(ask: Ask, status: str = "pending", /, **info: Any) -> Answer:
    filled = {"id": ask.task, "created_at": _iso(ask.first, "microseconds"), "progress_pct": ask.progress}
    moderation = PENDING_INFO["moderation_result"] | {"task_id": ask.task}
    pending_info = PENDING_INFO | filled | {"moderation_result": moderation} | info
    detail = {"id": ask.task, "input": INPUT, "status": status, "pending_info": pending_info}
    return Answer({"id": ask.id, "detail": detail, "status": status, "status_update_time": int(ask.now * 1000)})


def completed_without_url(ask: Ask, **links: Any) -> Answer:
    detail = {"id": ask.task, "input": INPUT, "status": "completed", **links}
    body = {"id": ask.id, "width": 352, "detail": detail, "height": 640, "status": "completed"}
    return Answer(body | {"status_update_time": int(ask.ended * 1000)})


def completed(ask: Ask, delay: float = 0.0) -> Answer:
    video, gif, thumbnail = _link(ask, "src.mp4"), _link(ask, "preview.gif"), _link(ask, "thumbnail.webp")
    paths = {"md": _link(ask, "md.mp4"), "gif": gif, "source": video, "source_wm": video, "thumbnail": thumbnail}
    encodings = {name: {"path": path} for name, path in paths.items()} | {"unfurl": None}
    generation = ask.task.replace("task_", "gen_")
    draft = DRAFT_INFO | {"id": generation, "task_id": ask.task, "generation_id": generation, "created_at": ask.ended}
    draft |= {"url": video, "downloadable_url": video, "encodings": encodings}
    answer = completed_without_url(ask, url=video, gif_url=gif, thumbnail_url=thumbnail, draft_info=draft)
    return Answer(answer.body | {"video_url": video, "thumbnail_url": thumbnail}, delay=delay)


def failed(ask: Ask, error: Any = "Task failed: its id asked for it", status: str = "failed") -> Answer:
    return Answer({"id": ask.id, "status": status, "status_update_time": int(ask.ended * 1000), "error": error})


def moderated(ask: Ask) -> Answer:
    code, reason = "content_policy_violation", "The prompt was rejected by the content policy"
    verdict = PENDING_INFO["moderation_result"] | {"code": code, "type": "rejected", "task_id": ask.task}
    body = pending(ask, "failed", status="failed", failure_reason=reason, moderation_result=verdict).body
    return Answer(body | failed(ask, {"code": code, "message": reason}).body)


def backwards(ask: Ask) -> Answer:
    status, progress = (("processing", 0.6), ("pending", 0.1), ("processing", 0.8))[int(3 * ask.progress)]
    return pending(ask, status, progress_pct=progress)


def rate_limited(ask: Ask) -> Answer:
    wait = {"Retry-After": str(max(1, math.ceil(ask.seconds - ask.elapsed)))}
    return refused(429, "您已达到请求数限制，请稍后再试", code="rate_limit_exceeded", **wait)


def garbage(ask: Ask) -> Answer:
    if ask.nth % 2:
        return Answer(f'{{"id": "{ask.task}", "status": "compl', headers={"content-type": "application/json"})
    return Answer("<!DOCTYPE html><html><title>Just a moment...</title></html>", headers={"content-type": "text/html"})


not_found = always(refused(404, "task not found", code="task_not_found"))
quota = always(refused(429, "用户额度不足, 剩余额度: 0.000000", "insufficient_quota", "insufficient_user_quota"))
error_500 = always(refused(500, "get task failed", code="get_task_failed"))
redirect = always(Answer("", 302, {"location": "https://sandbox.invalid/login"}))

BEHAVIOURS: dict[str, tuple[Play, str]] = {
    "complete-in-Ns": (until(pending, completed), "pending with growing progress, then completed"),
    "fail-in-Ns": (until(pending, failed), "pending, then failed"),
    "moderated-in-Ns": (until(pending, moderated), "pending, then failed with content_policy_violation"),
    "backwards-in-Ns": (until(backwards, completed), "processing, pending, processing, then completed"),
    "never": (pending, "pending for ever"),
    "unknown": (always(no_such_task()), "HTTP 400 task_not_exist, always"),
    "error-status": (lambda ask: failed(ask, "task not found", "error"), 'HTTP 200 with status "error", always'),
    "not-found-until-Ns": (until(not_found, completed), "HTTP 404 as right after creation, then completed"),
    "rate-limited-until-Ns": (until(rate_limited, completed), "HTTP 429 with Retry-After, then completed"),
    "quota": (quota, "HTTP 429 insufficient_user_quota, always"),
    "unauthorized": (always(refused(401, "无效的令牌")), "HTTP 401, always"),
    "error-500-until-Ns": (until(error_500, completed), "HTTP 500, then completed"),
    "garbage-until-Ns": (until(garbage, completed), "HTML and broken JSON by turns, then completed"),
    "redirect-until-Ns": (until(redirect, completed), "a redirect to a login page, then completed"),
    "new-status-until-Ns": (until(lambda ask: pending(ask, "grading"), completed), "an unseen status, then completed"),
    "complete-without-url": (completed_without_url, "completed at once, without a link anywhere"),
    "late-url-until-Ns": (until(completed_without_url, completed), "completed at once, but the links come late"),
    "slow-answer-Ns": (lambda ask: completed(ask, min(ask.seconds, 60)), "completed; an answer takes N s (at most 60)"),
}


def behaviours() -> dict[str, str]:
    """Every kind of id (N: a number of seconds) and what it does."""
    return {f"sandbox:{name}": does for name, (_, does) in BEHAVIOURS.items()}


def create_app(clock: Callable[[], float] = time.time, remembered_ids: int = 100_000) -> Starlette:
    """The sandbox as an ASGI app. `clock` gives unix seconds; the first query's time is kept for the ids asked last."""
    seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def play(id: str) -> Answer:
        name, seconds = _parse(id)
        if name not in BEHAVIOURS:
            known = f"; known here (N: seconds): {', '.join(behaviours())}" if id.startswith("sandbox:") else ""
            return no_such_task("task_not_exist" + known)
        now = clock()
        first, nth = seen.pop(id, (now, 0))
        seen[id] = (first, nth + 1)
        if len(seen) > remembered_ids:
            seen.popitem(last=False)
        return BEHAVIOURS[name][0](Ask(id, seconds, first, now, nth))

    async def query(request: Request) -> Response:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return _response(refused(401, "未提供令牌 (send Authorization: Bearer and any key)"))
        id = request.query_params.get("id", "")
        answer = play(id) if id else refused(400, "id is required", code="invalid_parameter")
        if answer.delay:
            await asyncio.sleep(answer.delay)
        return _response(answer)

    async def about(_: Request) -> Response:
        usage = "GET /v1/video/query?id=sandbox:complete-in-5s%23any-suffix with Authorization: Bearer any-key"
        return JSONResponse({"about": "relay's sandbox upstream", "usage": usage, "behaviours": behaviours()})

    async def refuse(_: Request, error: Any) -> Response:
        return _response(refused(error.status_code, error.detail, "invalid_request_error", **(error.headers or {})))

    routes = [Route("/", about), Route("/v1/video/query", query)]
    for route in routes:
        route.methods = {"GET"}  # starlette would answer HEAD as well
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse})


def _parse(id: str) -> tuple[str, float]:
    """`sandbox:complete-in-0.5s#7` -> `complete-in-Ns`, 0.5; an id of another kind has no name."""
    found = re.fullmatch(r"sandbox:([a-z0-9-]+?)(?:(?<=-)([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:#.*)?", id, re.DOTALL)
    return (found[1] + ("Ns" if found[2] else ""), float(found[2] or 0)) if found else ("", 0.0)


def _link(ask: Ask, file: str) -> str:
    """Signed-looking, as the samples' links are: the same on every answer, good for six days from the task's end."""
    start, end = _iso(ask.ended - 3600), _iso(ask.ended + 6 * 86_400)
    query = {"st": start, "se": end, "sks": "b", "skt": start, "ske": end, "sv": "2018-11-09", "sr": "b", "sp": "r"}
    signature = hashlib.sha256(f"{ask.id} {file} {end}".encode(errors="replace")).hexdigest()
    path = f"assets%2F{ask.task}%2Fvideos%2F00000_wm%2F{file}"
    return f"https://sandbox.invalid/vg-assets/{path}?{urlencode(query | {'spr': 'https,http', 'sig': signature})}"


def _response(answer: Answer) -> Response:
    kind = Response if isinstance(answer.body, str) else JSONResponse
    return kind(answer.body, answer.status, answer.headers)


def _iso(at: float, precision: str = "seconds") -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


class Played(httpx.AsyncBaseTransport):
    """The sandbox as an httpx transport, asked without a network."""

    def __init__(self) -> None:
        self._transport = httpx.ASGITransport(create_app())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answers within the request's `timeout` in seconds; `target` replaces path and query."""
        if target := request.extensions.get("target"):
            request.url = request.url.copy_with(raw_path=target)
        try:
            async with asyncio.timeout(request.extensions["timeout"]):
                return await self._transport.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout("no complete answer in time", request=request) from None
