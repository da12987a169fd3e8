"""Answers as the gateways of unified-video really give them: tables of what comes, and how it must be read."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.model.reading import Kind, Reading
from relay.providers.definition import load_definition
from relay.providers.document import Answer
from relay.providers.envelope import went_well
from relay.providers.reader import Reader
from relay.providers.statuses import Errors
from relay.providers.unknown_task import UnknownTask

ROOT = Path(__file__).parents[2]
DEFINITION = load_definition(ROOT / "config/providers/unified-video.toml", {})
READER = Reader(DEFINITION.read, DEFINITION.statuses, DEFINITION.errors)
U = "https://cdn.example/v.mp4"
V = "https://cdn.example/w.mp4"
WHY = "prompt violates the content policy"


def read(body: Any, status: int = 200, content_type: str = "application/json", reader: Reader = READER) -> Reading:
    """Read a body, given as bytes or as what becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return reader.read(Answer(status, {"content-type": content_type}, raw), 0)


# ------------------------------------------------------------------------------------- an envelope's success is no end

UNDER_WAY: dict[str, Any] = {
    "detail.status": {"status": "SUCCESS", "message": "ok", "detail": {"status": "processing"}},
    "detail says nothing": {"status": "SUCCESS", "detail": {}},
    "data.task_status": {"status": "success", "data": {"task_status": "processing"}},
    "data.state": {"status": "success", "data": {"state": "running", "progress": "30%"}},
    "data null": {"status": "success", "message": "", "data": None},
    "data empty": {"status": "success", "data": ""},
    "data an empty object": {"status": "success", "data": {}},
    "data an empty list": {"status": "success", "data": []},
    "data.status empty": {"status": "success", "data": {"status": "", "progress": "0%"}},
    "data.status null": {"status": "success", "data": {"status": None}},
    "data.status empty, with a link": {"status": "success", "data": {"status": "", "url": U}},
    "data without a status": {"status": "SUCCESS", "data": {"task_id": "t"}},
    "data with a link and progress": {"status": "SUCCESS", "data": {"progress": "30%", "url": U}},
    "data a list": {"status": "success", "data": [{"status": "processing"}]},
    "one of a list": {"status": "success", "data": [{"status": "completed", "url": U}, {"status": "processing"}]},
    "data.data": {"status": "success", "data": {"data": {"status": "processing"}}},
    "data.task": {"status": "success", "data": {"task": {"status": "queued"}}},
    "data in a text": {"status": "success", "data": '{"status": "processing"}'},
    "output": {"status": "success", "output": {"task_status": "RUNNING"}},
    "result": {"status": "SUCCESS", "result": {"status": "in_progress"}},
    "response": {"status": "ok", "response": {"state": "dreaming"}},
    "any name": {"status": "SUCCESS", "whatever": {"nested": {"status": "generating"}}},
    "any name, empty": {"status": "SUCCESS", "whatever": {"status": ""}},
    "a status never seen": {"status": "SUCCESS", "data": {"status": "polishing", "video_url": U}},
    "completed outside": {"status": "completed", "video_url": U, "detail": {"status": "video_upsampling"}},
    "completed outside, empty inside": {"status": "completed", "data": {"status": ""}},
    "running": {"status": "completed", "video_url": U, "detail": {"running": True}},
    "in Chinese": {"status": "成功", "data": {"status": "processing"}},
    "by the code": {"code": 200, "message": "success", "data": {"status": "processing", "url": U}},
    "success inside, too": {"status": "success", "data": {"status": "success", "data": {"status": "processing"}}},
}


@pytest.mark.parametrize("body", UNDER_WAY.values(), ids=UNDER_WAY)
def test_an_outer_success_does_not_end_what_goes_on_inside(body: Any) -> None:
    reading = read(body)
    assert (reading.kind, reading.result) == (Kind.PENDING, None)
    assert reading.status not in ("success", "completed")


DONE: dict[str, Any] = {
    "detail": {"status": "SUCCESS", "detail": {"status": "completed", "video_url": U}},
    "data.task_status": {"status": "success", "data": {"task_status": "completed", "video_url": U}},
    "data.state": {"status": "success", "data": {"state": "completed", "url": U}},
    "a list": {"status": "success", "data": [{"status": "completed", "video_url": U}]},
    "output": {"status": "success", "output": {"task_status": "SUCCEEDED", "video_url": U}},
    "no status inside": {"status": "success", "data": {"video_url": U}},
    "the link outside": {"status": "SUCCESS", "video_url": U, "data": None},
    "ok outside": {"status": "ok", "data": {"status": "completed", "video_url": U}},
    "ok outside, elsewhere": {"status": "ok", "response": {"status": "completed", "video_url": U}},
    "flat": {"id": "t", "status": "SUCCESS", "video_url": U},
    "in a text": {"code": 0, "data": json.dumps({"status": "completed", "video_url": U})},
    "nothing outside": {"code": 0, "result": {"status": "completed", "video_url": U}},
}


