"""Credentials that are made of a key: tokens that are signed, tokens that are asked for, and signatures."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import parse_qs

import jwt
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as AwsCredentials
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.requests import Request
from starlette.responses import Response

from relay.errors import ConfigError, Invalid
from relay.model.reading import Kind, Reading
from relay.outbound.descriptors import NoRoom
from relay.outbound.transport import Transport
from relay.providers import credentials
from relay.providers.definition import Definition, load_definition
from relay.providers.provider import Provider
from relay.security.guard import Guard
from relay.settings.sources import load
from relay.wiring import load_providers
from tests.support import loopback
from tests.support.processes import no_descriptors
from tests.support.tokens import Api, upstream

SHIPPED = Path(__file__).parents[2] / "config/providers"
LOOPBACK = Guard([ip_network("127.0.0.0/8")])
NOW = 1_772_445_600_000
SECRET_KEY = "a-secret-key-of-kling-of-32-chars"
REST = """
[read]
status = "status"
[statuses]
pending = ["pending"]
completed = ["done"]
"""
ASKED_FOR = (
    """
[request]
base_url = "https://api.example"
path = "/tasks/{task_id}"
headers = { Authorization = "Bearer {key}" }
[auth]
kind = "oauth"
key = "client_id:client_secret"
token_url = "{base_url}/token"
form = { grant_type = "client_credentials", client_id = "{client_id}", client_secret = "{client_secret}" }
"""
    + REST
)
CLIENT = "client-of-relay:secret-of-relay"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def provider_at(
    api: Api, text_or_name: str, key: str | None, folder: Path, guard: Guard = LOOPBACK, **environ: str
) -> AsyncIterator[Provider]:
    """A provider of a shipped file, or of a text, that asks this upstream."""
    if "\n" in text_or_name:
        file = folder / "example.toml"
        file.write_text(text_or_name, "utf-8")
    else:
        file = SHIPPED / f"{text_or_name}.toml"
    name = file.stem.upper().replace("-", "_")
    definition = load_definition(file, {f"{name}_BASE_URL": api.url, **environ})
    transport = Transport(guard, timeout=30, max_bytes=1 << 20)
    try:
        yield Provider(definition, key, transport)
    finally:
        await transport.aclose()


async def asked(provider: Provider, task: str = "text2video/1", key: str | None = None, now: int = NOW) -> Reading:
    reading, _ = await provider.query(task, key, now)
    return reading


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


# ------------------------------------------------------------------------------------------------------------ JWT


@pytest.mark.anyio
async def test_kling_gets_a_token_that_its_secret_key_has_signed(tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, "kling", f"my-access-key:{SECRET_KEY}", tmp_path) as provider:
        api.lets_in = lambda _: True
        now = time.time_ns() // 1_000_000
        for task in range(20):
            await asked(provider, f"text2video/{task}", now=now + task * 1000)
        assert len(set(api.tokens)) == 1  # made once
        claims = jwt.decode(api.tokens[0], SECRET_KEY, ["HS256"], options={"require": ["iss", "exp", "nbf"]})
        assert claims["iss"] == "my-access-key"
        assert claims["exp"] - claims["nbf"] == 1800
        assert jwt.get_unverified_header(api.tokens[0]) == {"alg": "HS256", "typ": "JWT"}
        await asked(provider, now=now + 1750 * 1000)  # it would end in a few seconds
        assert len(set(api.tokens)) == 2


@pytest.mark.anyio
async def test_two_keys_have_two_tokens(tmp_path: Path) -> None:
    other = "another-key:another-secret-key-of-32-characters"
    async with upstream() as api, provider_at(api, "kling", f"my-access-key:{SECRET_KEY}", tmp_path) as provider:
        api.lets_in = lambda _: True
        for key in (None, other, None, other):
            await asked(provider, key=key)
        issuers = [jwt.decode(token, options={"verify_signature": False})["iss"] for token in api.tokens]
        assert issuers == ["my-access-key", "another-key"] * 2
        assert len(set(api.tokens)) == 2


@pytest.mark.parametrize("written", ["a PEM", "in one line", "with \\n", "as JSON"])
@pytest.mark.anyio
async def test_apple_gets_a_token_with_the_id_of_its_key(written: str, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    text = pem(private)
    forms = {
        "a PEM": f"issuer-1:KEY1:{text}",
        "in one line": "issuer-1:KEY1:" + "".join(text.splitlines()[1:-1]),
        "with \\n": "issuer-1:KEY1:" + text.replace("\n", "\\n"),
        "as JSON": json.dumps({"issuer_id": "issuer-1", "key_id": "KEY1", "private_key": text, "more": 1}),
    }
    key = forms[written]
    async with upstream() as api, provider_at(api, "apple-notary", key, tmp_path) as provider:
        api.lets_in = lambda _: True
        await asked(provider, "1", now=time.time_ns() // 1_000_000)
        token = api.tokens[0]
        assert jwt.get_unverified_header(token)["kid"] == "KEY1"
        claims = jwt.decode(token, private.public_key(), ["ES256"], audience="appstoreconnect-v1")
        assert claims["iss"] == "issuer-1"
        assert claims["exp"] - claims["iat"] == 1200


# ---------------------------------------------------------------------------------------------------------- OAuth


@pytest.mark.anyio
async def test_one_token_serves_a_hundred_polls_at_once_and_is_made_anew_before_it_ends(tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        readings = await asyncio.gather(*(asked(provider, str(task)) for task in range(100)))
        assert {reading.kind for reading in readings} == {Kind.PENDING}
        assert len(api.asked) == 1
        form = {name: value for name, [value] in parse_qs(api.asked[0].decode()).items()}
        id_, secret = CLIENT.split(":")
        assert form == {"grant_type": "client_credentials", "client_id": id_, "client_secret": secret}
        await asked(provider, now=NOW + 3530 * 1000)
        await asked(provider, now=NOW + 3539 * 1000)
        assert len(api.asked) == 1
        await asyncio.gather(*(asked(provider, str(task), now=NOW + 3545 * 1000) for task in range(100)))
        assert len(api.asked) == 2


@pytest.mark.anyio
async def test_a_refused_token_is_made_anew_once(tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        await asked(provider)
        api.valid.clear()  # all tokens are revoked
        readings = await asyncio.gather(*(asked(provider, str(task)) for task in range(50)))
        assert {reading.kind for reading in readings} == {Kind.PENDING}
        assert len(api.asked) == 2  # for all of them
        api.lets_in = lambda _: False
        for second in range(10, 20):
            reading = await asked(provider, now=NOW + second * 1000)
            assert reading.error == {"code": "unauthorized", "message": "the token has ended"}
        assert len(api.asked) == 3  # the upstream lets this key in no more: other tokens do not help
        api.lets_in = lambda token: token in api.valid
        api.valid.clear()
        assert (await asked(provider, now=NOW + 90 * 1000)).kind is Kind.PENDING  # tried again a minute later


REFUSALS = [
    (
        Response(b'{"error": "invalid_client", "error_description": "no secret-of-relay is known"}', 401),
        "unauthorized",
        "no token from 127.0.0.1: HTTP 401 invalid_client: no ******** is known",
    ),
    (
        Response(b'{"error": "invalid_grant"}', 400),
        "unauthorized",
        "no token from 127.0.0.1: HTTP 400 with the code 'invalid_grant'",
    ),
    (Response(b"<html>", 502), "http_502", "no token from 127.0.0.1: HTTP 502"),
    (Response(b"", 302, {"location": "https://elsewhere.example/"}), "http_302", "no token from 127.0.0.1: HTTP 302"),
    (Response(b'{"message": "slow down"}', 429), "rate_limited", "no token from 127.0.0.1: HTTP 429 slow down"),
    (Response(b"[]"), "no_token", "no token from 127.0.0.1: HTTP 200 the answer holds no access_token"),
    (Response(b'{"access_token": "a\\nb"}'), "no_token", "HTTP 200 the answer holds no access_token"),
    (Response(b'{"access_token": 7}'), "no_token", "HTTP 200 the answer holds no access_token"),
]


@pytest.mark.parametrize(("refusal", "code", "message"), REFUSALS, ids=[str(number) for number in range(len(REFUSALS))])
@pytest.mark.anyio
async def test_a_poll_without_a_token_tells_nothing_and_says_why(
    refusal: Response, code: str, message: str, tmp_path: Path
) -> None:
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        api.gives = lambda _: refusal
        readings = await asyncio.gather(*(asked(provider, str(task)) for task in range(100)))
        assert {reading.kind for reading in readings} == {Kind.NOT_ANSWERED}
        assert readings[0].error is not None
        assert readings[0].error["code"] == code
        assert readings[0].error["message"].endswith(message)
        assert len(api.asked) == 1
        assert not api.queries
        for second in range(60):
            await asked(provider, now=NOW + second * 1000)
        assert len(api.asked) == 6  # after 1, 2, 4, 8 and 16 seconds
        api.gives = api.give
        assert (await asked(provider, now=NOW + 200 * 1000)).kind is Kind.PENDING


@pytest.mark.anyio
async def test_the_wait_that_a_token_endpoint_asks_for_is_that_of_the_poll(tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        api.gives = lambda _: Response(b"{}", 503, {"Retry-After": "120"})
        assert (await asked(provider)).retry_after == 120
        await asked(provider, now=NOW + 110 * 1000)
        assert len(api.asked) == 1
        await asked(provider, now=NOW + 121 * 1000)
        assert len(api.asked) == 2


@pytest.mark.parametrize(
    ("token_url", "why"),
    [("http://10.1.2.3/token", "blocked"), ("http://127.0.0.1:9/token", "connect"), ("{base_url}:1/t", "protocol")],
)
@pytest.mark.anyio
async def test_a_token_endpoint_passes_the_guard_and_its_failures_are_readings(
    token_url: str, why: str, tmp_path: Path
) -> None:
    text = ASKED_FOR.replace("{base_url}/token", "https://tokens.example/")
    token_url = token_url.replace("{base_url}", "http://127.0.0.1:99999999")
    environ = {"EXAMPLE_TOKEN_URL": token_url}
    async with upstream() as api:
        if why == "protocol":  # no port of that number
            with pytest.raises(ConfigError, match="EXAMPLE_TOKEN_URL: must be an address"):
                async with provider_at(api, text, CLIENT, tmp_path, **environ):
                    pass
            return
        async with provider_at(api, text, CLIENT, tmp_path, **environ) as provider:
            reading = await asked(provider)
            assert reading.error is not None
            assert reading.error["code"] == why
            assert "no token from 1" in reading.error["message"]
            assert not api.queries


@pytest.mark.anyio
async def test_a_token_endpoint_that_hangs_ends_the_query_in_its_time(tmp_path: Path) -> None:
    async def hangs(_: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    text = ASKED_FOR.replace("path =", "timeout = 0.3\npath =")
    async with (
        upstream() as api,
        loopback.serving(hangs) as endpoint,
        provider_at(api, text, CLIENT, tmp_path, EXAMPLE_TOKEN_URL=endpoint.url()) as provider,
    ):
        reading = await asked(provider)
    assert reading.error is not None
    assert reading.error["code"] == "timeout"


@pytest.mark.anyio
async def test_google_gives_a_token_for_what_the_service_account_has_signed(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 2048)
    account = {
        "type": "service_account",
        "client_email": "relay@x.iam.gserviceaccount.com",
        "private_key": pem(private),
    }
    now = time.time_ns() // 1_000_000
    async with upstream() as api:
        environ = {"GOOGLE_LRO_TOKEN_URL": f"{api.url}/token"}
        key = json.dumps(account, indent=2)
        async with provider_at(api, "google-lro", key, tmp_path, **environ) as provider:
            api.answers = b'{"name": "operations/1"}'
            assert (await asked(provider, "operations/1", now=now)).status == "running"
        form = {name: value for name, [value] in parse_qs(api.asked[0].decode()).items()}
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        audience = "https://oauth2.googleapis.com/token"
        claims = jwt.decode(form["assertion"], private.public_key(), ["RS256"], audience=audience)
        assert claims["iss"] == account["client_email"]
        assert claims["exp"] - claims["iat"] == 3600
        assert claims["scope"].endswith("/cloud-platform")


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        (
            "airbyte-job",
            "id:secret",
            {"client_id": "id", "client_secret": "secret", "grant-type": "client_credentials"},
        ),
        (
            "amazon-sp-report",
            "id:secret:Atzr|refresh",
            {
                "grant_type": "refresh_token",
                "client_id": "id",
                "client_secret": "secret",
                "refresh_token": "Atzr|refresh",
            },
        ),
    ],
)
@pytest.mark.anyio
async def test_what_a_shipped_file_asks_for_a_token_with(
    name: str, key: str, expected: dict[str, str], tmp_path: Path
) -> None:
    async with upstream() as api:
        environ = {f"{name.upper().replace('-', '_')}_TOKEN_URL": f"{api.url}/token"}
        async with provider_at(api, name, key, tmp_path, **environ) as provider:
            await asked(provider, "1")
    body = api.asked[0].decode()
    given = json.loads(body) if body.startswith("{") else {name: value for name, [value] in parse_qs(body).items()}
    assert given == expected
    header = "x-amz-access-token" if name == "amazon-sp-report" else "authorization"
    assert api.queries[0].headers[header].endswith("token-00000001-of-the-upstream")


@pytest.mark.anyio
async def test_to_have_no_descriptor_left_for_a_token_is_no_miss(tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        with no_descriptors(), pytest.raises(NoRoom):
            await asked(provider)
        assert (await asked(provider)).kind is Kind.PENDING


@pytest.mark.anyio
async def test_a_token_without_an_end_holds_as_long_as_the_file_says(tmp_path: Path) -> None:
    text = ASKED_FOR.replace('kind = "oauth"', 'kind = "oauth"\nlifetime = 600')
    async with upstream() as api, provider_at(api, text, CLIENT, tmp_path) as provider:
        for expires_in in (None, "soon", -5, True):
            api.gives = lambda number, given=expires_in: api.give(number, expires_in=given)
            before = len(api.asked)
            start = NOW + before * 10_000_000
            await asked(provider, now=start)
            await asked(provider, now=start + 539_000)
            assert len(api.asked) == before + 1
            await asked(provider, now=start + 541_000)
            assert len(api.asked) == before + 2


# ---------------------------------------------------------------------------------------------------------- basic


@pytest.mark.parametrize(
    "key", ["user-of-mux:secret:with-a-colon", base64.b64encode(b"user-of-mux:secret:with-a-colon").decode()]
)
@pytest.mark.anyio
async def test_user_and_password_are_encoded_unless_they_are(key: str, tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, "mux-asset", key, tmp_path) as provider:
        api.lets_in = lambda _: False
        await asked(provider, "1")
        scheme, _, encoded = api.queries[0].headers["authorization"].partition(" ")
        assert (scheme, base64.b64decode(encoded)) == ("Basic", b"user-of-mux:secret:with-a-colon")
        assert len(api.queries) == 1  # a 401 says that the password is wrong, and there is no other


# ---------------------------------------------------------------------------------------------------------- SigV4


def verified(request: Request, body: bytes, key: str, region: str, service: str) -> None:
    """Compare the signature of a request with the one that botocore makes of it."""
    access_key, secret_key, *token = key.split(":")
    given = request.headers["authorization"]
    signed = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"host", "x-amz-date"} <= set(signed)
    assert {name for name in request.headers if name.startswith("x-amz-")} <= set(signed)
    query = f"?{request.url.query}" if request.url.query else ""
    url = f"http://{request.headers['host']}{request.scope['raw_path'].decode().partition('?')[0]}{query}"
    headers = {name: request.headers[name] for name in signed if name not in ("host", "x-amz-date")}
    signer = SigV4Auth(AwsCredentials(access_key, secret_key, *token), service, region)
    theirs = AWSRequest(request.method, url, data=body, headers=headers)
    theirs.context["timestamp"] = request.headers["x-amz-date"]
    theirs.headers["X-Amz-Date"] = request.headers["x-amz-date"]
    to_sign = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert given.endswith(f"Signature={signer.signature(to_sign, theirs)}")
    assert given.startswith(f"AWS4-HMAC-SHA256 Credential={access_key}/{request.headers['x-amz-date'][:8]}/{region}/")


SIGNED = (
    """
