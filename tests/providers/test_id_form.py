"""Ids of several parts: how they are taken apart, and where the parts go."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.errors import ConfigError
from relay.outbound.transport import Transport
from relay.providers.definition import load_definition
from relay.providers.id_form import IdForm
from relay.providers.provider import Provider
from relay.security.guard import Guard
from tests.support.upstream import answering, targets

SHIPPED = Path(__file__).parents[2] / "config/providers"
NOW = 1_760_000_000_000


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("form", "task_id", "parts"),
    [
        ("", "any thing/at:all", {}),
        ("{a}/{b}", "x/y", {"a": "x", "b": "y"}),
        ("{a}/{b}", "x", None),
        ("{a}/{b}", "x/", None),
        ("{a}/{b}", "x/y/z", None),
        ("{a}/{b}", "x/..", None),
        ("{a}:{b}", "x:y:z", {"a": "x", "b": "y:z"}),
        ("{a}:{b}", "x:..", None),
        ("{a}/runs/{b}", "x/runs/y", {"a": "x", "b": "y"}),
        ("{a}/runs/{b}", "x/jobs/y", None),
        ("{model_path}/{id}", "owner/model/y", {"model_path": "owner/model", "id": "y"}),
        ("{model_path}/{id}", "../model/y", None),
        ("v1.0/{a}", "v1x0/y", None),
        ("{a}/{b}", "é {b}/100%", {"a": "é {b}", "b": "100%"}),
    ],
)
def test_an_id_is_taken_apart(form: str, task_id: str, parts: dict[str, str] | None) -> None:
    assert IdForm(form).parts(task_id) == parts


@pytest.mark.parametrize(
    ("request_table", "why"),
    [
        ('id = "{a}{b}"\npath = "/{a}/{b}"', "request.id: needs something between two parts"),
        ('id = "{a}/{a}"\npath = "/{a}"', "request.id: holds a name twice"),
        ('id = "a"\npath = "/{task_id}"', "request.id: holds no name"),
        ('id = "{a"\npath = "/{task_id}"', "request.id: must be names in braces"),
        ('id = "{key}/{a}"\npath = "/{a}"', "request.id: {key} means something else already"),
        ('id = "{a}/{b}"\npath = "/{a}"', "id: {b} stands nowhere"),
        ('id = "{a}/{b}"\npath = "/{a}/{b}/{c}"', "'{c}' is no placeholder; {task_id} and {task_path} and {a} and {b}"),
        ('path = "/{a}"', "'{a}' is no placeholder"),
    ],
)
def test_a_mistake_is_told(request_table: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text(f'[request]\n{request_table}\n[read]\nstatus = "s"\n[statuses]\ncompleted = ["done"]', "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_definition(file, {})
    assert why in caught.value.detail


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "task_id", "target", "body"),
    [
        ("deepl-document", "D 1/K&{2}", "/v2/document/D%201", {"document_key": "K&{2}"}),
        ("together-queue", "o/m-2.1/r?1", "/v1/queue/status?request_id=r%3F1&model=o/m-2.1", None),
        ("runpod", "4xk2/status/60902e6c-u1", "/v2/4xk2/status/60902e6c-u1", None),
        ("openai-eval-run", "e/runs/r", "/v1/evals/e/runs/r", None),
        ("dbt-cloud-run", "1/runs/2", "/api/v2/accounts/1/runs/2/", None),
        ("hf-job", "me/7", "/api/jobs/me/7", None),
        ("cloudflare-stream", "a/stream/v", "/client/v4/accounts/a/stream/v", None),
        ("together-queue", "r1", None, None),
        ("deepl-document", "D/K/2", None, None),
    ],
)
async def test_the_parts_go_where_the_file_names_them(
    name: str, task_id: str, target: str | None, body: dict[str, str] | None
) -> None:
    async with answering(lambda _: (200, {"status": "pending"})) as upstream:
        address = {f"{name.upper().replace('-', '_')}_BASE_URL": upstream.url("")}
        transport = Transport(Guard([ip_network("127.0.0.0/8")]), timeout=30, max_bytes=10_000)
        provider = Provider(load_definition(SHIPPED / f"{name}.toml", address), "sk-1", transport)
        await provider.query(task_id, None, NOW)
        await transport.aclose()
    problem = provider.id_problem(task_id)
    if target is None:
        assert upstream.heard == []
        assert problem is not None
        assert f"must be of the form {provider.definition.request.id}" in problem
    else:
        assert targets(upstream) == [target]
        assert problem is None
        assert body is None or json.loads(upstream.body) == body