@pytest.mark.parametrize("body", DONE.values(), ids=DONE)
def test_an_inner_success_is_an_end(body: Any) -> None:
    reading = read(body)
    assert reading.kind is Kind.COMPLETED
    assert reading.result is not None
    assert (reading.result["url"], reading.result["urls"]) == (U, [U])


@pytest.mark.parametrize(
    "body",
    [
        {"status": "SUCCESS"},
        {"id": "t", "status": "completed"},
        {"id": "t", "status": "completed", "video_url": None, "detail": {"id": "t", "input": {"images": [U]}}},
        {"id": "t", "status": "succeeded", "output": None},
        {"task_id": "t", "status": "SUCCESS", "progress": "100%", "data": {"film": U}},
    ],
)
def test_without_anything_inside_that_says_otherwise_the_outer_word_is_the_tasks(body: Any) -> None:
    reading = read(body)
    assert reading.kind is Kind.COMPLETED
    assert reading.result is not None
    assert reading.result["url"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"status": "SUCCESS", "data": {"status": "failed", "error": WHY}},
        {"status": "SUCCESS", "output": {"task_status": "FAILED", "message": WHY}},
        {"status": "failed", "error": WHY, "detail": {"status": "pending"}},
        {"code": "success", "data": {"status": "FAILURE", "fail_reason": WHY, "data": {"status": "processing"}}},
    ],
)
def test_an_explicit_failure_ends_a_task_wherever_it_stands(body: Any) -> None:
    reading = read(body)
    assert (reading.kind, reading.error and reading.error["message"]) == (Kind.FAILED, WHY)


def test_a_status_never_seen_outside_is_watched_on_whatever_stands_inside() -> None:
    reading = read({"status": "colour_grading", "detail": {"status": "completed", "url": U}})
    assert (reading.kind, reading.status) == (Kind.PENDING, "colour_grading")


# ------------------------------------------------------------------------------------------------ the makers' own words

