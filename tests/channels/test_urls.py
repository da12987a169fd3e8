"""URLs of targets: parsed once for each origin, and judged as if each were the first."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.channels.urls import PRIVATE, UrlCheck, host_of, origin_of, split_url
from relay.security.guard import Guard, IPAddress


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://münchen.example/", "in ASCII"),
        ("https://a.example/a b", "in ASCII"),
        ("https:\\\\a.example", "in ASCII"),
        ("https://a%2eexample/", "percent-encode its host"),
        ("ftp://a.example/", "begin with https://"),
        ("//a.example/", "begin with https://"),
        ("a/https://a.example/", "begin with https://"),
        ("https:a.example", "name a host"),
        ("https:///a", "name a host"),
        ("https:path//a.example/", "name a host"),
        ("https://a.example:0/", "port between"),
        ("https://a.example:99999/", "Port out of range"),
        ("https://user:word@a.example/", "user name or password"),
        ("https://999.1.1.1/", "usually written"),
    ],
)
def test_what_is_wrong_with_a_url(url: str, words: str) -> None:
    for _ in range(2):  # an error is none that was remembered
        with pytest.raises(ValueError, match=words):
            origin_of(url)


@given(
    st.sampled_from(["https", "http", "HTTPS"]),
    st.sampled_from(["a.example", "A.Example.", "10.0.0.1", "[::1]", "localhost", "xn--mnchen-3ya.example"]),
    st.sampled_from(["", ":1", ":8443"]),
    st.text("abc/?#:@=&%.-_~!$'()*+,;", max_size=30).map(lambda rest: rest and "/?#"[len(rest) % 3] + rest),
)
def test_an_origin_is_that_of_the_whole_url(scheme: str, host: str, port: str, rest: str) -> None:
    url = f"{scheme}://{host}{port}{rest}"
    parts = urlsplit(url)
    origin = origin_of(url)
    assert (origin.encrypted, origin.netloc) == (parts.scheme == "https", parts.netloc.lower())
    assert origin.host == (parts.hostname or "").rstrip(".").lower()
    assert host_of(url) == parts.netloc.lower()
    assert split_url(url) == parts


@pytest.mark.anyio
async def test_urls_of_one_origin_are_judged_once() -> None:
    asked: list[IPAddress] = []

    class Asked(Guard):
        def permits(self, address: IPAddress) -> bool:
            asked.append(address)
            return super().permits(address)

    check = UrlCheck(Asked((ip_network("127.0.0.0/8"),)))
    for path in range(3):
        assert await check.problem(f"http://127.0.0.1:9000/{path}") is None
        assert await check.problem(f"http://10.0.0.1:9000/{path}") == PRIVATE
        assert await check.problem(f"https://10.0.0.1:9000/{path}") == PRIVATE
    assert asked.count(ip_address("127.0.0.1")) == 1
    assert asked.count(ip_address("10.0.0.1")) == 6, (
        "an operator who mends it does not wait for anything to be forgotten"
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "networks"),
    [
        ("http://127.0.0.1:9000/", "127.0.0.0/8"),
        ("https://2130706433/", "127.0.0.0/8"),
        ("http://[::1]/", "::1/128"),
        ("http://localhost:9000/", "127.0.0.0/8,::1/128"),
    ],
)
async def test_a_receiver_on_this_machine_is_refused_with_what_to_set(url: str, networks: str) -> None:
    problem = await UrlCheck(Guard()).problem(url)
    assert f": RELAY_ALLOWED_NETWORKS={networks} can allow it" in str(problem)
    allowed = [ip_network(network) for network in networks.split(",")]
    assert await UrlCheck(Guard(allowed)).problem(url) is None
