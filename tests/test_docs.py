"""The documentation keeps its word: every snippet runs, every definition loads, every key and every link is there."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import jmespath
import orjson
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.channels.base import Message
from relay.errors import ConfigError
from relay.model.cadence import Cadence
from relay.model.delivery import DeliveryState, Outcome, Verdict
from relay.model.event import EventType, event_body
from relay.model.reading import Kind
from relay.model.watch import Caution, State
from relay.outbound.lane import Limit
from relay.outbound.prepared import OverHttpx
from relay.providers.answer_paths import Envelope, ErrorPaths, Read, ResultPaths
from relay.providers.auth import Basic, Jwt, OAuth, SigV4
from relay.providers.bulk import Bulk
from relay.providers.definition import Definition, RequestTable, load_definition
from relay.providers.follow import Follow
from relay.providers.paths import Path as JmesPath
from relay.providers.provider import Provider
from relay.providers.statuses import Errors, Statuses
from relay.providers.submit import Submit
from relay.security import signing
from tests.support.channels import resources
from tests.support.deployment import API_KEY, SECRET, deployment, environment

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ENVIRON = {**os.environ, "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"}

node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on the PATH")
shell = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "openssl", "curl"))), reason="bash, openssl or curl is not on the PATH"
)


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda file: str(file.relative_to(ROOT))
)
def test_links_lead_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.M | re.S)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = file if not path else file.parent / path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, link


# -------------------------------------------------------------------------------------------------------- lifecycle


@pytest.mark.parametrize("words", [State, Kind, DeliveryState, EventType], ids=lambda words: words.__name__)
def test_the_lifecycle_names_every_one(words: Any) -> None:
    text = page("lifecycle.md")
    missing = [word.value for word in words if f"`{word.value}`" not in text and word is not EventType.TEST]
    assert not missing


def test_the_lifecycle_has_the_numbers_of_unified_video() -> None:
    definition = load_definition(ROOT / "config/providers/unified-video.toml", {})
    rows = re.findall(r"^\| `(cadence|caution)\.(\w+)` \| ([\d.]+) \|", page("lifecycle.md"), re.MULTILINE)
    fields = (*dataclasses.fields(Cadence), *dataclasses.fields(Caution))
    assert len(rows) == sum(field.default is not None and field.type != "bool" for field in fields)
    for table, key, value in rows:
        assert getattr(getattr(definition, table), key) == float(value), key


# ----------------------------------------------------------------------------------------------- verify a signature

NOW = int(time.time())
TOKEN = "token-of-the-room"
OTHER = signing.new_secret()
BODY = event_body(EventType.TEST, NOW * 1000, {"message": "ein Wort, 一个词", "number": 1.50})


def request(*secrets: str, at: int = 0, **changed: str) -> tuple[dict[str, str], bytes]:
    """A request signed now (or `at` seconds from now), then changed."""
    stamp = int(time.time()) + at
    body = changed.pop("body", "").encode() or BODY
    headers = {
        "webhook-id": "evt_01K6X1BFFA3DR786HARH8MAQT4",
        "webhook-timestamp": str(stamp),
        "webhook-signature": signing.sign(secrets, "evt_01K6X1BFFA3DR786HARH8MAQT4", stamp, BODY),
    }
    return headers | {f"webhook-{name}": value for name, value in changed.items()}, body


GOOD = {
    "signed": lambda: request(SECRET),
    "while a secret is rotated": lambda: request(OTHER, SECRET),
    "four minutes old": lambda: request(SECRET, at=-240),
}
BAD = {
    "another body": lambda: request(SECRET, body=BODY.decode().replace("relay.test", "task.completed")),
    "one byte more": lambda: request(SECRET, body=BODY.decode() + "\n"),
    "another id": lambda: request(SECRET, id="evt_other"),
    "another timestamp": lambda: request(SECRET, timestamp=str(NOW + 100)),
    "ten minutes old": lambda: request(SECRET, at=-600),
    "from the future": lambda: request(SECRET, at=600),
    "another secret": lambda: request(OTHER),
    "no signature": lambda: request(SECRET, signature=""),
    "a signature of no shape": lambda: request(SECRET, signature="v1 *"),
    "a signature of another version": lambda: request(
        SECRET, signature=request(SECRET)[0]["webhook-signature"].replace("v1,", "v2,")
    ),
}
SITUATIONS = [pytest.param(make, True, id=name) for name, make in GOOD.items()] + [
    pytest.param(make, False, id=name) for name, make in BAD.items()
]

PYTHON = blocks("verify-a-signature.md", "python")
PYTHON_DRIVER = """
import base64, json, sys
given = json.load(sys.stdin)
print(json.dumps(verify(given["secret"], given["headers"], base64.b64decode(given["body"]))))
"""
NODE_DRIVER = """
import { readFileSync } from "node:fs";
import { verify } from "./verify.mjs";
const given = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(verify(given.secret, given.headers, Buffer.from(given.body, "base64"))));
"""


def run(command: list[str], folder: Path, given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, input=given, env=ENVIRON | environ, capture_output=True, text=True, timeout=60
    )


def judge(done: subprocess.CompletedProcess[str], good: bool) -> None:
    assert (done.returncode == 0) is good, done.stdout + done.stderr


def as_json(headers: dict[str, str], body: bytes) -> str:
    return json.dumps({"secret": SECRET, "headers": headers, "body": base64.b64encode(body).decode()})


def test_every_snippet_of_the_page_is_tested() -> None:
    languages = re.findall(r"^```(\w+)$", page("verify-a-signature.md"), re.MULTILINE)
    assert sorted(languages) == ["bash"] * 3 + ["js"] + ["python"] * 3


@pytest.mark.parametrize("snippet", PYTHON[:2], ids=["standardwebhooks", "standard library"])
@pytest.mark.parametrize(("make", "good"), SITUATIONS)
def test_python(snippet: str, make: Any, good: bool, tmp_path: Path) -> None:
    (tmp_path / "try.py").write_text(snippet + PYTHON_DRIVER, "utf-8")
    done = run([sys.executable, "try.py"], tmp_path, as_json(*make()))
    judge(done, good)
    assert not good or json.loads(done.stdout) == json.loads(BODY)


@node
@pytest.mark.parametrize(("make", "good"), SITUATIONS)
def test_node(make: Any, good: bool, tmp_path: Path) -> None:
    (tmp_path / "verify.mjs").write_text(blocks("verify-a-signature.md", "js")[0], "utf-8")
    (tmp_path / "try.mjs").write_text(NODE_DRIVER, "utf-8")
    done = run(["node", "try.mjs"], tmp_path, as_json(*make()))
    judge(done, good)
    assert not good or json.loads(done.stdout) == json.loads(BODY)


@shell
@pytest.mark.parametrize(("make", "good"), SITUATIONS)
def test_openssl(make: Any, good: bool, tmp_path: Path) -> None:
    headers, body = make()
    (tmp_path / "body").write_bytes(body)
    variables = {name.upper().replace("-", "_"): value for name, value in headers.items()}
    snippet = blocks("verify-a-signature.md", "bash")[0]
    judge(run(["bash", "-c", snippet], tmp_path, WEBHOOK_SECRET=SECRET, **variables), good)


@pytest.fixture
def receiver_url(tmp_path: Path) -> Iterator[str]:
    """The page's whole receiver, running."""
    (tmp_path / "verify.py").write_text(PYTHON[1], "utf-8")
    (tmp_path / "receiver.py").write_text(PYTHON[2], "utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = ENVIRON | {"PORT": str(port), "WEBHOOK_SECRET": SECRET}
    with running([sys.executable, "receiver.py"], tmp_path, environ, port):
        yield f"http://127.0.0.1:{port}/hook"


@contextmanager
def running(command: list[str], folder: Path, environ: dict[str, str], port: int) -> Iterator[None]:
    """A server in a process of its own, until it takes connections."""
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert child.poll() is None, (folder / "log").read_text()
                    time.sleep(0.05)
            yield
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(10)


def inbox(folder: Path) -> list[tuple[str, bytes]]:
    """What the receiver has stored."""
    connection = sqlite3.connect(folder / "inbox.db")
    try:
        return connection.execute("SELECT webhook_id, body FROM events").fetchall()
    finally:
        connection.close()


def test_the_receiver_stores_each_event_once_and_nothing_else(receiver_url: str, tmp_path: Path) -> None:
    with httpx.Client(trust_env=False) as client:
        for make in (*GOOD.values(), *BAD.values()):
            headers, body = make()
            expected = 204 if make in GOOD.values() else 401
            assert client.post(receiver_url, headers=headers, content=body).status_code == expected
    assert inbox(tmp_path) == [("evt_01K6X1BFFA3DR786HARH8MAQT4", BODY)]


@shell
def test_curl_signs_an_event(receiver_url: str, tmp_path: Path) -> None:
    snippet = blocks("verify-a-signature.md", "bash")[1]
    for secret, good in ((SECRET, True), (OTHER, False)):
        judge(run(["bash", "-c", snippet], tmp_path, WEBHOOK_SECRET=secret, RECEIVER_URL=receiver_url), good)
    ((webhook_id, body),) = inbox(tmp_path)
    assert webhook_id.startswith("evt_try_")
    assert json.loads(body)["type"] == "relay.test"


@shell
@pytest.mark.anyio
async def test_curl_has_relay_send_an_event(receiver_url: str, tmp_path: Path) -> None:
    snippet = blocks("verify-a-signature.md", "bash")[2]
    async with deployment(environment(f"sqlite:///{tmp_path / 'relay.db'}"), working=False) as relay:
        for key, good in ((API_KEY, True), ("rly_wrong", False)):
            variables = {"RELAY_URL": relay.url, "RELAY_API_KEY": key, "RECEIVER_URL": receiver_url}
            done = await asyncio.to_thread(run, ["bash", "-c", snippet], tmp_path, **variables)
            judge(done, good)
            if good:
                answer = json.loads(done.stdout)
                assert (answer["delivered"], answer["attempt"]["status"]) == (True, 204)
    assert [webhook_id for webhook_id, _ in inbox(tmp_path)] == [answer["webhook_id"]]


# --------------------------------------------------------------------------------------------------------- tutorial


def test_the_receiver_of_the_tutorial_takes_an_end_of_either_kind(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "receiver.py").write_text(blocks("tutorial.md", "python")[2].replace("9000", str(port)), "utf-8")
    completed = {"result": {"url": "https://cdn.example/v.mp4"}, "error": None}
    failed = {"result": None, "error": {"code": "moderated", "message": "no"}}
    environ = ENVIRON | {"RELAY_SIGNING_SECRET": SECRET, "PYTHONUNBUFFERED": "1"}
    with running([sys.executable, "receiver.py"], tmp_path, environ, port), httpx.Client(trust_env=False) as client:
        # It prints after its answer and takes one request at a time: the last one, a repetition, waits for the prints.
        for kind, end in (("completed", completed), ("failed", failed), ("failed", failed)):
            body = event_body(EventType(f"task.{kind}"), NOW * 1000, {"metadata": {"order": "42"}, **end})
            stamp = int(time.time())
            signature = signing.sign([SECRET], f"evt_{kind}", stamp, body)
            headers = {"id": f"evt_{kind}", "timestamp": str(stamp), "signature": signature}
            headers = {f"webhook-{name}": value for name, value in headers.items()}
            assert client.post(f"http://127.0.0.1:{port}/hooks/video", headers=headers, content=body).is_success
    printed = [line for line in (tmp_path / "log").read_text("utf-8").splitlines() if line.startswith("task.")]
    assert printed == [
        "task.completed 42 https://cdn.example/v.mp4",
        "task.failed 42 {'code': 'moderated', 'message': 'no'}",
    ]


# -------------------------------------------------------------------------------------------------- add a provider

PROVIDER_PAGE = page("add-a-provider.md")
TOML = blocks("add-a-provider.md", "toml")
DEFINITIONS = [block for block in TOML if not block.startswith("[[case]]")]
MODELS: dict[str, Any] = {
    "request": RequestTable,
    "auth.basic": Basic,
    "auth.jwt": Jwt,
    "auth.oauth": OAuth,
    "auth.sigv4": SigV4,
    "[submit]": Submit,
    "read": Read,
    "read.envelope": Envelope,
    "read.result": ResultPaths,
    "read.error": ErrorPaths,
    "follow": Follow,
    "bulk": Bulk,
    "statuses": Statuses,
    "errors": Errors,
    "caution": Caution,
    "cadence": Cadence,
    "budget": Limit,
}
REQUIRED, NONE, TABLE = "required", "none", "below"


def keys(model: Any) -> dict[str, Any]:
    """The keys of a table and their defaults, as the page has them."""
    if dataclasses.is_dataclass(model):
        return {field.name: NONE if field.default is None else field.default for field in dataclasses.fields(model)}
    return {field.alias or name: _default(field) for name, field in model.model_fields.items()}


def _default(field: FieldInfo) -> Any:
    if field.is_required():
        return REQUIRED
    match field.default:
        case JmesPath(expressions=expressions):
            return list(expressions)
        case BaseModel():
            return TABLE
        case None:
            return NONE
        case tuple() as values:
            return list(values)
        case value:
            return value


def loaded(folder: Path, text: str, name: str) -> Definition:
    """The definition, loaded as a file beside the ones that relay comes with."""
    shutil.copytree(ROOT / "config/providers", folder, dirs_exist_ok=True)
    (folder / f"{name}.toml").write_text(text, "utf-8")
    return load_definition(folder / f"{name}.toml", {})


def titled(title: str) -> str:
    (block,) = (block for block in DEFINITIONS if tomllib.loads(block).get("title") == title)
    return block


@pytest.mark.parametrize("block", DEFINITIONS, ids=range(len(DEFINITIONS)))
def test_every_definition_of_the_page_loads(block: str, tmp_path: Path) -> None:
    definition = loaded(tmp_path, block, "example")
    assert definition.request.base_url or definition.hosts


def test_every_table_is_described() -> None:
    top = {name for name in Definition.model_fields if name not in ("name", "own_address", "title", "noun", "hosts")}
    assert top == {table.strip("[]") for table in MODELS if "." not in table} | {"auth"}
    assert "`title`" in PROVIDER_PAGE
    assert "`noun`" in PROVIDER_PAGE
    assert "`hosts`" in PROVIDER_PAGE
    assert "`extends`" in PROVIDER_PAGE


@pytest.mark.parametrize("table", MODELS)
def test_every_key_is_described_with_its_default(table: str) -> None:
    kind = table.removeprefix("auth.")
    heading = f"### `[{table}]`\n" if kind == table else f'#### `kind = "{kind}"`\n'
    _, _, section = PROVIDER_PAGE.partition(heading)
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    described = {}
    for key, default in re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|", section, re.MULTILINE):
        words = default in (REQUIRED, NONE, TABLE)
        described[key] = default if words else tomllib.loads(f"value = {default.strip('`')}")["value"]
    assert described == keys(MODELS[table])


def test_the_variables_are_named_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "my-video.toml").write_text(DEFINITIONS[0], "utf-8")
    definition = load_definition(tmp_path / "my-video.toml", {"MY_VIDEO_BASE_URL": "https://other.example"})
    assert definition.request.base_url == "https://other.example"
    with pytest.raises(ConfigError, match="MY_VIDEO_BASE_URL"):
        load_definition(tmp_path / "my-video.toml", {"MY_VIDEO_BASE_URL": "nowhere"})