MAKERS: list[tuple[str, Any, Kind]] = [
    ("kling", {"code": 0, "message": "SUCCEED", "data": {"task_status": "submitted"}}, Kind.PENDING),
    ("kling", {"code": 0, "message": "SUCCEED", "data": {"task_status": "processing"}}, Kind.PENDING),
    ("kling", {"data": {"task_status": "succeed", "task_result": {"videos": [{"url": U}]}}}, Kind.COMPLETED),
    ("kling", {"data": {"task_status": "failed", "task_status_msg": WHY}}, Kind.FAILED),
    ("luma", {"state": "dreaming"}, Kind.PENDING),
    ("luma", {"state": "completed", "assets": {"video": U}}, Kind.COMPLETED),
    ("luma", {"state": "failed", "failure_reason": WHY}, Kind.FAILED),
    ("runway", {"status": "THROTTLED"}, Kind.PENDING),
    ("runway", {"status": "SUCCEEDED", "output": [U]}, Kind.COMPLETED),
    ("runway", {"status": "FAILED", "failure": WHY, "failureCode": "SAFETY"}, Kind.FAILED),
    ("minimax", {"status": "Queueing", "file_id": "", "base_resp": {"status_code": 0}}, Kind.PENDING),
    ("minimax", {"status": "Success", "file_id": "1", "file": {"download_url": U}}, Kind.COMPLETED),
    ("minimax", {"status": "Fail", "base_resp": {"status_code": 1026, "status_msg": WHY}}, Kind.FAILED),
    ("vidu", {"state": "queueing", "creations": []}, Kind.PENDING),
    ("vidu", {"state": "success", "creations": [{"url": U, "cover_url": V}]}, Kind.COMPLETED),
    ("jimeng", {"code": 10000, "message": "Success", "data": {"status": "in_queue"}}, Kind.PENDING),
    ("jimeng", {"code": 10000, "message": "Success", "data": {"status": "done", "video_url": U}}, Kind.COMPLETED),
    ("jimeng", {"code": 10000, "message": "Success", "data": {"status": "not_found"}}, Kind.UNKNOWN_TASK),
    ("volc", {"status": "running"}, Kind.PENDING),
    ("volc", {"status": "succeeded", "content": {"video_url": U}}, Kind.COMPLETED),
    ("volc", {"status": "expired", "error": {"code": "x", "message": WHY}}, Kind.FAILED),
    ("pixverse", {"ErrCode": 0, "ErrMsg": "success", "Resp": {"id": 1, "status": 5, "url": ""}}, Kind.PENDING),
    ("pixverse", {"ErrCode": 0, "ErrMsg": "success", "Resp": {"id": 1, "status": 3, "url": ""}}, Kind.PENDING),
    ("pixverse", {"ErrCode": 0, "ErrMsg": "success", "Resp": {"id": 1, "status": 1, "url": U}}, Kind.COMPLETED),
    ("pixverse", {"ErrCode": 0, "ErrMsg": WHY, "Resp": {"id": 1, "status": 7, "url": ""}}, Kind.FAILED),
    ("pika", {"status": "started"}, Kind.PENDING),
    ("pika", {"status": "finished", "url": U}, Kind.COMPLETED),
    ("suno", {"code": 200, "msg": "success", "data": {"status": "TEXT_SUCCESS"}}, Kind.PENDING),
    ("suno", {"data": {"status": "SUCCESS", "response": {"sunoData": [{"audioUrl": U}]}}}, Kind.COMPLETED),
    ("suno", {"data": {"status": "complete", "data": [{"status": "complete", "audio_url": U}]}}, Kind.COMPLETED),
    ("suno", {"data": {"status": "SENSITIVE_WORD_ERROR", "errorMessage": WHY}}, Kind.FAILED),
    ("midjourney", {"status": "MODAL", "progress": "0%"}, Kind.PENDING),
    ("midjourney", {"status": "SUCCESS", "progress": "100%", "imageUrl": U, "failReason": None}, Kind.COMPLETED),
    ("midjourney", {"status": "FAILURE", "failReason": WHY}, Kind.FAILED),
    ("midjourney", {"status": "CANCEL", "description": WHY}, Kind.FAILED),
    ("veo", {"status": "MEDIA_GENERATION_STATUS_ACTIVE"}, Kind.PENDING),
    ("veo", {"status": "MEDIA_GENERATION_STATUS_SUCCESSFUL", "video": {"url": U}}, Kind.COMPLETED),
    ("veo", {"name": "models/veo-3/operations/a"}, Kind.PENDING),
    ("veo", {"done": True, "error": {"code": 3, "message": WHY}}, Kind.FAILED),
    (
        "veo",
        {"done": True, "response": {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": U}}]}}},
        Kind.COMPLETED,
    ),
    (
        "veo",
        {"done": True, "response": {"generateVideoResponse": {"raiMediaFilteredReasons": [WHY]}}},
        Kind.FAILED,
    ),
    ("veo", {"code": 200, "msg": "success", "data": {"successFlag": 0, "response": None}}, Kind.PENDING),
    ("veo", {"code": 200, "data": {"successFlag": 1, "response": {"resultUrls": [U]}}}, Kind.COMPLETED),
    ("veo", {"code": 200, "msg": "success", "data": {"successFlag": 2, "errorMessage": WHY}}, Kind.FAILED),
    ("sora", {"object": "video", "status": "in_progress", "progress": 20}, Kind.PENDING),
    ("sora", {"object": "video", "status": "completed", "metadata": {"url": U}}, Kind.COMPLETED),
    ("dashscope", {"output": {"task_status": "PENDING"}}, Kind.PENDING),
    ("dashscope", {"output": {"task_status": "SUCCEEDED", "results": [{"url": U}]}}, Kind.COMPLETED),
    ("dashscope", {"output": {"task_status": "FAILED", "code": "x", "message": WHY}}, Kind.FAILED),
    ("zhipu", {"task_status": "PROCESSING"}, Kind.PENDING),
    ("zhipu", {"task_status": "SUCCESS", "video_result": [{"url": U, "cover_image_url": V}]}, Kind.COMPLETED),
    ("zhipu", {"task_status": "FAIL", "error": {"code": "1", "message": WHY}}, Kind.FAILED),
    ("siliconflow", {"status": "InQueue"}, Kind.PENDING),
    ("siliconflow", {"status": "Succeed", "results": {"videos": [{"url": U}]}}, Kind.COMPLETED),
    ("kie", {"data": {"state": "success", "resultJson": json.dumps({"resultUrls": [U]})}}, Kind.COMPLETED),
    ("wavespeed", {"data": {"status": "timeout", "error": WHY}}, Kind.FAILED),
    ("replicate", {"status": "starting"}, Kind.PENDING),
    ("replicate", {"status": "aborted", "error": WHY}, Kind.FAILED),
    ("xai", {"status": "done", "video": {"url": U}}, Kind.COMPLETED),
    ("new-api", {"status": "UNKNOWN"}, Kind.PENDING),
]


@pytest.mark.parametrize(("maker", "body", "kind"), MAKERS)
def test_the_words_of_the_makers(maker: str, body: Any, kind: Kind) -> None:
    reading = read(body)
    assert reading.kind is kind
    if kind is Kind.COMPLETED:
        assert reading.result is not None
        assert reading.result["urls"] == [U]
    if kind is Kind.FAILED:
        assert reading.error is not None
        assert reading.error["message"] == WHY


# ------------------------------------------------------------------------------------------------------ where links are

LINKS: dict[str, Any] = {
    "fail_reason, wrapped": {"code": "success", "data": {"status": "SUCCESS", "fail_reason": U, "progress": "100%"}},
    "fail_reason": {"task_id": "t", "status": "SUCCESS", "fail_reason": U, "progress": "100%"},
    "metadata.url": {"status": "completed", "progress": 100, "metadata": {"url": U}},
    "content.video_url": {"status": "succeeded", "content": {"video_url": U}},
    "data.data.content": {"data": {"status": "SUCCESS", "result_url": "", "data": {"content": {"video_url": U}}}},
    "data.data": {"code": "success", "data": {"status": "SUCCESS", "data": {"status": "completed", "video_url": U}}},
    "data.task_result": {"code": 0, "data": {"status": "succeeded", "task_result": {"videos": [{"url": U}]}}},
    "data.outputs": {"code": 200, "data": {"status": "completed", "outputs": [U]}},
    "outputs": {"status": "completed", "outputs": [U]},
    "outputs of objects": {"status": "completed", "outputs": [{"url": U}]},
    "output": {"status": "succeeded", "output": U},
    "output, a list": {"status": "succeeded", "output": [U]},
    "data.output": {"status": "SUCCESS", "data": {"output": U}},
    "data": {"status": "SUCCESS", "data": U},
    "data[0].url": {"status": "succeeded", "data": [{"url": U}]},
    "video": {"status": "completed", "video": U},
    "video.url": {"status": "completed", "video": {"url": U}},
    "videos[0].url": {"status": "completed", "videos": [{"url": U}]},
    "videos": {"status": "completed", "videos": [U]},
    "video_url, a list": {"status": "completed", "video_url": [U]},
    "video_urls": {"status": "completed", "video_urls": [U]},
    "videoUrl": {"status": "completed", "data": {"videoUrl": U}},
    "files": {"status": "completed", "files": [{"url": U}]},
    "media, in result": {"status": "completed", "result": {"media": {"url": U}}},
    "download_url": {"status": "completed", "result": {"download_url": U}},
    "result": {"status": "completed", "result": U},
    "blanks": {"status": "completed", "video_url": f" {U}\n"},
    "hard blanks": {"status": "completed", "video_url": f"\u00a0\u200b{U}\ufeff"},
    "behind what is none": {"status": "completed", "video_url": "pending", "detail": {"url": U}},
}


@pytest.mark.parametrize("body", LINKS.values(), ids=LINKS)
def test_the_link_is_found_wherever_it_stands(body: Any) -> None:
    reading = read(body)
    assert reading.result is not None
    assert (reading.result["url"], reading.result["urls"]) == (U, [U])


@pytest.mark.parametrize(
    "fields",
    [
        {"outputs": [U, V]},
        {"output": [U, f" {V} "]},
        {"videos": [{"url": U}, {"url": V}]},
        {"data": [{"video_url": U}, {"video_url": V}]},
        {"works": [{"resource": {"resource": U}}, {"resource": {"resource": V}}]},
        {"video_url": U, "video_urls": [U, V, U]},
        {"output": [U, "data:video/mp4;base64,AAAA", V]},
    ],
)
def test_of_several_links_all_are_kept_the_first_one_first(fields: Any) -> None:
    reading = read({"status": "completed", **fields})
    assert reading.result is not None
    assert (reading.result["url"], reading.result["urls"]) == (U, [U, V])


@pytest.mark.parametrize(
    "body",
    [
        {"status": "completed", "video_url": "data:video/mp4;base64,AAAA"},
        {"status": "completed", "output": ["DATA:video/mp4;base64,AAAA"]},
        {"code": "success", "data": {"status": "SUCCESS", "result_url": "data:video/mp4;base64," + "A" * 100_000}},
        {"status": "SUCCESS", "data": {"video": "data:video/mp4;base64,AAAA"}},
    ],
)
def test_a_data_url_is_no_link_but_a_result(body: Any) -> None:
    reading = read(body)
    assert (reading.kind, reading.inline) == (Kind.COMPLETED, True)
    assert reading.result is not None
    assert (reading.result["url"], reading.result["urls"]) == (None, [])


def test_a_result_has_all_members_of_the_contract() -> None:
    members = "url urls thumbnail_url preview_url width height enhanced_prompt text ref key_needed expires_at"
    assert list(read({"status": "completed"}).result or {}) == members.split()


# ------------------------------------------------------------------------------------------------------------ reasons

REASONS: dict[str, Any] = {
    "SUCCEED": {"code": 0, "message": "SUCCEED", "data": {"status": "failed", "task_status_msg": WHY}},
    "success": {"code": "success", "message": "success", "data": {"status": "FAILURE", "error_message": WHY}},
    "操作成功": {"code": 200, "message": "操作成功", "data": {"status": "FAILURE", "message": WHY}},
    "any other": {"code": 200, "message": "here you are", "data": {"status": "FAILURE", "message": WHY}},
    "failed again": {"status": "failed", "message": "failed", "reason": WHY},
    "data.error.message": {"data": {"status": "FAILURE", "error": {"code": "policy", "message": WHY}}},
    "data.error": {"code": "success", "message": "", "data": {"status": "FAILURE", "error": WHY}},
    "data.message": {"code": "success", "message": "", "data": {"status": "FAILURE", "message": WHY}},
    "error_message": {"status": "failed", "error_message": WHY},
    "errorMessage": {"status": "failed", "errorMessage": WHY},
    "failure_reason": {"status": "failed", "failure_reason": WHY},
    "reason": {"status": "failed", "reason": WHY},
    "msg": {"status": "failed", "msg": WHY},
    "error.msg": {"status": "failed", "error": {"msg": WHY}},
    "detail": {"status": "failed", "detail": WHY},
    "errors": {"status": "failed", "errors": [{"message": WHY}]},
    "error.details": {"status": "failed", "error": {"code": "x", "details": WHY}},
    "error.error.message": {"status": "failed", "error": {"error": {"message": WHY}}},
    "error, a list": {"status": "failed", "error": [{"message": WHY}]},
    "error, JSON in a text": {"status": "failed", "error": json.dumps({"error": {"message": WHY}})},
    "failure.reason": {"status": "failed", "failure": {"reason": WHY}},
    "last_error": {"status": "failed", "last_error": {"message": WHY}},
    "errorInfo": {"status": "failed", "errorInfo": {"errorMessage": WHY}},
    "moderation": {"status": "failed", "moderation": {"reason": WHY}},
    "statusMessage": {"status": "failed", "statusMessage": WHY},
    "errors of texts": {"status": "failed", "errors": [WHY]},
    "errors by field": {"status": "failed", "errors": {"prompt": [WHY]}},
    "fail_reason": {"status": "FAILURE", "fail_reason": WHY},
    "error": {"status": "failed", "error": {"code": "x", "message": WHY}},
    "output.message": {"status": "ok", "output": {"task_status": "FAILED", "message": WHY}},
    "base_resp": {"status": "Fail", "base_resp": {"status_code": 1, "status_msg": WHY}},
}


@pytest.mark.parametrize("body", REASONS.values(), ids=REASONS)
def test_the_reason_is_found_wherever_it_stands(body: Any) -> None:
    reading = read(body)
    assert (reading.kind, reading.error and reading.error["message"]) == (Kind.FAILED, WHY)


@pytest.mark.parametrize(
    "message", ["SUCCEED", "success", "操作成功", "请求成功", "Query OK", "200", "Request succeeded"]
)
@pytest.mark.parametrize("code", [0, 200, "0", "success", "OK"])
def test_an_envelopes_success_is_no_reason_and_no_code(message: str, code: object) -> None:
    reading = read({"code": code, "message": message, "data": {"status": "FAILURE"}})
    assert reading.error == {"code": "failure", "message": "the upstream says 'failure' and no more"}


@pytest.mark.parametrize("text", ["unsuccessful", "not successful", "任务失败", "生成未成功", "succeeded", "403"])
def test_what_did_not_go_well(text: str) -> None:
    assert not went_well(text)


# ---------------------------------------------------------------------------------------------- unknown, or no route

ROUTERS: dict[str, Any] = {
    "new-api": {"error": {"message": "Invalid URL (GET /v1/v1/video/query)", "type": "invalid_request_error"}},
    "openai": {"error": {"message": "Unknown request URL: GET /v1/video/query?id=task_1. Please check the URL"}},
    "kong": {"message": "no Route matched with those values"},
    "apisix": {"error_msg": "404 Route Not Found"},
    "fastapi": {"detail": "Not Found"},
    "django": {"detail": "Not found."},
    "spring": {"timestamp": "2026-01-01T00:00:00Z", "status": 404, "error": "Not Found", "path": "/v1/video/query"},
    "spring, of today": {"title": "Not Found", "status": 404, "detail": "No static resource v1/video/query."},
    "express": b"<!DOCTYPE html><pre>Cannot GET /v1/video/query</pre>",
    "nest": {"statusCode": 404, "message": "Cannot GET /v1/video/query?id=task_1", "error": "Not Found"},
    "fastify": {"message": "Route GET:/v1/video/query not found", "error": "Not Found", "statusCode": 404},
    "laravel": {"message": "The route v1/video/query could not be found."},
    "phoenix": {"errors": {"detail": "Not Found"}},
    "vercel": {"error": {"code": "NOT_FOUND", "message": "The page could not be found"}},
    "azure": {"statusCode": 404, "message": "Resource not found"},
    "google": {"error": {"code": 404, "message": "Requested entity was not found.", "status": "NOT_FOUND"}},
    "flask": {"message": "The requested URL was not found on the server."},
    "tyk": {"error": "Not found"},
    "go": b"404 page not found\n",
    "nginx": b"<html><head><title>404 Not Found</title></head></html>",
    "envoy": b"",
    "cloudflare": b"error code: 1016",
    "xml": b"<Error><Code>NoSuchKey</Code></Error>",
    "a model": {"error": {"message": "video model not found", "code": "model_not_found"}},
    "a channel": {"message": "the task's channel does not exist"},
}


@pytest.mark.parametrize("body", ROUTERS.values(), ids=ROUTERS)
def test_a_routers_404_says_nothing_about_the_task(body: Any) -> None:
    reading = read(body, 404)
    assert (reading.kind, reading.status) == (Kind.NOT_ANSWERED, None)
    assert reading.error is not None
    assert reading.error["message"]


def test_a_404_that_is_a_routers_is_marked() -> None:
    assert all(read(body, 404).no_route for name, body in ROUTERS.items() if name != "a model")
    assert not read({"code": "fail_to_fetch_task", "message": "task not found"}, 404).no_route
    assert not read({"message": "task not found"}, 404).no_route


@pytest.mark.parametrize("status", [400, 404, 410, 422])
@pytest.mark.parametrize(
    "body",
    [
        {"code": "task_not_exist", "message": "task_not_exist", "data": None},
        {"error": {"message": "task not found", "code": "task_not_found"}},
        {"message": "task not found"},
        {"detail": "Task not found"},
        {"error": {"message": "Video with id 'video_5c6a' not found.", "type": "invalid_request_error"}},
        {"code": 404, "message": "任务不存在"},
        b"task not found",
    ],
)
def test_a_task_is_unknown_where_the_answer_says_so(body: Any, status: int) -> None:
    assert read(body, status).kind is Kind.UNKNOWN_TASK


def test_a_bare_404_is_an_unknown_task_where_the_file_says_so() -> None:
    assert Errors().unknown_task_http == ()
    errors = Errors(unknown_task_http=(404,), gateway_codes=("fail_to_fetch_task",))
    reader = Reader(DEFINITION.read, DEFINITION.statuses, errors)
    assert read(b"", 404, reader=reader).kind is Kind.UNKNOWN_TASK
    assert read({"detail": "Not Found"}, 404, reader=reader).kind is Kind.UNKNOWN_TASK
    assert read(b"<html></html>", 404, reader=reader).kind is Kind.NOT_ANSWERED
    assert read({"code": "fail_to_fetch_task"}, 404, reader=reader).kind is Kind.NOT_ANSWERED


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"status": "error", "error": "task not found"}, Kind.UNKNOWN_TASK),
        ({"status": "error", "code": "task_not_exist"}, Kind.UNKNOWN_TASK),
        ({"status": "error"}, Kind.UNKNOWN_TASK),
        ({"status": "error", "error": "get channel failed"}, Kind.NOT_ANSWERED),
        ({"status": "error", "message": "upstream timed out"}, Kind.NOT_ANSWERED),
        ({"status": "error", "code": "fail_to_fetch_task", "message": "task not found"}, Kind.NOT_ANSWERED),
        ({"code": 500, "message": "task not found", "data": None}, Kind.UNKNOWN_TASK),
        ({"code": 500, "message": "channel not found", "data": None}, Kind.NOT_UNDERSTOOD),
    ],
)
def test_an_error_in_a_200_is_an_unknown_task_only_where_it_says_so(body: Any, kind: Kind) -> None:
    assert read(body).kind is kind


