"""Providers: their files checked when they are loaded, their queries as they go over the wire."""

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import __version__
from relay.errors import ConfigError
from relay.model.cadence import Cadence
from relay.model.reading import TOO_LARGE, Kind, Reading
from relay.model.watch import Caution
from relay.outbound.callers import Caller, CallKind
from relay.outbound.lane import Limit
from relay.outbound.transport import Transport
from relay.providers.definition import SANDBOX, Definition, checked, load_definition
from relay.providers.files import ProviderFiles
from relay.providers.messages import MAX_KEPT
from relay.providers.provider import Provider
from relay.providers.upstreams import Busy, Query, Upstreams
from relay.providers.variables import variable
from relay.security.guard import Guard
from tests.support.loopback import Server, serving
from tests.support.processes import no_descriptors

SHIPPED = Path(__file__).parents[2] / "config/providers"
UNIFIED = (SHIPPED / "unified-video.toml").read_text("utf-8")
LOOPBACK = Guard([ip_network("127.0.0.0/8")])
NOW = 1_760_000_000_000

MINIMAL = """
[request]
path = "/tasks/{task_id}"
[read]
status = "status"
[statuses]
completed = ["done"]
failed = ["failed"]
"""

IDS = [
    "sora-2:task_01k6x15vhrff09dkkqjrzwhm60",
    "a/b",
    "../../admin",
    "a?b=c",
    "a#b",
    "a b",
    "a&id=b",
    "a+b",
    "a=b",
    "100%",
    "%41",
    "%2F",
    "é",
    "任务:1",
    "🎬",
    "{task_id}",
    "{task_path}",
    "{key}",
    "a\r\nX-Injected: yes",
    "\0",
    "~-._",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


# ------------------------------------------------------------------------------------------------------- loading


def loaded(folder: Path, text: str, name: str = "example", **environ: str) -> Definition:
    """The definition that a file with this text holds."""
    (folder / f"{name}.toml").write_text(text, "utf-8")
    return load_definition(folder / f"{name}.toml", environ)


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
def test_every_shipped_definition_loads(file: Path) -> None:
    definition = load_definition(file, {})
    assert definition.name == file.stem
    assert definition.title


def test_the_documented_endpoint_names_no_host_of_its_own() -> None:
    definition = load_definition(SHIPPED / "unified-video.toml", {})
    assert definition.request.base_url == ""
    assert not provider_of(definition).configured
    definition = load_definition(
        SHIPPED / "unified-video.toml", {"UNIFIED_VIDEO_BASE_URL": "https://api.example:8443/sub/"}
    )
    provider = provider_of(definition, "sk-1")
    assert provider.configured
    assert (definition.request.base_url, provider.host) == ("https://api.example:8443/sub", "api.example")
    assert provider.lane(None) == ("api.example", "sk-1")
    assert provider.lane("sk-2") == ("api.example", "sk-2")


def test_the_sandbox_is_the_documented_endpoint_played() -> None:
    unified, sandbox = (load_definition(SHIPPED / f"{name}.toml", {}) for name in ("unified-video", "sandbox"))
    assert sandbox.request.base_url == SANDBOX
    assert (sandbox.read, sandbox.statuses, sandbox.errors) == (unified.read, unified.statuses, unified.errors)
    assert provider_of(sandbox).host == "sandbox"


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    definition = loaded(tmp_path, MINIMAL)
    assert (definition.cadence, definition.budget, definition.caution) == (Cadence(), Limit(), Caution())
    assert (definition.request.method, definition.request.timeout) == ("GET", 20)


def test_extends_overrides_value_by_value(tmp_path: Path) -> None:
    loaded(tmp_path, MINIMAL + '[request.headers]\nA = "1"\nB = "2"\n[cadence]\nfirst = 7\n', "grandparent")
    loaded(tmp_path, 'extends = "grandparent"\n[request.headers]\nB = "3"\n', "parent")
    definition = loaded(tmp_path, 'extends = "parent"\n[cadence]\nsteady = 9\n[statuses]\nfailed = ["no", "never"]\n')
    assert definition.name == "example"
    assert definition.request.headers == {"A": "1", "B": "3"}
    assert (definition.cadence.first, definition.cadence.steady) == (7, 9)
    assert (definition.statuses.completed, definition.statuses.failed) == (("done",), ("no", "never"))


def test_the_address_comes_from_the_environment_first(tmp_path: Path) -> None:
    text = MINIMAL.replace("[request]", '[request]\nbase_url = "https://file.example"')
    assert loaded(tmp_path, text, "my-api").request.base_url == "https://file.example"
    environ = {variable("my-api", "BASE_URL"): "https://environment.example/"}
    assert environ.keys() == {"MY_API_BASE_URL"}
    assert loaded(tmp_path, text, "my-api", **environ).request.base_url == "https://environment.example"


def refusal(folder: Path, text: str, name: str = "example", **environ: str) -> str:
    """The one line with which a definition is refused."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, name, **environ)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize(
    ("change", "where", "why"),
    [
        ("colour = 1", "colour", "is no key of this file; there is title, noun, hosts, request"),
        ("[request]\npaht = '/x'", "request.paht", "is no key of this table; did you mean 'path'?"),
        ("[request]\npath = 'x'", "request.path", "must begin with '/'"),
        ("[request]\npath = '/é'", "request.path", "must begin with '/'"),
        ("[request]\npath = '/a b'", "request.path", "must begin with '/'"),
        ("[request]\nmethod = 'PUT'", "request.method", "'GET' or 'POST'"),
        ("[request]\ntimeout = 0", "request.timeout", "must be more than 0"),
        ("[request]\nmax_bytes = 'much'", "request.max_bytes", "a number of bytes, or one such as 500 kB, 8 MiB"),
        ("[request]\nmax_bytes = '33 MiB'", "request.max_bytes", "must be at most 33554432"),
        ("[request]\nmax_bytes = 10", "request.max_bytes", "must be at least 1024"),
        ("[request]\nmax_bytes = true", "request.max_bytes", "must be a number"),
        ("[request]\nquery = { n = 1 }", "request.query.n", "must be a text"),
        ("[request]\njson = { id = '{task_id}' }", "request", "no body is sent with GET"),
        ("[request]\npath = '/tasks'", "request", "needs {task_id} or {task_path}"),
        ("[request]\npath = '/tasks/{id}'", "request.path", "{task_id} and {task_path} can stand here"),
        ("[request]\npath = '/tasks/{task_id'", "request.path", "{task_id} and {task_path} can stand here"),
        ("[request]\nquery = { id = '{key}' }", "request.query", "{task_id} and {task_path} can stand here"),
        ("[request]\nheaders = { X = 'Bearer {kez}' }", "request.headers", "{key} can stand here"),
        ("[request]\nheaders = { X = 'Bearer {key' }", "request.headers", "{key} can stand here"),
        (
            "[request]\nmethod = 'POST'\npath = '/x'\njson = { a = ['{task_path}'] }",
            "request",
            "needs {task_id} or {task_path}",
        ),
        ("[request]\nheaders = { 'X Y' = 'a' }", "request.headers", "without spaces"),
        ("[request]\nheaders = { \"X\\n\" = 'a' }", "request.headers", "without spaces"),
        ('[request]\nheaders = { X = "a\\r\\nY: b" }', "request.headers", "value of 'X' must be printable ASCII"),
        ('[request]\nheaders = { X = "a\\u0000" }', "request.headers", "value of 'X' must be printable ASCII"),
        ("[request]\nbase_url = 'api.example'", "request.base_url", "https:// or http://"),
        ("[request]\nbase_url = 'ftp://api.example'", "request.base_url", "https:// or http://"),
        ("[request]\nbase_url = 'https://'", "request.base_url", "a host"),
        ("[request]\nbase_url = 'https://api.example:x'", "request.base_url", "a host"),
        ("[request]\nbase_url = 'https://api.example:99999'", "request.base_url", "a host"),
        ("[request]\nbase_url = 'https://api example'", "request.base_url", "a host"),
        ("[request]\nbase_url = 'https://api.example/?a=b'", "request.base_url", "without query"),
        ("[request]\nbase_url = 'https://me:hunter2@api.example'", "request.base_url", "without query and password"),
        ("[read]\nstatus = 'a['", "read.status", "not JMESPath"),
        ("[read]\nstatus = ['status', '']", "read.status", "not JMESPath"),
        ("[read]\nstatus = 7", "read.status", "must be an expression, or a list of expressions"),
        ("[read]\nstatus = [7]", "read.status.0", "must be a text"),
        ("[read]\nresult = { url = ['a', 'a.'] }", "read.result.url", "not JMESPath"),
        ("[read]\nresult = { uri = 'a' }", "read.result.uri", "did you mean 'url'?"),
        ("[read]\nerror = { code = '||' }", "read.error.code", "not JMESPath"),
        ("[read]\nprogress = 'a[?nosuchfn(b)]'", "read.progress", "no function 'nosuchfn'; it has abs, avg"),
        ("[statuses]\npending = ['Done']", "statuses", "'done' stands in two places"),
        ("[statuses]\nfailed = ['x', 'done']", "statuses", "'done' stands in two places"),
        ("[statuses]\nunknown_task = ['failed']", "statuses", "'failed' stands in two places"),
        ("[statuses]\npending = ['a', 'A']", "statuses", "'a' stands in two places"),
        ("[statuses]\ncompleted = []", "statuses.completed", "must name at least one"),
        ("[statuses]\ncancelled = ['x']", "statuses.cancelled", "there is pending, completed, failed"),
        ("[errors]\nunknown_task_http = ['404 or so']", "errors.unknown_task_http.0", "must be a whole number"),
        ("[errors]\nunknown_task_http = [404, 429]", "errors.unknown_task_http", "from 400 to 499"),
        ("[errors]\nunknown_task_http = [200]", "errors.unknown_task_http", "from 400 to 499"),
        ("[errors]\nquota = []", "errors.quota", "did you mean 'quota_codes'?"),
        ("[caution]\nlost_afte = 1", "caution.lost_afte", "did you mean 'lost_after'?"),
        ("[caution]\nlost_after = 0", "caution", "at least 1"),
        ("[cadence]\nfrist = 1", "cadence.frist", "did you mean 'first'?"),
        ("[cadence]\nfirst = 'soon'", "cadence.first", "must be a number"),
        ("[cadence]\nsteady = inf", "cadence", "must be 0 to 86400 seconds"),
        ("[budget]\nconcurrency = 0", "budget", "at least 1"),
        ("[budget]\nper_minute = 1", "budget.per_minute", "is no key of this table; there is concurrency, per_second"),
    ],
)
def test_a_mistake_is_told_with_file_and_table(change: str, where: str, why: str, tmp_path: Path) -> None:
    loaded(tmp_path, MINIMAL, "base")
    line = refusal(tmp_path, f'extends = "base"\n{change}')
    assert line.startswith(f"{tmp_path / 'example.toml'}: {where}: ")
    assert why in line
    assert "hunter2" not in line


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(f"{MINIMAL}[budget]\nper_minute = 1\n", "utf-8")
    text = 'extends = "base"\n\n[request]\nmethod = "post"\ntimout = 5 # s\n\n[errors]\nfine_codes = [1]\n'
    (tmp_path / "example.toml").write_text(text, "utf-8")
    definition, lines = checked(tmp_path / "example.toml", {})
    assert definition is None
    assert lines == [
        "request.method: must be 'GET' or 'POST'; did you mean 'POST'? (line 4)",
        "request.timout: is no key of this table; did you mean 'timeout'? (line 5)",
        "errors.fine_codes.0: must be a text (line 8)",
        "budget.per_minute: is no key of this table; there is concurrency, per_second (line 10 of base.toml)",
    ]
    assert "3 more: 'relay providers check" in refusal(tmp_path, text)


@pytest.mark.parametrize("table", ["request", "read", "statuses"])
def test_a_table_that_must_be_there(table: str, tmp_path: Path) -> None:
    text = MINIMAL.replace(f"[{table}]", "[errors]")
    assert refusal(tmp_path, text).startswith(f"{tmp_path / 'example.toml'}: {table}: is missing")


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        ("ftp://api.example", True),
        ("https://api.example/?key=hunter2", False),
        ("https://x:hunter2@api.example", False),
        ("sk-hunter2", False),
    ],
)
def test_a_wrong_address_in_the_environment_names_the_variable(base_url: str, shown: bool, tmp_path: Path) -> None:
    line = refusal(tmp_path, MINIMAL, "my-api", MY_API_BASE_URL=base_url)
    assert line.startswith("MY_API_BASE_URL: must be an address with https:// or http://")
    assert (f", not '{base_url}'" in line) == shown
    assert "hunter2" not in line


@pytest.mark.parametrize("text", ["request = 5", 'request = "x"', "request = [1]"])
def test_a_request_that_is_no_table(text: str, tmp_path: Path) -> None:
    rest = MINIMAL[MINIMAL.index("[read]") :]
    assert ": request" in refusal(tmp_path, f"{text}\n{rest}")
    assert ": request" in refusal(tmp_path, f"{text}\n{rest}", EXAMPLE_BASE_URL="https://api.example")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a": 'extends = "a"'}, "a.toml: extends: 'a' extends this file in turn"),
        ({"a": 'extends = "b"', "b": 'extends = "a"'}, "b.toml: extends: 'a' extends this file in turn"),
        (
            {"a": 'extends = "b"', "b": 'extends = "c"', "c": 'extends = "b"'},
            "c.toml: extends: 'b' extends this file in turn",
        ),
        ({"a": 'extends = "b"'}, "b.toml: [Errno 2] No such file"),
        ({"a": 'extends = "b"', "b": "x = ="}, "b.toml: Invalid value (at line 1"),
        ({"a": 'extends = "../b"'}, "a.toml: extends: '../b' is not the name of a file beside this one"),
        ({"a": 'extends = "/etc/passwd"'}, "a.toml: extends: '/etc/passwd' is not the name"),
        ({"a": "extends = 5"}, "5.toml: [Errno 2] No such file"),
        ({"a": "x = ="}, "a.toml: Invalid value (at line 1"),
        ({"a": "x = " + "[" * 5000}, "a.toml: is nested too deeply"),
        ({"A": MINIMAL}, "A.toml: name: the file's name must be"),
        ({"under_score": MINIMAL}, "under_score.toml: name: the file's name must be"),
    ],
)
def test_a_file_that_cannot_be_used(files: dict[str, str], why: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    first = next(iter(files))
    line = refusal(tmp_path, files[first], first)
    assert line.startswith(f"{tmp_path}/{why}")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.toml: 'utf-8' codec"):
        load_definition(tmp_path / "a.toml", {})


# --------------------------------------------------------------------------------------------------- over the wire


def ok(body: bytes | Any = b'{"status":"pending"}', status: str = "200 OK", headers: bytes = b"") -> bytes:
    body = body if isinstance(body, bytes) else orjson.dumps(body)
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status.encode(), len(body), headers, body)


@asynccontextmanager
async def going_out(guard: Guard = LOOPBACK) -> AsyncIterator[Transport]:
    transport = Transport(guard, timeout=30, max_bytes=1000)
    try:
        yield transport
    finally:
        await transport.aclose()


def provider_of(definition: Definition, key: str | None = None, transport: Transport | None = None) -> Provider:
    return Provider(definition, key, transport or Transport(LOOPBACK, timeout=30, max_bytes=1000))


def unified(base_url: str, **request: Any) -> Definition:
    definition = load_definition(SHIPPED / "unified-video.toml", {"UNIFIED_VIDEO_BASE_URL": base_url})
    return definition.model_copy(update={"request": definition.request.model_copy(update=request)})


async def asked(
    upstream: Server,
    definition: Definition,
    task_id: str = "sora-2:task_1",
    *,
    key: str | None = None,
    own_key: str | None = None,
) -> Reading:
    async with going_out() as transport:
        reading, _ = await Provider(definition, key, transport).query(task_id, own_key, NOW)
        return reading


@pytest.mark.anyio
async def test_the_documented_query() -> None:
    async with serving(ok({"status": "pending", "progress": 12})) as upstream:
        reading = await asked(upstream, unified(upstream.url("")), key="sk-1")
    assert reading == Reading(Kind.PENDING, "pending", 0.12, body=b'{"status":"pending","progress":12}')
    assert upstream.request_line == "GET /v1/video/query?id=sora-2%3Atask_1 HTTP/1.1"
    assert upstream.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept": "application/json",
        "accept-encoding": "gzip, deflate",
        "authorization": "Bearer sk-1",
        "user-agent": f"relay/{__version__}",
    }
    assert upstream.body == b""


@pytest.mark.anyio
@pytest.mark.parametrize("task_id", IDS)
async def test_an_id_is_percent_encoded_wholly_in_the_query(task_id: str) -> None:
    async with serving(ok()) as upstream:
        reading = await asked(upstream, unified(upstream.url("")), task_id)
    assert reading.kind is Kind.PENDING
    method, target, version = upstream.request_line.split(" ")
    path, _, query = target.partition("?")
    assert (method, path, version) == ("GET", "/v1/video/query", "HTTP/1.1")
    assert parse_qs(query, strict_parsing=True) == {"id": [task_id]}
    assert not set(query.removeprefix("id=")) & set(":/?#[]@!$&'()*+,;= {}")
    assert "x-injected" not in upstream.headers


@pytest.mark.anyio
@pytest.mark.parametrize("task_id", IDS)
async def test_an_id_is_one_segment_of_a_path(task_id: str, tmp_path: Path) -> None:
    async with serving(ok()) as upstream:
        await asked(upstream, loaded(tmp_path, MINIMAL, EXAMPLE_BASE_URL=upstream.url("/sub")), task_id)
    target = upstream.request_line.split(" ")[1]
    assert target.startswith("/sub/tasks/")
    segment = target.removeprefix("/sub/tasks/")
    assert not set(segment) & set("/?#")
    assert unquote(segment) == task_id


@pytest.mark.anyio
@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
async def test_any_id_arrives_as_it_is(task_id: str) -> None:
    async with serving(ok()) as upstream:
        await asked(upstream, unified(upstream.url("")), task_id)
    query = upstream.request_line.split(" ")[1].partition("?")[2]
    assert parse_qs(query, strict_parsing=True) == {"id": [task_id]}


@pytest.mark.anyio
async def test_an_id_that_is_a_path_keeps_its_slashes(tmp_path: Path) -> None:
    text = MINIMAL.replace("{task_id}", "{task_path}")
    async with serving(ok()) as upstream:
        definition = loaded(tmp_path, text, EXAMPLE_BASE_URL=upstream.url(""))
        await asked(upstream, definition, "models/a:b/operations/1?x #é")
    assert upstream.request_line == "GET /tasks/models/a:b/operations/1%3Fx%20%23%C3%A9 HTTP/1.1"


@pytest.mark.anyio
@pytest.mark.parametrize("task_id", ["..", ".", "a/../b", "../a", "a/..", "a/./b", "./a"])
async def test_an_id_leads_to_no_other_address(task_id: str, tmp_path: Path) -> None:
    """None of these can be registered. One that got here all the same is a reading, not another path."""
    async with serving(ok()) as upstream:
        for placeholder in ("{task_id}", "{task_path}"):
            text = MINIMAL.replace("{task_id}", placeholder)
            reading = await asked(upstream, loaded(tmp_path, text, EXAMPLE_BASE_URL=upstream.url("/sub")), task_id)
            if "/" in task_id and placeholder == "{task_id}":  # one part, which is not '..'
                assert upstream.heard.pop().split(b" ")[1].count(b"/") == 3
            else:
                assert (reading.kind, reading.error and reading.error["code"]) == (Kind.NOT_ANSWERED, "protocol")
    assert upstream.heard == []


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["GET", "POST"])
async def test_httpx_builds_a_query_once_for_each_key(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(ok()) as upstream, going_out() as transport:
        definition = loaded(tmp_path, POST if text == "POST" else MINIMAL, EXAMPLE_BASE_URL=upstream.url(""))
        provider = Provider(definition, "sk-0", transport)
        for key in (None, "sk-1"):
            await provider.query("first", key, NOW)
        with monkeypatch.context() as without:
            for name in ("Request", "Response", "Headers", "URL"):
                without.delattr(httpx, name)
            for key in (None, "sk-1"):
                reading, _ = await provider.query("second", key, NOW)
                assert reading.kind is Kind.PENDING
    assert len(upstream.heard) == 4
    assert b"second" in upstream.heard[-1]


@pytest.mark.anyio
async def test_names_and_values_of_the_query_are_plain_text(tmp_path: Path) -> None:
    query = '[request]\nquery = { id = "task:{task_id}", "the name" = "a&b=c #%é", v = "1" }'
    async with serving(ok()) as upstream:
        definition = loaded(tmp_path, MINIMAL.replace("[request]", query), EXAMPLE_BASE_URL=upstream.url(""))
        await asked(upstream, definition, "x/y")
    sent = upstream.request_line.split(" ")[1].partition("?")[2]
    assert parse_qs(sent, strict_parsing=True) == {"id": ["task:x/y"], "the name": ["a&b=c #%é"], "v": ["1"]}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("key", "own_key", "authorization"),
    [
        (None, None, None),
        ("", None, None),
        ("sk-1", None, "Bearer sk-1"),
        ("sk-1", "sk-2", "Bearer sk-2"),
        (None, "sk-2", "Bearer sk-2"),
        ("sk-1", "{task_id}", "Bearer {task_id}"),
    ],
)
async def test_the_key_goes_into_the_authorization_header(
    key: str | None, own_key: str | None, authorization: str | None
) -> None:
    async with serving(ok()) as upstream:
        await asked(upstream, unified(upstream.url("")), key=key, own_key=own_key)
    assert upstream.headers.get("authorization") == authorization
    assert "sk-" not in upstream.request_line


@pytest.mark.anyio
async def test_to_have_no_descriptor_left_is_no_miss() -> None:
    async with serving(ok()) as upstream, going_out() as transport:
        provider = Provider(unified(upstream.url("")), "sk-0", transport)
        upstreams = Upstreams(ProviderFiles({provider.name: SHIPPED}, lambda _: provider), lambda: NOW)
        with no_descriptors():
            assert isinstance(await upstreams.query(provider, "t", None, Caller(CallKind.POLL, "app")), Busy)
        query = await upstreams.query(provider, "t", None, Caller(CallKind.POLL, "app"))
        assert isinstance(query, Query)
        assert query.reading.kind is Kind.PENDING


@pytest.mark.anyio
async def test_watches_with_different_keys_do_not_mix() -> None:
    async with serving(ok()) as upstream, going_out() as transport:
        provider = Provider(unified(upstream.url("")), "sk-0", transport)
        for number in range(1, 2500):
            key = f"sk-{number % 1200}" if number % 3 else None
            await provider.query("t", key, NOW)
            assert upstream.headers["authorization"] == f"Bearer {key or 'sk-0'}"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "key", ["sk-hunter2\r\nX-Injected: yes", "sk-hunter2\n", "ключ-hunter2", "sk-hunter2\0", "\x7f"]
)
async def test_a_key_that_no_header_can_carry_is_a_reading(key: str) -> None:
    """Else its watch would break at every poll, and never end."""
    async with serving(ok()) as upstream:
        reading = await asked(upstream, unified(upstream.url("")), own_key=key)
    assert upstream.heard == []
    assert (reading.kind, reading.error and reading.error["code"]) == (Kind.NOT_ANSWERED, "unauthorized")
    assert "hunter2" not in str(reading)


POST = """
[request]
method = "POST"
path = "/query"
headers = { X-Key = "{key}", X-Plain = "yes" }
json = { id = "{task_id}", ids = ["{task_id}", "x-{task_id}"], deep = { n = 1, flag = true, id = "{task_id}" } }
[read]
status = "status"
[statuses]
completed = ["done"]
failed = ["failed"]
"""


@pytest.mark.anyio
@pytest.mark.parametrize("task_id", IDS)
async def test_a_post_with_a_json_body(task_id: str, tmp_path: Path) -> None:
    async with serving(ok()) as upstream:
        definition = loaded(tmp_path, POST, EXAMPLE_BASE_URL=upstream.url(""))
        await asked(upstream, definition, task_id, key="k")
    assert upstream.request_line == "POST /query HTTP/1.1"
    assert json.loads(upstream.body) == {
        "id": task_id,
        "ids": [task_id, f"x-{task_id}"],
        "deep": {"n": 1, "flag": True, "id": task_id},
    }
    assert (upstream.headers["content-type"], upstream.headers["x-key"]) == ("application/json", "k")
    assert int(upstream.headers["content-length"]) == len(upstream.body)


@pytest.mark.anyio
async def test_a_header_that_needs_a_key_is_left_out_without_one(tmp_path: Path) -> None:
    async with serving(ok()) as upstream:
        await asked(upstream, loaded(tmp_path, POST, EXAMPLE_BASE_URL=upstream.url("")))
    assert "x-key" not in upstream.headers
    assert upstream.headers["x-plain"] == "yes"


# -------------------------------------------------------------------------------------- whatever happens is a reading


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def stalls(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"status":')
    await asyncio.Event().wait()


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    raise ConnectionResetError


async def breaks_off(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"status":"completed"}')
    await writer.drain()
    raise ConnectionResetError


async def breaks_off_in_a_chunk(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n16\r\n{"status":"completed"}\r\n')
    await writer.drain()
    raise ConnectionResetError


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (never, "timeout"),
        (stalls, "timeout"),
        (hangs_up, "disconnected"),
        (breaks_off, "disconnected"),
        (breaks_off_in_a_chunk, "disconnected"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "protocol"),
        (b"\0" * 100, "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "protocol"),
    ],
)
async def test_a_query_without_an_answer_is_a_reading(
    behaviour: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]], code: str
) -> None:
    async with serving(behaviour) as upstream, asyncio.timeout(5):
        reading = await asked(upstream, unified(upstream.url(""), timeout=0.2), "secret-task", key="sk-hunter2")
    assert reading.kind is Kind.NOT_ANSWERED
    assert reading.error is not None
    assert reading.error["code"] == code
    assert reading.error["message"].startswith("no answer from 127.0.0.1: ")
    assert "hunter2" not in str(reading)
    assert "secret-task" not in str(reading)


@pytest.mark.anyio
async def test_a_refused_connection_is_a_reading() -> None:
    async with serving(ok()) as upstream:
        pass
    reading = await asked(upstream, unified(upstream.url("")))
    assert (reading.kind, reading.error and reading.error["code"]) == (Kind.NOT_ANSWERED, "connect")


@pytest.mark.anyio
async def test_a_private_address_that_is_not_allowed_is_a_reading() -> None:
    async with serving(ok()) as upstream, going_out(Guard()) as transport:
        reading, _ = await Provider(unified(upstream.url("")), None, transport).query("t", None, NOW)
    assert (reading.kind, reading.error and reading.error["code"]) == (Kind.NOT_ANSWERED, "blocked")
    assert upstream.heard == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            ok(b"slow down", "429 Too Many Requests", b"Retry-After: 7\r\n"),
            Reading(
                Kind.NOT_ANSWERED,
                error={"code": "rate_limited", "message": "the upstream answered HTTP 429"},
                retry_after=7.0,
                limited=True,
            ),
        ),
        (
            ok(b"", "302 Found", b"Location: https://login.example/\r\n"),
            Reading(
                Kind.NOT_UNDERSTOOD,
                error={"code": "redirected", "message": "HTTP 302, redirected to https://login.example/"},
            ),
        ),
        *[
            (
                ok(b"", f"{status} Elsewhere"),
                Reading(
                    Kind.NOT_UNDERSTOOD,
                    error={"code": "redirected", "message": f"HTTP {status}, redirected to nowhere"},
                ),
            )
            for status in (300, 301, 302, 303, 304, 305, 307, 308, 399)
        ],
        *[
            (
                ok(b"odd", f"{status} Odd"),
                Reading(
                    Kind.NOT_ANSWERED,
                    error={"code": f"http_{status}", "message": f"the upstream answered HTTP {status}"},
                ),
            )
            for status in (600, 700, 999)
        ],
        *[
            (
                ok(b"\x0b\x80", headers=b"Content-Encoding: %b\r\n" % coding),
                Reading(
                    Kind.NOT_UNDERSTOOD,
                    error={
                        "code": "not_json",
                        "message": f"HTTP 200, but the answer is compressed with '{name}', which relay does not read",
                    },
                ),
            )
            for coding, name in ((b"br", "br"), (b"identity, zstd", "zstd"), (b"\xe9\0 compress", "compress"))
        ],
        (
            ok({"code": "task_not_exist", "message": "gone"}, "400 Bad Request"),
            Reading(
                Kind.UNKNOWN_TASK,
                error={"code": "unknown_task", "message": "gone"},
                aside=b'{"code":"task_not_exist","message":"gone"}',
                http_status=400,
            ),
        ),
        (
            ok(b"<html>", "503 Busy", b"Retry-After: Thu, 09 Oct 2025 08:53:50 GMT\r\n"),
            Reading(
                Kind.NOT_ANSWERED,
                error={"code": "http_503", "message": "the upstream answered HTTP 503"},
                retry_after=30.0,
            ),
        ),
    ],
)
async def test_what_was_answered_is_read(answer: bytes, expected: Reading) -> None:
    async with serving(answer) as upstream:
        assert await asked(upstream, unified(upstream.url(""))) == expected
    assert len(upstream.heard) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("status", [300, 302, 303, 304, 305, 307, 399])
async def test_a_redirect_without_a_location_tells_nothing(status: int) -> None:
    async with serving(b"HTTP/1.1 %d Odd\r\nContent-Length: 0\r\n\r\n" % status) as upstream:
        reading = await asked(upstream, unified(upstream.url("")))
    message = f"HTTP {status}, redirected to nowhere"
    assert reading == Reading(Kind.NOT_UNDERSTOOD, error={"code": "redirected", "message": message})


@pytest.mark.anyio
async def test_a_key_that_an_answer_echoes_in_another_encoding_is_masked_when_it_is_repaired() -> None:
    body = json.dumps({"status": "failed", "error": "no such key: sk-0123456789abcdef"}).encode("utf-16")
    async with serving(ok(body)) as upstream:
        reading = await asked(upstream, unified(upstream.url("")), key="sk-0123456789abcdef")
    assert reading.repaired
    assert reading.error == {"code": "failed", "message": "no such key: ********"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("unit", "times"), [(b'{"a":[],"b":"%s"},' % (b"x" * 100), 100_000), (b"[],", 4_000_000)], ids=["texts", "lists"]
)
async def test_of_a_huge_answer_only_so_much_is_read(unit: bytes, times: int) -> None:
    async def huge(writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"status":"completed","x":[')
        for _ in range(times // 1000):
            writer.write(unit * 1000)
            await writer.drain()
        writer.write(b"0]}")
        raise ConnectionResetError

    async with serving(huge) as upstream:
        tracemalloc.start()
        try:
            reading = await asked(upstream, unified(upstream.url(""), max_bytes=1_000_000))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert reading == TOO_LONG
    assert peak < 5 * MAX_KEPT


TOO_LONG = Reading(
    Kind.NOT_UNDERSTOOD, error={"code": "not_json", "message": "HTTP 200, but the answer is longer than relay reads"}
)


@pytest.mark.anyio
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [1_500_000, 4_000_000, 16_000_000])
async def test_a_large_answer_is_read_but_not_kept(size: int, compressed: bool) -> None:
    link = "https://cdn.example/v.mp4"
    answer = {"status": "completed", "poster": "data:image/png;base64," + "A" * size, "video_url": link}
    body = orjson.dumps(answer)
    coded = ok(gzip.compress(body, 1), headers=b"Content-Encoding: gzip\r\n") if compressed else ok(body)
    async with serving(coded) as upstream:
        reading = await asked(upstream, unified(upstream.url("")))
    assert (reading.kind, reading.body) == (Kind.COMPLETED, TOO_LARGE)
    assert reading.result is not None
    assert reading.result["url"] == link


@pytest.mark.anyio
async def test_an_answer_longer_than_its_provider_allows_is_not_read(tmp_path: Path) -> None:
    async with serving(ok({"status": "done", "x": "A" * 9000})) as upstream:
        for size, kind in (("8 kB", Kind.NOT_UNDERSTOOD), ("10 kB", Kind.COMPLETED)):
            text = MINIMAL.replace("[request]", f"[request]\nmax_bytes = '{size}'")
            reading = await asked(upstream, loaded(tmp_path, text, EXAMPLE_BASE_URL=upstream.url("")))
            assert reading.kind is kind


@pytest.mark.anyio
@pytest.mark.parametrize("unit", [b"[],", b"0,", b"{},", b'"",'])
async def test_an_answer_of_very_many_parts_takes_no_more_memory_than_one_of_few(unit: bytes) -> None:
    body = b'{"status":"completed","x":[%s0]}' % (unit * (15_000_000 // len(unit)))
    async with serving(ok(gzip.compress(body, 1), headers=b"Content-Encoding: gzip\r\n")) as upstream:
        tracemalloc.start()
        try:
            reading = await asked(upstream, unified(upstream.url("")), key="sk-1")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert reading == TOO_LONG
    assert peak < 80_000_000


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_query_goes_over_a_kept_connection_and_once_more_if_that_has_ended(method: str, tmp_path: Path) -> None:
    used: set[asyncio.StreamWriter] = set()

    async def once(writer: asyncio.StreamWriter) -> None:
        if writer in used:
            raise ConnectionResetError
        used.add(writer)
        writer.write(ok({"status": "done"}))

    text = POST if method == "POST" else MINIMAL
    async with serving(once) as upstream, going_out() as transport:
        provider = Provider(loaded(tmp_path, text, EXAMPLE_BASE_URL=upstream.url("")), None, transport)
        for _ in range(3):
            reading, _ = await provider.query("t", None, NOW)
            assert reading.kind is Kind.COMPLETED
    assert (len(upstream.heard), upstream.connections) == (5, 3)


@pytest.mark.anyio
async def test_an_answer_nested_a_hundred_thousand_levels_deep() -> None:
    async with serving(ok(b'{"status":' + b"[" * 100_000 + b"]" * 100_000 + b"}")) as upstream:
        reading = await asked(upstream, unified(upstream.url("")))
    assert reading.kind is Kind.NOT_UNDERSTOOD


@pytest.mark.anyio
async def test_a_provider_without_an_address_cannot_be_asked() -> None:
    provider = provider_of(load_definition(SHIPPED / "unified-video.toml", {}))
    with pytest.raises(ConfigError, match="'unified-video' has no address: set UNIFIED_VIDEO_BASE_URL"):
        await provider.query("t", None, NOW)
