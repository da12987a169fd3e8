"""Signatures: against the reference library, against openssl, and against everything that must not pass."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import standardwebhooks
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import BadSignature
from relay.security.signing import TOLERANCE, key_of, new_secret, sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQI"
ID, NOW, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def headers(signature: str = SIGNATURE, **other: str) -> dict[str, str]:
    return {"webhook-id": ID, "webhook-timestamp": str(NOW), "webhook-signature": signature} | {
        f"webhook-{name}": value for name, value in other.items()
    }


def test_the_example_of_the_specification() -> None:
    assert sign([SECRET], ID, NOW, BODY) == SIGNATURE
    verify(SECRET, headers(), BODY, NOW)


SECRETS = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())
IDS = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=40)
OBJECTS = st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53), max_size=4)


@settings(deadline=None)
@given(SECRETS, IDS, OBJECTS)
def test_the_reference_library_accepts_what_relay_signs(secret: str, message_id: str, value: dict[str, object]) -> None:
    library, now = standardwebhooks.Webhook(secret), int(time.time())
    body = json.dumps(value).encode()
    signed = {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign([OTHER, secret], message_id, now, body),
    }
    assert library.verify(body, signed) == value
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        library.verify(body + b" ", signed)


@settings(deadline=None)
@given(SECRETS, IDS, OBJECTS, st.integers(0, 2**33))
def test_relay_accepts_what_the_reference_library_signs(
    secret: str, message_id: str, value: dict[str, object], at: int
) -> None:
    body = json.dumps(value).encode()
    moment = datetime.fromtimestamp(at, UTC)
    signature = standardwebhooks.Webhook(secret).sign(message_id, moment, body.decode())
    assert signature == sign([secret], message_id, at, body)
    signed = {"webhook-id": message_id, "webhook-timestamp": str(at), "webhook-signature": signature}
    verify(secret, signed, body, at)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on the PATH")
def test_openssl_comes_to_the_same_signature(tmp_path: Path) -> None:
    secret, body = new_secret(), '{"name":"视频"}'.encode()
    (tmp_path / "signed").write_bytes(f"{ID}.{NOW}.".encode() + body)
    key = base64.b64decode(secret.removeprefix("whsec_")).hex()
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-binary", "signed"]
    digest = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=30).stdout
    assert sign([secret], ID, NOW, body) == "v1," + base64.b64encode(digest).decode()


def test_a_rotation_signs_with_every_valid_secret() -> None:
    signature = sign([OTHER, SECRET], ID, NOW, BODY)
    assert signature.split(" ") == [sign([OTHER], ID, NOW, BODY), SIGNATURE]
    for secret in (SECRET, OTHER):
        verify(secret, headers(signature), BODY, NOW)
    with pytest.raises(BadSignature):
        verify(new_secret(), headers(signature), BODY, NOW)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h: ({**h, "webhook-id": "msg_other"}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-timestamp": str(NOW + 1)}, BODY), "no signature"),
        (lambda h: (h, BODY + b"\n"), "no signature"),
        (lambda h: (h, BODY.replace(b"2432232314", b"2432232315")), "no signature"),
        (lambda h: (h, b""), "no signature"),
        (lambda h: ({**h, "webhook-signature": ""}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-signature": SIGNATURE.removeprefix("v1,")}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-signature": SIGNATURE.replace("v1,", "v2,")}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-signature": SIGNATURE.replace("v1,", "v1a,")}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-signature": SIGNATURE[:-2]}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-signature": SIGNATURE.swapcase()}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-signature": "v1,\u00e9 v1,視"}, BODY), "no signature"),
        (lambda h: ({**h, "webhook-timestamp": "yesterday"}, BODY), "not a whole number"),
        (lambda h: ({**h, "webhook-timestamp": f"{NOW}.0"}, BODY), "not a whole number"),
        (lambda h: ({**h, "webhook-timestamp": ""}, BODY), "not a whole number"),
        (lambda h: ({**h, "webhook-timestamp": "9" * 5000}, BODY), "not a whole number"),
        (lambda h: ({k: v for k, v in h.items() if k != "webhook-id"}, BODY), "'webhook-id' is missing"),
        (lambda h: ({k: v for k, v in h.items() if k != "webhook-timestamp"}, BODY), "'webhook-timestamp' is missing"),
        (lambda h: ({k: v for k, v in h.items() if k != "webhook-signature"}, BODY), "'webhook-signature' is missing"),
        (lambda h: ({}, BODY), "is missing"),
    ],
)
def test_what_was_tampered_with_does_not_pass(
    change: Callable[[dict[str, str]], tuple[dict[str, str], bytes]], reason: str
) -> None:
    changed, body = change(headers())
    with pytest.raises(BadSignature, match=reason):
        verify(SECRET, changed, body, NOW)


@pytest.mark.parametrize("age", [-TOLERANCE, 0, TOLERANCE])
def test_a_clock_may_be_off_a_little(age: int) -> None:
    verify(SECRET, headers(), BODY, NOW + age)


@pytest.mark.parametrize("age", [-TOLERANCE - 1, TOLERANCE + 0.5, 86_400, 10**9])
def test_an_old_or_future_message_does_not_pass(age: float) -> None:
    with pytest.raises(BadSignature, match="differs from the clock by more than 300 s"):
        verify(SECRET, headers(), BODY, NOW + age)


def test_a_wrong_signature_is_told_before_the_age() -> None:
    with pytest.raises(BadSignature, match="no signature"):
        verify(OTHER, headers(), BODY, NOW + 10**6)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_c2hvcnQtaHVudGVyMg==",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_not-base64-hunter2-not-base64-hunter2-not",
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "whsec_" + base64.b64encode(b"x" * 32).decode().rstrip("="),
        "whsec_" + base64.b64encode(b"x" * 32).decode() + "\n",
        "whsec_ü" + base64.b64encode(b"x" * 32).decode(),
        "WHSEC_" + base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_a_malformed_secret_is_refused_and_kept_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="'whsec_' and 24 to 64 random bytes") as caught:
        key_of(secret)
    text = secret.removeprefix("whsec_")
    assert not text or text not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_secret_may_come_without_its_prefix(length: int) -> None:
    key = bytes(range(length))
    encoded = base64.b64encode(key).decode()
    assert key_of(encoded) == key_of(f"whsec_{encoded}") == key


def test_new_secrets() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(key_of(secret)) == 32 for secret in secrets)