SAYS_UNKNOWN = [
    "task not found",
    "task_not_exist (request id: 20251202072701330912)",
    "Video with id 'video_5c6a605a-30c0' not found.",
    'task with id "abc" not found',
    "No such task: 123",
    "The task does not exist",
    "Task 123 doesn't exist",
    "Task could not be found",
    "can't find the task",
    "Unknown task id",
    "task id not found",
    "No task found with id xyz",
    "Not found: task 123",
    "sora-2:task_01k6 not found",
    "id not found",
    "任务不存在或无权访问",
    "未找到该任务",
    "任务 task_abc 不存在",
    "无此任务",
]
SAYS_NOTHING = [
    "Not Found",
    "Resource not found",
    "channel not found",
    "video model not found",
    "task queue not found",
    "unknown task type",
    "no video generation channel available",
    "failed to find channel for task",
    "channel id 12 not found",
    "failed to fetch task",
    "no handler found for GET /v1/tasks/1",
    "Video endpoint does not exist",
    "渠道不存在",
    "任务所用渠道不存在",
    "task failed",
    "",
]


@pytest.mark.parametrize("text", SAYS_UNKNOWN)
def test_words_about_the_task(text: str) -> None:
    assert UnknownTask(DEFINITION.errors.task_names).is_said_in(text)
    assert not UnknownTask(()).is_said_in(text) or text == "id not found"


