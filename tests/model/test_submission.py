"""Idempotency keys, and what tells one request from another."""

from __future__ import annotations

import pytest

from relay.model.submission import idempotency_key, key_digest, request_digest


@pytest.mark.parametrize(
    ("written", "key"),
    [("k", "k"), ('"k"', "k"), (' "k" ', "k"), (r'"a\"b\\"', r'a"b' + "\\"), ("a b", "a b"), ("k" * 255, "k" * 255)],
)
def test_a_key_in_quotes_is_the_same_key(written: str, key: str) -> None:
    assert idempotency_key(written) == key


@pytest.mark.parametrize("written", ["", " ", '""', "k" * 256, "ä", "a\tb", '" k"'])
def test_what_is_no_key(written: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        idempotency_key(written)


def test_keys_belong_to_an_app() -> None:
    assert key_digest("app_a", "k") != key_digest("app_b", "k")


def digest(content_type: str, body: bytes, path: bytes = b"/p", query: bytes = b"") -> bytes:
    return request_digest("app", "provider", ("POST", path, query), content_type, body)


def form(boundary: str, prompt: str = "a cat") -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="p"\r\n\r\n{prompt}\r\n--{boundary}--\r\n'.encode()


def test_of_a_form_the_parts_count() -> None:
    one = digest("multipart/form-data; boundary=aaa", form("aaa"))
    assert digest('Multipart/Form-Data; charset=x; boundary="b b"', form("b b")) == one
    assert digest("multipart/form-data; boundary=aaa", form("aaa", "a dog")) != one
    assert digest("application/json", form("aaa")) != one


def test_everything_else_counts_as_it_came() -> None:
    assert digest("application/json", b"{}") == digest("text/plain", b"{}")
    assert digest("", b"{}") != digest("", b"{ }")
    assert digest("", b"", b"/ab", b"c") != digest("", b"", b"/a", b"bc")
