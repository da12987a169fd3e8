"""Addresses other than the provider's own: within `hosts` only, and never with the deployment's key where a `*` is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.errors import ConfigError
from relay.outbound.prepared import OverHttpx
from relay.providers.definition import load_definition
from relay.providers.hosts import Standing, Unaskable, address_of, standing
from relay.providers.provider import Provider

pytestmark = pytest.mark.anyio

FILE = """
hosts = ["api.eu.example.com", "*.shops.example"]

[request]
path = "/jobs/{task_id}"
headers = { Authorization = "Bearer {key}" }

[read]
status = "status"

[statuses]
pending = ["pending"]
completed = ["done"]
"""
OF_URLS = FILE.replace('"/jobs/{task_id}"', '"{task_url}"')
TOKENS = """
[auth]
kind = "oauth"
key = "id:secret"
token_url = "{base_url}/token"
form = { grant_type = "client_credentials", client_id = "{id}", client_secret = "{secret}" }
"""
WITH_OWN = FILE.replace("[request]", '[request]\nbase_url = "https://api.example.com"')


def provider(folder: Path, text: str, heard: list[httpx.Request], **environ: str) -> Provider:
    file = folder / "jobs.toml"
    file.write_text(text, "utf-8")

    def answer(request: httpx.Request) -> httpx.Response:
        target = request.extensions["target"].decode()
        heard.append(httpx.Request("GET", request.url.join(target), headers=request.headers))
        return httpx.Response(200, json={"status": "pending"})

    return Provider(load_definition(file, environ), "sk-deployment", OverHttpx(httpx.MockTransport(answer)))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.eu.example.com", Standing.NAMED),
        ("https://API.eu.example.com:443/x", Standing.NAMED),
        ("https://one.shops.example", Standing.WILD),
        ("https://a.b.shops.example", None),
        ("https://shops.example", None),
        ("https://.shops.example", None),
        ("https://one.shops.example.", None),
        ("https://one.shops.example:8443", None),
        ("http://one.shops.example", None),
        ("https://one.shops.example.evil.example", None),
        ("https://evil.example/one.shops.example", None),
        ("https://evil.example?.shops.example", None),
    ],
)
def test_a_star_is_one_whole_label_of_https_on_its_usual_port(url: str, expected: Standing | None) -> None:
    patterns = tomllib.loads(FILE)["hosts"]
    address = address_of(url)
    assert (address and standing(patterns, address)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://one.shops.example@evil.example/",
        "https://evil.example\\.shops.example/",
        "https://evil.example#.shops.example",
        "https://one.shops.example%2eevil.example/",
        "https://one.shops.example /x",
        "https://one.shops.example/x y",
        "https://ońe.shops.example/",
        "//one.shops.example/",
        "one.shops.example",
        "https://",
    ],
)
def test_what_may_be_read_in_two_ways_is_no_address(url: str) -> None:
    assert address_of(url) is None


@pytest.mark.parametrize("pattern", ["*", "*.com", "example.*", "a*.example.com", "127.0.0.1", "Api.example.com", "x"])
def test_a_pattern_writes_out_its_last_two_labels(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hosts\.1: "):
        provider(tmp_path, FILE.replace("*.shops.example", pattern), [])


async def test_each_host_gets_the_key_that_it_may_have(tmp_path: Path) -> None:
    heard: list[httpx.Request] = []
    jobs = provider(tmp_path, WITH_OWN, heard)
    for base in (None, "https://api.example.com/", "https://api.eu.example.com"):
        at = jobs.at(base, "7")
        assert not at.lacks_key(None)
        await at.query("7", None, 0)
    shop = jobs.at("https://one.shops.example/", "7")
    assert shop.lacks_key(None)
    assert not shop.lacks_key("sk-mine")
    assert shop.key_refusal[0] == "/upstream_key"
    await shop.query("7", None, 0)  # nothing asks so; if anything did, the key would not go out
    await shop.query("7", "sk-mine", 0)
    assert [(str(request.url), request.headers.get("authorization")) for request in heard] == [
        ("https://api.example.com/jobs/7", "Bearer sk-deployment"),
        ("https://api.example.com/jobs/7", "Bearer sk-deployment"),
        ("https://api.eu.example.com/jobs/7", "Bearer sk-deployment"),
        ("https://one.shops.example/jobs/7", None),
        ("https://one.shops.example/jobs/7", "Bearer sk-mine"),
    ]
    assert shop.lane("sk-mine") == ("one.shops.example", "sk-mine")


async def test_an_id_that_is_an_address_is_asked_as_it_is_written(tmp_path: Path) -> None:
    heard: list[httpx.Request] = []
    jobs = provider(tmp_path, OF_URLS, heard)
    url = "https://one.shops.example/operations/7%2F8?api-version=1"
    await jobs.at(None, url).query(url, "sk-mine", 0)
    assert [str(request.url) for request in heard] == [url]


async def test_the_configured_address_is_one_of_the_hosts_with_its_port(tmp_path: Path) -> None:
    heard: list[httpx.Request] = []
    jobs = provider(tmp_path, OF_URLS, heard, JOBS_BASE_URL="http://127.0.0.1:9000")
    await jobs.at(None, "http://127.0.0.1:9000/operations/7").query("http://127.0.0.1:9000/operations/7", None, 0)
    (request,) = heard
    assert (str(request.url), request.headers["authorization"]) == (
        "http://127.0.0.1:9000/operations/7",
        "Bearer sk-deployment",
    )
    with pytest.raises(Unaskable):
        jobs.at(None, "http://127.0.0.1:9001/operations/7")


@pytest.mark.parametrize(
    ("text", "base", "task_id", "field"),
    [
        (FILE, None, "7", "upstream_base"),
        (FILE, "https://evil.example", "7", "upstream_base"),
        (FILE, "https://one.shops.example/admin", "7", "upstream_base"),
        (FILE, "https://one.shops.example?a=b", "7", "upstream_base"),
        (WITH_OWN, "https://api.example.com/other", "7", "upstream_base"),
        (OF_URLS, None, "7", "task_id"),
        (OF_URLS, None, "https://evil.example/7", "task_id"),
        (OF_URLS, "https://one.shops.example", "https://one.shops.example/7", "upstream_base"),
    ],
)
def test_what_is_not_within_the_hosts_is_not_asked(
    text: str, base: str | None, task_id: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(Unaskable) as refused:
        provider(tmp_path, text, []).at(base, task_id)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (OF_URLS.replace("hosts", "# hosts"), "needs 'hosts'"),
        (OF_URLS.replace("headers", 'query = { v = "1" }\nheaders'), "the id has its own"),
        (OF_URLS.replace("{task_url}", "/x/{task_url}"), "no placeholder"),
        (FILE + TOKENS, "auth.token_url: needs an address of its own beside 'hosts'"),
    ],
)
def test_a_file_says_where_its_ids_may_lead(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        provider(tmp_path, text, [])


def test_what_is_remembered_of_other_addresses_is_bounded(tmp_path: Path) -> None:
    jobs: Any = provider(tmp_path, FILE, [])
    for number in range(2500):
        jobs.at(f"https://shop-{number}.shops.example", "7")
    assert len(jobs._elsewhere) <= 1000