def test_the_expressions_of_the_page() -> None:
    _, _, section = PROVIDER_PAGE.partition("| expression | finds |\n")
    found = re.findall(r"^\| `(.+?)` \|", section.partition("\n\n")[0], re.MULTILINE)
    assert len(found) == 5
    document = {
        "data": {"status": "on"},
        "videos": [{"url": "u"}],
        "request-id": "r",
        "error": "e",
        "type": "t",
        "code": 1,
    }
    assert [jmespath.search(expression, document) for expression in found] == ["on", "u", "r", "failed", 1]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("title", "task_id", "asked", "said", "read"),
    [
        ("DashScope", "a/b", ("GET", "/api/v1/tasks/a%2Fb", b""), {"output": {"task_status": "RUNNING"}}, "pending"),
        (
            "SiliconFlow video",
            "t1",
            ("POST", "/v1/video/status", b'{"requestId":"t1"}'),
            {"status": "Succeed", "results": {"videos": [{"url": "https://cdn.example/v.mp4"}]}},
            "completed",
        ),
        ("SiliconFlow video", "t1", None, {"status": "Failed", "reason": "no"}, "failed"),
        (
            "Google Veo",
            "models/veo-3/operations/abc",
            ("GET", "/v1beta/models/veo-3/operations/abc", b""),
            {"name": "models/veo-3/operations/abc"},
            "pending",
        ),
        ("Google Veo", "m/o", None, {"name": "m/o", "done": False}, "pending"),
        ("Google Veo", "m/o", None, {"name": "m/o", "done": True, "response": {}}, "completed"),
        ("Google Veo", "m/o", None, {"name": "m/o", "done": True, "error": {"code": 3, "message": "no"}}, "failed"),
        (
            "Google Veo",
            "m/o",
            None,
            {"done": True, "response": {"generateVideoResponse": {"raiMediaFilteredReasons": ["no"]}}},
            "failed",
        ),
    ],
)
async def test_the_examples_ask_and_read(
    title: str, task_id: str, asked: tuple[str, str, bytes] | None, said: dict[str, Any], read: str, tmp_path: Path
) -> None:
    heard: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        return httpx.Response(200, json=said)

    provider = Provider(loaded(tmp_path, titled(title), "example"), "sk-1", OverHttpx(httpx.MockTransport(answer)))
    reading, _ = await provider.query(task_id, None, 0)
    assert reading.kind == read
    assert reading.kind is not Kind.FAILED or (reading.error is not None and reading.error["message"] == "no")
    target = heard[0].extensions["target"].decode()
    assert asked is None or (heard[0].method, target, heard[0].content) == asked
    assert any("sk-1" in value for value in heard[0].headers.values())