@pytest.mark.parametrize("text", SAYS_NOTHING)
def test_words_about_something_else(text: str) -> None:
    assert not UnknownTask(DEFINITION.errors.task_names).is_said_in(text)


# --------------------------------------------------------------------------------------------------- JSON, not quite

JSON, WRITTEN = "application/json", '{"id":"t","status":"completed","video_url":"' + U + '","x":%s}'
BROKEN: dict[str, tuple[str, bytes]] = {
    "half an emoji": (JSON, (WRITTEN % r'"a cat \ud83d"').encode()),
    "the other half": (JSON, (WRITTEN % r'"\ude00 cat"').encode()),
    "half an emoji in a name": (JSON, (WRITTEN % r'{"\ud83d": 1}').encode()),
    "NaN": (JSON, (WRITTEN % "NaN").encode()),
    "infinity": (JSON, (WRITTEN % "[Infinity, -Infinity]").encode()),
    "1e400": (JSON, (WRITTEN % "[1e400, -1E+999]").encode()),
    "four hundred digits": (JSON, (WRITTEN % ("9" * 400)).encode()),
    "five thousand digits": (JSON, (WRITTEN % ("9" * 5000)).encode()),
    "a raw line break": (JSON, (WRITTEN % '"line one\nline two"').encode()),
    "a raw tab": (JSON, (WRITTEN % '"a\tb"').encode()),
    "a raw NUL": (JSON, (WRITTEN % '"a\0b"').encode()),
    "a character cut in half": (JSON, (WRITTEN % '"MARK"').encode().replace(b"MARK", "猫".encode()[:2])),
    "a surrogate in UTF-8": (JSON, (WRITTEN % '"MARK"').encode().replace(b"MARK", b"\xed\xa0\xbd")),
    "GBK": (JSON + "; charset=gbk", (WRITTEN % '"中文提示词"').encode("gbk")),
    "GB 2312": (JSON + '; charset="GB2312"', (WRITTEN % '"中文提示词"').encode("gbk")),
    "Big5": (JSON + ";charset=big5", (WRITTEN % '"中文提示"').encode("big5")),
    "Shift JIS": (JSON + "; charset=Shift_JIS", (WRITTEN % '"日本語"').encode("shift_jis")),
    "Latin-1": (JSON + "; charset=ISO-8859-1", (WRITTEN % '"é"').encode("latin-1")),
    "UTF-16": (JSON + "; charset=utf-16", (WRITTEN % '"x"').encode("utf-16")),
    "UTF-16 without a mark": (JSON, (WRITTEN % '"猫"').encode("utf-16-le")),
    "UTF-16, the other way": (JSON, (WRITTEN % '"猫"').encode("utf-16-be")),
    "UTF-32": (JSON, (WRITTEN % '"猫"').encode("utf-32")),
    "a mark, and NaN": (JSON, b"\xef\xbb\xbf" + (WRITTEN % "NaN").encode()),
    "a notice behind": (JSON, (WRITTEN % '"x"').encode() + b"\n<br />\n<b>Notice</b>: something"),
    "a notice before": (JSON, b"<br />\n<b>Warning</b>: something in x.php on line 3\n" + (WRITTEN % '"x"').encode()),
    "NUL behind": (JSON, (WRITTEN % '"x"').encode() + b"\0\0"),
    "an unknown charset": (JSON + "; charset=klingon", (WRITTEN % '"MARK"').encode().replace(b"MARK", b"\xff")),
    "a charset that is no text's": (JSON + "; charset=base64", (WRITTEN % '"MARK"').encode().replace(b"MARK", b"\xff")),
}