[request]
path = "/v1/jobs/{task_path}"
query = { b = "2 + {task_id}", a = "ä/~" }
headers = { Accept = "application/json", X-Amz-Spaces = "a   b" }
[auth]
kind = "sigv4"
service = "execute-api"
region = "eu-north-1"
"""
    + REST
)


@pytest.mark.parametrize("key", ["AKIDEXAMPLE:secret/with+signs", "AKIDEXAMPLE:secret:session//token=="])
@pytest.mark.parametrize("task", ["1", "a/b c", "arn:aws:x:y:1:job/ä//~_-.", "100%2F", "a=b&c"])
@pytest.mark.anyio
async def test_a_signature_is_botocores(key: str, task: str, tmp_path: Path) -> None:
    async with upstream() as api:
        async with provider_at(api, SIGNED, key, tmp_path) as provider:
            await asked(provider, task)
        async with provider_at(api, "aws-transcribe", key, tmp_path) as provider:
            await asked(provider, task)
            await asked(provider, "another", now=NOW + 1000)
    verified(api.queries[0], api.bodies[0], key, "eu-north-1", "execute-api")
    verified(api.queries[1], api.bodies[1], key, "us-east-1", "transcribe")
    assert json.loads(api.bodies[1]) == {"TranscriptionJobName": task}
    assert api.queries[1].headers["content-type"] == "application/x-amz-json-1.1"
    dates = [query.headers["x-amz-date"] for query in api.queries[1:]]
    assert dates == ["20260302T100000Z", "20260302T100001Z"]


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("transcribe.eu-central-1.amazonaws.com", "eu-central-1"),
        ("api.sagemaker.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("transcribe.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("localhost", "us-east-1"),
    ],
)
def test_the_region_is_that_of_the_address(host: str, region: str) -> None:
    auth = load_definition(SHIPPED / "aws-transcribe.toml", {}).auth
    assert auth is not None
    assert auth.kind == "sigv4"
    assert auth.region_of(host) == region


# ----------------------------------------------------------------------------------------------- keys and secrets


@pytest.mark.parametrize(
    ("name", "key", "why"),
    [
        ("kling", "sk-one-part-only", "must be ACCESS_KEY:SECRET_KEY, or a JSON object with access_key and secret_key"),
        ("kling", ":secret-part", "must be ACCESS_KEY:SECRET_KEY"),
        ("kling", '{"access_key": "only-one"}', "must be ACCESS_KEY:SECRET_KEY"),
        ("kling", '{"access_key": ', "must be ACCESS_KEY:SECRET_KEY"),
        ("apple-notary", "issuer:key:no-private-key", "PRIVATE_KEY must be a private key for ES256"),
        ("apple-notary", "issuer:key:" + pem(rsa.generate_private_key(65537, 2048)), "a private key for ES256"),
        ("google-lro", "a@b.example:no-private-key", "PRIVATE_KEY must be a private key for RS256"),
        ("amazon-sp-report", "only:two-parts", "must be CLIENT_ID:CLIENT_SECRET:REFRESH_TOKEN"),
        ("mux-asset", "no-colon-in-here", "must be TOKEN_ID:TOKEN_SECRET, or that in Base64"),
        ("aws-transcribe", "AKIDEXAMPLE", "must be ACCESS_KEY_ID:SECRET_ACCESS_KEY, with :SESSION_TOKEN behind it"),
        ("aws-transcribe", "AKID:secret:ü", "in printable ASCII"),
    ],
)
@pytest.mark.anyio
async def test_a_key_of_another_shape_is_refused_at_the_start_and_in_a_registration(
    name: str, key: str, why: str, tmp_path: Path
) -> None:
    settings = load({"DATABASE_URL": f"sqlite:///{tmp_path}/relay.db"})
    exchanger = Transport(LOOPBACK, timeout=1, max_bytes=1024)
    variable = f"{name.upper().replace('-', '_')}_API_KEY"
    with pytest.raises(ConfigError) as refused:
        load_providers(settings, exchanger, {variable: key})
    assert str(refused.value).startswith(f"{variable}: the API key ")
    assert why in str(refused.value)
    address = {f"{name.upper().replace('-', '_')}_BASE_URL": "https://upstream.example"}
    provider = Provider(load_definition(SHIPPED / f"{name}.toml", address), None, exchanger)
    with pytest.raises(Invalid) as invalid:
        provider.check_key(key)
    assert invalid.value.errors[0].pointer == "/upstream_key"
    assert key not in f"{refused.value}{invalid.value}"
    reading = await asked(provider, key=key)  # of an older watch
    assert reading.error is not None
    assert reading.error["code"] == "unauthorized"
    assert why in reading.error["message"]


@pytest.mark.parametrize("what", ["key", "token"])
@pytest.mark.anyio
async def test_what_an_answer_repeats_of_key_and_token_is_masked(what: str, tmp_path: Path) -> None:
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        secrets = CLIENT.split(":") if what == "key" else ["token-00000001-of-the-upstream"]
        api.answers = json.dumps({"status": "pending", "you": secrets, "escaped": "".join(secrets)}).encode()
        reading, answer = await provider.query("1", None, NOW)
        assert reading.kind is Kind.PENDING
        assert answer is not None
        for secret in secrets:
            assert secret.encode() not in answer.body + (reading.body or b"")
        assert b"********" in answer.body


@pytest.mark.anyio
async def test_a_signature_that_an_answer_repeats_shows_no_secret(tmp_path: Path) -> None:
    key = "AKIDEXAMPLE-1:secret-access-key:session-token"
    async with upstream() as api, provider_at(api, "aws-transcribe", key, tmp_path) as provider:
        api.lets_in = lambda _: True
        api.answers = json.dumps({"__type": "InvalidSignatureException", "message": f"expected {key}"}).encode()
        _, answer = await provider.query("1", None, NOW)
        assert answer is not None
        assert b"expected ********" in answer.body


@pytest.mark.anyio
async def test_few_keys_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_KEYS", 3)
    async with upstream() as api, provider_at(api, ASKED_FOR, CLIENT, tmp_path) as provider:
        for number in range(5):
            assert (await asked(provider, key=f"client-{number}:secret-{number}")).kind is Kind.PENDING
        assert len(api.asked) == 5
        await asked(provider, key="client-4:secret-4")
        assert len(api.asked) == 5
        await asked(provider, key="client-0:secret-0")
        assert len(api.asked) == 6


# ------------------------------------------------------------------------------------------------------- the table


def refusal(folder: Path, change: str, text: str = ASKED_FOR) -> str:
    """The one line with which a file is refused whose `[auth]` is this."""
    before, _, after = text.partition("[auth]")
    (folder / "example.toml").write_text(f"{before}[auth]\n{change}\n{REST if after else ''}", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_definition(folder / "example.toml", {})
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


JWT = 'kind = "jwt"\nkey = "id:secret"\nalgorithm = "HS256"\n'


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ('kind = "digest"', "auth: Input tag 'digest'"),
        ('kind = "basic"\nkey = "user"', "auth.key: .* pattern"),
        ('kind = "basic"\nlifetime = 4', "auth.lifetime: is no key of this table; there is key, kind"),
        (JWT, "auth.secret: is missing"),
        (JWT + 'secret = "key"\nlifetime = 60\nclaims = { exp = "{end}" }', "auth: secret: 'key' is no part of 'key'"),
        (JWT + 'secret = "secret"\nlifetime = 60\nclaims = { iss = "{id}" }', "claims: one must be {end}, such as exp"),
        (
            JWT + 'secret = "secret"\nlifetime = 60\nclaims = { exp = "{end}", iss = "{who}" }',
            "'{who}' is no placeholder",
        ),
        (
            'kind = "oauth"\nkey = "a:b"\ntoken_url = "tokens"\nform = { a = "{a}" }',
            "auth.token_url: must be an address",
        ),
        ('kind = "oauth"\nkey = "a:b"\ntoken_url = "https://x/"', "needs either 'form' or 'json'"),
        ('kind = "oauth"\nkey = "a:b"\ntoken_url = "https://x/"\nform = { a = "{assertion}" }', "'{assertion}' is no"),
        ('kind = "sigv4"', "auth.service: is missing"),
    ],
)
def test_a_mistake_in_the_table_is_told(change: str, why: str, tmp_path: Path) -> None:
    assert re.search(why.replace("{", r"\{").replace("}", r"\}"), refusal(tmp_path, change))


def test_what_is_made_needs_a_place(tmp_path: Path) -> None:
    text = ASKED_FOR.replace("Bearer {key}", "none")
    (tmp_path / "example.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"toml: auth: what it makes needs a header with \{key\}"):
        load_definition(tmp_path / "example.toml", {})


def test_every_file_with_tokens_or_signatures_needs_a_key() -> None:
    definitions: list[Definition] = [load_definition(file, {}) for file in sorted(SHIPPED.glob("*.toml"))]
    made = {one.name: one.auth.kind for one in definitions if one.auth is not None}
    assert set(made.values()) == {"basic", "jwt", "oauth", "sigv4"}
    assert all(one.needs_key for one in definitions if made.get(one.name, "basic") != "basic")