def test_the_recorded_answers_of_the_page_pass_its_test(tmp_path: Path) -> None:
    (cases,) = (block for block in TOML if block.startswith("[[case]]"))
    loaded(tmp_path / "config/providers", titled("DashScope"), "dashscope")
    answers = tmp_path / "tests/answers/dashscope"
    answers.mkdir(parents=True)
    (answers / "cases.toml").write_text(cases, "utf-8")
    (tmp_path / "tests/providers").mkdir()
    test = "tests/providers/test_recorded_answers.py"
    shutil.copy(ROOT / test, tmp_path / test)
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-k", "dashscope"]
    done = run([sys.executable, "-m", "pytest", *options, "tests"], tmp_path)
    judge(done, True)
    assert f"{cases.count('[[case]]') + 1} passed" in done.stdout


def test_relay_checks_a_file(tmp_path: Path) -> None:
    loaded(tmp_path, titled("DashScope"), "dashscope")
    done = run([sys.executable, "-m", "relay", "providers", "check", "dashscope.toml"], tmp_path)
    judge(done, True)
    assert "GET /api/v1/tasks/{task_id}" in done.stdout.replace("\n", " ")


# --------------------------------------------------------------------------------------------------- add a channel


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "verdict", "ends"),
    [(200, Verdict.DELIVERED, False), (404, Verdict.GIVE_UP, True), (500, Verdict.RETRY, False)],
)
async def test_the_channel_of_the_page(status: int, verdict: Verdict, ends: bool) -> None:
    outcome, heard = await chat(lambda _: httpx.Response(status, json={"said": TOKEN}))
    assert (outcome.verdict, outcome.status, outcome.ends_target) == (verdict, status, ends)
    assert outcome.answer == b'{"said":"********"}'
    assert json.loads(heard[0].content) == {"text": "t1: task.completed"}


@pytest.mark.anyio
async def test_the_channel_of_the_page_when_nobody_answers() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    outcome, _ = await chat(refuse)
    assert (outcome.verdict, outcome.error) == (Verdict.RETRY, "connect")


async def chat(answer: Any) -> tuple[Outcome, list[httpx.Request]]:
    """What comes of a message through the page's channel."""
    page_module = types.ModuleType("chat")
    with patch.dict(sys.modules, chat=page_module):  # where pydantic looks up the annotations
        exec(blocks("add-a-channel.md", "python")[0], vars(page_module))
    heard: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        response: httpx.Response = answer(request)
        return response

    body = orjson.dumps({"type": "task.completed", "data": {"task_id": "t1"}})
    channel = page_module.ChatChannel(resources(httpx.MockTransport(handle)))
    target = page_module.ChatTarget(type="chat", url="https://chat.example/room", token=TOKEN)
    address = channel.address(target)
    assert TOKEN not in str(channel.show(address.content))
    return await channel.send(Message("evt_1", "task.completed", body, address.content, [SECRET], NOW)), heard