def strict(body: bytes | None) -> Any:
    """Parse JSON as a parser does that takes nothing else: no constants, no lone surrogates, finite numbers."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    value = json.loads((body or b"").decode(), parse_constant=refuse)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return value


@pytest.mark.parametrize(("content_type", "body"), BROKEN.values(), ids=BROKEN)
def test_an_explicit_end_is_read_although_its_json_is_broken(content_type: str, body: bytes) -> None:
    reading = read(body, content_type=content_type)
    assert (reading.kind, reading.repaired) == (Kind.COMPLETED, True)
    assert reading.result is not None
    assert reading.result["url"] == U
    assert strict(reading.body)["video_url"] == U


def test_what_was_declared_is_decoded() -> None:
    body = '{"status":"failed","error":"提示词违规"}'.encode("gbk")
    assert (read(body, content_type="application/json; charset=gbk").error or {})["message"] == "提示词违规"
    mislabelled = '{"status":"failed","error":"提示词违规\\ud83d"}'.encode()
    assert "提示词违规" in (read(mislabelled, content_type="application/json; charset=gbk").error or {})["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"completed","video_url":"https://cdn.example/v',
        b'{"status":"completed","x":[1,2',
        b'{"status":"completed"',
        b'{"status":"completed","x":}',
        b"{'status': 'completed'}",
        b'{"status":"completed"}{"status":"failed"}',
        b'{"status":"completed"},{"status":"failed"}',
        b'<html><script>{"status":"completed"}</script></html>',
        b"<br />\n<b>Fatal error</b>: Uncaught Exception in {main}",
        b'data: {"status":"completed"}\n\n',
        b"\xff\xfe\xfd",
    ],
)
def test_a_broken_structure_is_no_answer(body: bytes) -> None:
    assert read(body).kind is Kind.NOT_UNDERSTOOD


@pytest.mark.parametrize(
    "body",
    [
        rb'{"status":"completed\ud83d","video_url":"https://cdn.example/v.mp4"}',
        b'{"status":"compl\neted","video_url":"https://cdn.example/v.mp4"}',
        b'{"status":"failed\xe7\x8c","error":"x"}',
        b'{"status":NaN,"state":"processing","error":"x"}',
    ],
)
def test_what_is_broken_ends_no_task(body: bytes) -> None:
    assert read(body).kind is Kind.PENDING


def test_a_broken_link_is_none() -> None:
    reading = read(rb'{"status":"completed","video_url":"https://cdn.example/\ud83d.mp4"}')
    assert reading.result is not None
    assert reading.result["url"] is None


def test_a_strict_answer_stays_byte_for_byte() -> None:
    body = b'{ "status" : "processing",\r\n "big": 123456789012345678901234567890, "nul": "\\u0000" }'
    reading = read(body)
    assert (reading.body, reading.repaired) == (body, False)


def test_a_repaired_answer_keeps_no_secret() -> None:
    """However it was written: in UTF-16, or with escapes, the key that an upstream echoes must not come through."""
    key = "sk-0123456789abcdef"
    for body in (
        json.dumps({"status": "failed", "error": f"bad key {key}"}).encode("utf-16"),
        rb'{"status":"failed","error":"bad key sk-0123456789abcde\u0066 \ud83d"}',
    ):
        reading = READER.read(Answer(200, {}, body, secrets=(key.encode(),)), 0)
        assert reading.kind is Kind.FAILED
        assert key not in repr(reading)
        assert key.encode() not in (reading.body or b"")


def test_an_error_that_is_repaired_is_repeated_too() -> None:
    reading = read(rb'{"code":"task_not_exist","message":"\ud83d"}', 400)
    assert (reading.kind, reading.repaired) == (Kind.UNKNOWN_TASK, True)
    assert strict(reading.aside)["code"] == "task_not_exist"
    assert orjson.loads(reading.aside or b"")
