"""The sandbox plays what its ids say, in the shapes that the documentation shows."""

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from relay.simulators.upstream import BEHAVIOURS, behaviours, create_app

BODIES = Path(__file__).parents[1] / "answers" / "unified-video" / "bodies"
START = 1_759_763_426.0
KEY = {"Authorization": "Bearer sk-anything"}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Sandbox:
    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.app = create_app(self.clock, **options)

    def ask(self, id: str, at: float | None = None) -> httpx.Response:
        if at is not None:
            self.clock.now = START + at
        return call(self.app, "GET", "/v1/video/query", params={"id": id}, headers=KEY)


def call(app: Starlette, method: str, path: str, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox()


def documented(name: str) -> Any:
    return json.loads((BODIES / f"documented-{name}.json").read_bytes())


def shape(value: Any) -> Any:
    """The keys all the way down, and the JSON type of every leaf; a list is as its first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_answers_have_the_documented_shapes(sandbox: Sandbox) -> None:
    assert shape(sandbox.ask("sandbox:complete-in-5s", 0).json()) == shape(documented("pending"))
    assert shape(sandbox.ask("sandbox:complete-in-5s", 5).json()) == shape(documented("completed"))


def test_complete_grows_and_ends(sandbox: Sandbox) -> None:
    bodies = [sandbox.ask("sandbox:complete-in-5s", at).json() for at in (0, 1, 2.5, 4.99, 5, 60)]
    assert [body["status"] for body in bodies] == ["pending"] * 4 + ["completed"] * 2
    assert [body["detail"]["status"] for body in bodies] == ["pending"] * 4 + ["completed"] * 2
    progress = [body["detail"]["pending_info"]["progress_pct"] for body in bodies[:4]]
    assert progress == pytest.approx([0, 0.2, 0.5, 0.99])
    assert bodies[1]["status_update_time"] == (START + 1) * 1000
    assert bodies[4] == bodies[5]
    assert bodies[4]["id"] == "sandbox:complete-in-5s"
    assert (bodies[4]["width"], bodies[4]["height"]) == (352, 640)
    assert bodies[4]["status_update_time"] == (START + 5) * 1000


def test_links_look_signed_and_last_six_days(sandbox: Sandbox) -> None:
    body = sandbox.ask("sandbox:complete-in-0s", 0).json()
    for link in (body["video_url"], body["thumbnail_url"], body["detail"]["gif_url"], body["detail"]["url"]):
        url = httpx.URL(link)
        assert url.scheme == "https"
        assert url.params["sig"]
        lifetime = datetime.fromisoformat(url.params["se"]) - datetime.fromtimestamp(START, UTC)
        assert lifetime.total_seconds() == pytest.approx(6 * 86_400, abs=1)


def test_time_counts_from_the_first_query_of_that_very_id(sandbox: Sandbox) -> None:
    assert sandbox.ask("sandbox:complete-in-0.5s#a", 0).json()["status"] == "pending"
    assert sandbox.ask("sandbox:complete-in-0.5s#a", 0.5).json()["status"] == "completed"
    assert sandbox.ask("sandbox:complete-in-0.5s#b").json()["status"] == "pending"
    assert sandbox.ask("sandbox:complete-in-0.5s").json()["status"] == "pending"
    assert Sandbox().ask("sandbox:complete-in-0.5s#a", 0.5).json()["status"] == "pending"


def test_a_suffix_arrives_url_encoded(sandbox: Sandbox) -> None:
    answer = call(sandbox.app, "GET", "/v1/video/query?id=sandbox%3Anever%23order%2042", headers=KEY)
    assert answer.json()["id"] == "sandbox:never#order 42"


def test_never_grows_without_end(sandbox: Sandbox) -> None:
    bodies = [sandbox.ask("sandbox:never", at).json() for at in (0, 60, 86_400, 10_000_000)]
    assert {body["status"] for body in bodies} == {"pending"}
    progress = [body["detail"]["pending_info"]["progress_pct"] for body in bodies]
    assert progress == sorted(progress)
    assert progress[-1] < 1


def test_failures(sandbox: Sandbox) -> None:
    assert sandbox.ask("sandbox:fail-in-3s", 0).json()["status"] == "pending"
    body = sandbox.ask("sandbox:fail-in-3s", 3).json()
    assert list(body) == ["id", "status", "status_update_time", "error"]
    assert body["status"] == "failed"
    assert isinstance(body["error"], str)


def test_moderation(sandbox: Sandbox) -> None:
    assert sandbox.ask("sandbox:moderated-in-3s", 0).json()["status"] == "pending"
    body = sandbox.ask("sandbox:moderated-in-3s", 3).json()
    info = body["detail"]["pending_info"]
    assert body["status"] == body["detail"]["status"] == info["status"] == "failed"
    assert body["error"]["code"] == info["moderation_result"]["code"] == "content_policy_violation"
    assert info["moderation_result"]["type"] != "passed"
    assert info["failure_reason"] == body["error"]["message"]


def test_backwards(sandbox: Sandbox) -> None:
    bodies = [sandbox.ask("sandbox:backwards-in-4s", at).json() for at in (0, 2, 3.9, 4)]
    assert [body["status"] for body in bodies] == ["processing", "pending", "processing", "completed"]
    progress = [body["detail"]["pending_info"]["progress_pct"] for body in bodies[:3]]
    assert progress[1] < progress[0]


def test_rate_limit_counts_down(sandbox: Sandbox) -> None:
    answers = [sandbox.ask("sandbox:rate-limited-until-4s", at) for at in (0, 1.5, 3.9, 4)]
    assert [answer.status_code for answer in answers] == [429, 429, 429, 200]
    assert [answer.headers.get("retry-after") for answer in answers] == ["4", "3", "1", None]
    assert answers[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[3].json()["status"] == "completed"


def test_garbage_is_html_and_broken_json_by_turns(sandbox: Sandbox) -> None:
    answers = [sandbox.ask("sandbox:garbage-until-2s", at) for at in (0, 0.5, 1)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.headers["content-type"] for answer in answers] == ["text/html", "application/json", "text/html"]
    for answer in answers:
        with pytest.raises(ValueError, match="char"):
            answer.json()
    assert sandbox.ask("sandbox:garbage-until-2s", 2).json()["status"] == "completed"


@pytest.mark.parametrize(
    ("id", "status", "code"),
    [
        ("sandbox:error-500-until-3s", 500, "get_task_failed"),
        ("sandbox:not-found-until-3s", 404, "task_not_found"),
    ],
)
def test_http_errors_then_completed(sandbox: Sandbox, id: str, status: int, code: str) -> None:
    answer = sandbox.ask(id, 0)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert sandbox.ask(id, 3).json()["status"] == "completed"


def test_redirect_then_completed(sandbox: Sandbox) -> None:
    answer = sandbox.ask("sandbox:redirect-until-1s", 0)
    assert (answer.status_code, answer.text) == (302, "")
    assert answer.headers["location"].startswith("https://")
    assert sandbox.ask("sandbox:redirect-until-1s", 1).json()["status"] == "completed"


def test_new_status_then_completed(sandbox: Sandbox) -> None:
    assert sandbox.ask("sandbox:new-status-until-1s", 0).json()["status"] == "grading"
    assert sandbox.ask("sandbox:new-status-until-1s", 1).json()["status"] == "completed"


def test_quota_and_key_never_recover(sandbox: Sandbox) -> None:
    for at in (0, 1_000_000):
        spent = sandbox.ask("sandbox:quota", at)
        assert spent.status_code == 429
        assert (spent.json()["error"]["type"], spent.json()["error"]["code"]) == (
            "insufficient_quota",
            "insufficient_user_quota",
        )
        assert "retry-after" not in spent.headers
        assert sandbox.ask("sandbox:unauthorized").status_code == 401


def test_complete_without_url(sandbox: Sandbox) -> None:
    answer = sandbox.ask("sandbox:complete-without-url", 0)
    assert answer.json()["status"] == "completed"
    assert "http" not in answer.text.replace("https://sandbox.invalid/cdn/1.png", "")  # the task's own input


def test_late_url(sandbox: Sandbox) -> None:
    early, late = (sandbox.ask("sandbox:late-url-until-2s", at).json() for at in (0, 2))
    assert early["status"] == late["status"] == "completed"
    assert "video_url" not in early
    assert late["video_url"]


def test_error_status_with_http_200(sandbox: Sandbox) -> None:
    answer = sandbox.ask("sandbox:error-status", 0)
    assert (answer.status_code, answer.json()["status"]) == (200, "error")


def test_slow_answer_takes_its_time(sandbox: Sandbox) -> None:
    began = time.monotonic()
    assert sandbox.ask("sandbox:slow-answer-0.2s", 0).json()["status"] == "completed"
    assert time.monotonic() - began >= 0.19


@pytest.mark.parametrize("id", ["sandbox:unknown", "sandbox:unknown#1", "sora-2:task_01k6x15vhrff09dkkqjrzwhm60"])
def test_unknown_task(sandbox: Sandbox, id: str) -> None:
    answer = sandbox.ask(id)
    assert answer.status_code == 400
    assert answer.json() == {"code": "task_not_exist", "message": "task_not_exist", "data": None}


@pytest.mark.parametrize(
    "id",
    [
        "sandbox:",
        "sandbox:nothing-like-that",
        "sandbox:complete-in-s",
        "sandbox:complete-in-Ns",
        "sandbox:complete-in--1s",
        "sandbox:complete-in-1e9s",
        "sandbox:complete-in-nans",
        "sandbox:complete-in-99999999999s",
        "sandbox:complete-in-٣s",
        "sandbox:never-5s",
    ],
)
def test_an_unknown_behaviour_is_told_what_there_is(sandbox: Sandbox, id: str) -> None:
    answer = sandbox.ask(id)
    assert (answer.status_code, answer.json()["code"]) == (400, "task_not_exist")
    assert all(known in answer.json()["message"] for known in behaviours())


def test_every_listed_behaviour_is_played(sandbox: Sandbox) -> None:
    assert len(behaviours()) == len(BEHAVIOURS)
    for name, does in behaviours().items():
        assert re.fullmatch(r"sandbox:[a-z0-9-]+(Ns)?", name)
        assert does
        answer = sandbox.ask(name.replace("Ns", "0.01s"))
        assert "known here" not in answer.text


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer    ", "Basic c2s6", "sk-anything"])
def test_a_key_is_required(sandbox: Sandbox, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = call(sandbox.app, "GET", "/v1/video/query?id=sandbox:never", headers=headers)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type"}
    assert answer.json()["error"]["type"] == "new_api_error"


def test_the_scheme_has_no_case(sandbox: Sandbox) -> None:
    assert call(
        sandbox.app, "GET", "/v1/video/query?id=sandbox:never", headers={"Authorization": "bearer k"}
    ).is_success


@pytest.mark.parametrize("query", ["", "?id=", "?task_id=sandbox:never"])
def test_an_id_is_required(sandbox: Sandbox, query: str) -> None:
    answer = call(sandbox.app, "GET", f"/v1/video/query{query}", headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("path", ["/", "/v1/video/query?id=sandbox:never"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get(sandbox: Sandbox, method: str, path: str) -> None:
    answer = call(sandbox.app, method, path, headers=KEY)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


def test_other_paths_are_refused_in_the_same_shape(sandbox: Sandbox) -> None:
    for path, status in (("/v1/video/other", 404), ("/v1/video/create", 405)):
        answer = call(sandbox.app, "GET", path, headers=KEY)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type"}


def test_front_page_lists_the_behaviours_without_a_key(sandbox: Sandbox) -> None:
    assert call(sandbox.app, "GET", "/").json()["behaviours"] == behaviours()


def test_memory_is_bounded_and_drops_the_id_asked_longest_ago() -> None:
    sandbox = Sandbox(remembered_ids=2)
    for id in ("a", "b", "a", "c"):
        sandbox.ask(f"sandbox:complete-in-5s#{id}", 0)
    sandbox.ask("sandbox:no-such-behaviour")  # takes no place
    assert sandbox.ask("sandbox:complete-in-5s#a", 5).json()["status"] == "completed"
    assert sandbox.ask("sandbox:complete-in-5s#b").json()["status"] == "pending"


def test_a_clock_set_back_does_no_harm(sandbox: Sandbox) -> None:
    sandbox.ask("sandbox:complete-in-5s", 10)
    body = sandbox.ask("sandbox:complete-in-5s", 0).json()
    assert body["detail"]["pending_info"]["progress_pct"] == 0
