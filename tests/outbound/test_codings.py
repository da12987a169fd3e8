"""Content codings, as servers and proxies really send them, and as an attacker would."""

import gzip
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.outbound.codings import MAX_CODINGS, MAX_MEMBERS, Decoded, codings_of, decode

TEXT = b'{"status": "completed"}' * 20
CAP = 10_000


def packed(body: bytes) -> bytes:
    """Compress without the time: the names of the tests are made of these bytes, alike in every worker."""
    return gzip.compress(body, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


@pytest.mark.parametrize(
    ("values", "codings"),
    [
        ([], []),
        (["gzip"], ["gzip"]),
        (["GZip "], ["gzip"]),
        (["\tgzip\t"], ["gzip"]),
        (["gzip,deflate"], ["gzip", "deflate"]),
        (["gzip", "x-gzip"], ["gzip", "x-gzip"]),
        (["identity, gzip"], ["gzip"]),
        (["identity", ""], []),
        ([" , gzip,, "], ["gzip"]),
        (["br"], ["br"]),
    ],
)
def test_what_the_header_names(values: list[str], codings: list[str]) -> None:
    assert codings_of(values) == codings


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ([], TEXT),
        (["gzip"], packed(TEXT)),
        (["x-gzip"], packed(TEXT)),
        (["gzip"], packed(TEXT[:7]) + packed(b"") + packed(TEXT[7:])),
        (["gzip"], packed(TEXT) + b"\0" * 100),
        (["gzip", "gzip"], packed(packed(TEXT))),
        (["deflate"], zlib.compress(TEXT)),
        (["deflate"], raw_deflate(TEXT)),
        (["deflate", "gzip"], packed(zlib.compress(TEXT))),
        (["gzip", "deflate"], raw_deflate(packed(TEXT))),
        (["gzip"], TEXT),  # named and not applied
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_what_is_read(codings: list[str], body: bytes) -> None:
    assert decode(body, codings, CAP) == Decoded(TEXT)


@pytest.mark.parametrize(
    ("codings", "body", "decoded"),
    [
        (["br"], b"\x0b\x80", Decoded(b"\x0b\x80", unread="br")),
        (["zstd", "gzip"], packed(b"zz"), Decoded(b"zz", unread="zstd")),
        (["gzip", "zstd"], b"zz", Decoded(b"zz", unread="gzip, zstd")),
        (["br"], b"", Decoded(b"")),
        (["gzip"] * 6, b"zz", Decoded(b"zz", unread=", ".join(["gzip"] * 6))),
        (["gzip"], packed(TEXT)[:-5], Decoded(TEXT, truncated=True)),
        (["gzip"], packed(b"x" * (CAP + 1)), Decoded(b"x" * CAP, truncated=True)),
        (["gzip"], packed(b"x" * CAP), Decoded(b"x" * CAP)),
        ([], b"x" * (CAP + 1), Decoded(b"x" * CAP, truncated=True)),
        (["gzip"], packed(b"x") * (MAX_MEMBERS + 1), Decoded(b"x" * MAX_MEMBERS, truncated=True)),
    ],
)
def test_what_is_left_and_what_is_missing_is_said(codings: list[str], body: bytes, decoded: Decoded) -> None:
    assert decode(body, codings, CAP) == decoded


@given(
    st.binary(max_size=300),
    st.lists(st.sampled_from(["gzip", "x-gzip", "deflate"]), max_size=MAX_CODINGS),
    st.integers(1, 400),
)
def test_what_was_coded_is_decoded_up_to_the_cap(text: bytes, codings: list[str], cap: int) -> None:
    body = text
    longest = len(text)
    for coding in codings:
        body = zlib.compress(body) if coding == "deflate" else packed(body)
        longest = max(longest, len(body))
    decoded = decode(body, codings, cap)
    assert len(decoded.body) <= cap
    if longest <= cap:
        assert decoded == Decoded(text)
    elif len(text) > cap:
        assert decoded.truncated


@given(st.binary(max_size=300), st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd"]), max_size=7))
def test_nonsense_is_no_exception(body: bytes, codings: list[str]) -> None:
    assert len(decode(body, codings, 100).body) <= 100


@pytest.mark.parametrize(
    ("codings", "bomb"),
    [
        (["gzip"], packed(b"\0" * 50_000_000)),
        (["gzip", "gzip"], packed(packed(b"\0" * 50_000_000))),
        (["gzip"], packed(b"") * 400_000),
        (["gzip"], packed(b"\0" * 1000) * 200_000),
    ],
    ids=["one", "in another", "empty members", "members"],
)
def test_a_bomb_takes_neither_memory_nor_time(codings: list[str], bomb: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    decoded = decode(bomb, codings, 1_000_000)
    took = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded.truncated
    assert len(decoded.body) <= 1_000_000
    assert peak < 5_000_000
    assert took < 2
