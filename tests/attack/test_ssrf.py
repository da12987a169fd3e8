"""Server-side request forgery: whatever an app registers, whatever DNS says, relay connects to public addresses only.

Two witnesses: a canary that listens on every address of loopback, and a note of each address that a socket is told to
connect to. No packet leaves the machine: a connection to any other address fails, as on a machine without a network.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
import pytest
import sqlalchemy as sa

from relay.channels.base import Message, TargetTransport
from relay.channels.slack.channel import SlackChannel
from relay.channels.webhook import WebhookChannel
from relay.model.delivery import Outcome
from relay.model.ids import new_id
from relay.outbound.aiohttp_session import guarded_session
from relay.outbound.lookups import Lookups
from relay.outbound.transport import Transport, failure_class
from relay.security.guard import Guard, literal_address
from relay.store import apps, registrations, schema
from tests.support.channels import resources
from tests.support.deployment import SECRET, Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, until
from tests.support.processes import CONFIG
from tests.web.callers import pointers

pytestmark = pytest.mark.anyio

PUBLIC = ("93.184.216.34", "2606:2800:220:1::34")
"""Addresses that relay may connect to. Here nothing answers there."""

LOOPBACK = """
    127.0.0.1 127.0.0.1. 127.0.0.2 127.255.255.254 127.1 127.0.1 127.1. 2130706433 017700000001 0x7f000001 0X7F000001
    0x7f.1 0x7F.0.0.1 0177.0.0.1 0177.1 0177.0.0.0x1 00000177.0.0.1 127.0.0.01 127.0.0.0x1 0 0. 00 0x0 0.0.0.0 0.0.0.0.
    000.0.0.0 [::1] [0:0:0:0:0:0:0:1] [0000:0000:0000:0000:0000:0000:0000:0001] [::] [::0.0.0.1] [::127.0.0.1]
    [::ffff:127.0.0.1] [::FFFF:7F00:1] [0:0:0:0:0:ffff:127.0.0.1] [::ffff:0.0.0.0]
"""
METADATA = """
    169.254.169.254 169.254.169.254. 2852039166 0xa9fea9fe 0xA9.0xFE.0xA9.0xFE 0251.0376.0251.0376 169.254.43518
    [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [::169.254.169.254] [64:ff9b::169.254.169.254] [2002:a9fe:a9fe::]
    [fd00:ec2::254] 168.63.129.16 100.100.100.200 192.0.0.192
"""
NOT_PUBLIC = """
    10.0.0.1 10.1 167772161 0xa.1 012.0.0.1 172.16.0.1 172.31.255.254 192.168.0.1 192.168.257 3232235521
    100.64.0.1 100.127.255.254 169.254.0.1 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1
    224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 4294967295 0.1 0.1.2.3
    [::ffff:10.0.0.1] [::10.0.0.1] [64:ff9b::10.0.0.1] [64:ff9b::7f00:1] [64:ff9b::808:808] [64:ff9b:1::7f00:1]
    [2002:7f00:1::] [2002:a00:1::1] [2002:c0a8:1::] [2001::1] [2001:0:7f00:1::] [2001:0:4136:e378:8000:63bf:3fff:fdd2]
    [2001:db8::1] [3fff::1] [100::1] [fc00::1] [fd12:3456:789a::1] [fe80::1] [febf::1] [fec0::1] [ff02::1] [ff0e::1]
    [4000::1] [5f00::1] [8000::1]
"""
LITERALS = [*LOOPBACK.split(), *METADATA.split(), *NOT_PUBLIC.split()]

_TRICKS = """
    http://user@127.0.0.1:{0}/ https://user:password@127.0.0.1:{0}/ https://public.example@127.0.0.1:{0}/
    https://127.0.0.1:{0}@public.example/ https://@127.0.0.1:{0}/ https://public.example%40127.0.0.1:{0}/
    https://public.example\\@127.0.0.1:{0}/ https://127.0.0.1:{0}\\@public.example/ http:\\\\127.0.0.1:{0}\\
    https://[fe80::1%25lo]:{0}/ https://[fe80::1%lo]:{0}/ https://[::1%25lo]:{0}/ http://[::1%251]:{0}/
    https://%31%32%37.0.0.1:{0}/ https://127.0.0.1%2f@public.example:{0}/ https://127%2e0%2e0%2e1:{0}/
    https://[::1:{0}/ https://::1:{0}/ https://[::1]:{0}:80/ https://[::1].public.example:{0}/ https://[v1.x]:{0}/
    https://①②⑦.⓪.⓪.①:{0}/ https://127。0。0。1:{0}/ https://１２７.0.0.1:{0}/ https://ⓛocalhost:{0}/
    https:127.0.0.1:{0}/ https:/127.0.0.1:{0}/ https:///127.0.0.1:{0}/ //127.0.0.1:{0}/ 127.0.0.1:{0}/
    https://127.0.0.1:0/ https://127.0.0.1:65536/ https://127.0.0.1:-1/ https://127.0.0.1:+{0}/ https://127.0.0.1:0x50/
    file:///etc/passwd ftp://127.0.0.1:{0}/ gopher://127.0.0.1:{0}/_ dict://127.0.0.1:{0}/ unix:///var/run/docker.sock
    data:text/plain,x jar:http://127.0.0.1:{0}!/ ws://127.0.0.1:{0}/ javascript:alert(1)
    https://256.256.256.256:{0}/ https://08.0.0.1:{0}/ https://1.2.3.04:{0}/ https://xn--a.attack.example:{0}/
    https://xn--.attack.example:{0}/ https://xn--127-.attack.example:{0}/ https://xn--i-7iq.attack.example:{0}/
"""
TRICKS = [
    *_TRICKS.split(),
    " https://127.0.0.1:{0}/",
    "https://127.0.0.1:{0}/\r\nHost: public.example",
    "https://127.0.0.1 .public.example:{0}/",
    "https://127.0.0.1\t:{0}/",
    "https://127.0.0.1\0.public.example:{0}/",
    "https://public.example\n@127.0.0.1:{0}/",
    "https://loc\u00adalhost:{0}/",
    "https://localhost\u2024public.example:{0}/",
]
"""URLs with the canary's port for {0}, to be refused for what they are, wherever they would lead."""

# Names of targets, and what is answered to one lookup after another; the last answer stands.
NAMES: dict[str, list[list[str]]] = {
    "localhost": [["::1", "127.0.0.1"]],
    "LOCALHOST": [["::1", "127.0.0.1"]],
    "localhost.": [["::1", "127.0.0.1"]],
    "localhost.localdomain": [["127.0.0.1"]],
    "ip6-localhost": [["::1"]],
    "app.localhost": [["127.0.0.1"]],
    "intranet": [["10.0.0.1"]],
    "printer.local": [["192.168.0.9"]],
    "vault.internal": [["10.0.0.2"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "METADATA.google.internal.": [["169.254.169.254"]],
    "kubernetes.default.svc": [["10.96.0.1"]],
    "loopback.attack.example": [["127.0.0.1"]],
    "LoopBack.Attack.EXAMPLE.": [["127.0.0.1"]],
    "127.0.0.1.nip.example": [["127.0.0.1"]],
    "127.0.0.1.1": [["127.0.0.1"]],
    "xn--lcalhost-4g.attack.example": [["127.0.0.1"]],
    "any.attack.example": [["0.0.0.0"]],
    "six.attack.example": [["::1"]],
    "any6.attack.example": [["::"]],
    "mapped.attack.example": [["::ffff:127.0.0.1"]],
    "compatible.attack.example": [["::127.0.0.1"]],
    "nat64.attack.example": [["64:ff9b::7f00:1"]],
    "sixtofour.attack.example": [["2002:7f00:1::"]],
    "teredo.attack.example": [["2001:0:7f00:1::"]],
    "zone.attack.example": [["fe80::1%1"]],
    "public-zone.attack.example": [["2606:2800:220:1::34%1"]],
    "ula.attack.example": [["fd00::1"]],
    "site.attack.example": [["fec0::1"]],
    "multicast.attack.example": [["224.0.0.1", "ff02::1"]],
    "broadcast.attack.example": [["255.255.255.255"]],
    "cgnat.attack.example": [["100.64.0.1"]],
    "aws.attack.example": [["169.254.169.254", "fd00:ec2::254"]],
    "azure.attack.example": [["168.63.129.16"]],
    "all.attack.example": [["127.0.0.1", "127.0.0.2", "::1", "10.0.0.1", "169.254.169.254"]],
    # Public to whoever asks first (a check before the connection), and to the second half of those who ask once.
    "rebound": [[PUBLIC[0]], ["127.0.0.1"]],
    "rebound.internal": [[PUBLIC[1]], ["::1"]],
    "rebound.attack.example": [[PUBLIC[0]], ["127.0.0.1"], [PUBLIC[0]], ["127.0.0.1"]],
    "first.attack.example": [[PUBLIC[0], "127.0.0.1"]],
    "last.attack.example": [["127.0.0.1", PUBLIC[0]]],
    "between.attack.example": [["127.0.0.1", PUBLIC[0], "::1", PUBLIC[1], "10.0.0.1"]],
}


class House:
    """What relay can reach: names by a table, addresses of loopback; and a note of each connection it tries.

    Attributes:
        port: the canary's, on every address of this machine.
        answers: what is left of `NAMES`.
        friends: ports whose connections are the test's own business.
    """

    def __init__(self) -> None:
        self.port = 0
        self.answers = {name.rstrip(".").lower(): list(answers) for name, answers in NAMES.items()}
        self.friends: set[int] = set()
        self.seen = 0
        self._dialled: list[tuple[str, int]] = []
        self._came = asyncio.Condition()
        self._getaddrinfo, self._connect = socket.getaddrinfo, socket.socket.connect

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The canary."""
        async with self._came:
            self.seen += 1
            self._came.notify_all()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
        writer.close()

    def getaddrinfo(self, host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
        name = (host.decode() if isinstance(host, bytes) else host).rstrip(".").lower()
        left = self.answers.get(name)
        if left is None:
            if literal_address(name) is None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return self._getaddrinfo(host, port, *more, **options)
        found: list[Any] = []
        for address in left.pop(0) if len(left) > 1 else left[0]:
            plain, _, zone = address.partition("%")
            four = ":" not in plain
            target = (plain, port or 0) if four else (plain, port or 0, 0, int(zone or 0))
            family = socket.AF_INET if four else socket.AF_INET6
            found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", target))
        return found

    def connect(self, sock: socket.socket, target: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            self._dialled.append((target[0], target[1]))
            found = ip_address(target[0].partition("%")[0])
            at = getattr(found, "ipv4_mapped", None) or found
            if not at.is_loopback and not at.is_unspecified:
                raise OSError(errno.ENETUNREACH, "Network is unreachable")
        self._connect(sock, target)

    def dialled(self) -> Counter[str]:
        """The addresses that connections were tried to, without friends."""
        return Counter(host for host, port in self._dialled if port not in self.friends)

    async def is_quiet(self) -> None:
        """Nothing was tried but public addresses, and the canary, which can hear, has heard nobody."""
        assert set(self.dialled()) <= set(PUBLIC)
        before, self._dialled = self._dialled, []
        calls = 0
        for host in ("127.0.0.1", "::1"):  # the queue of each socket is served in its order
            _, writer = await asyncio.open_connection(host, self.port)
            calls += 1
            async with asyncio.timeout(5), self._came:
                await self._came.wait_for(lambda calls=calls: self.seen >= calls)
            writer.close()
            await writer.wait_closed()
        self._dialled = before
        assert self.seen == calls
        self.seen = 0


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    found = House()
    async with await asyncio.start_server(found.answer, "0.0.0.0", 0) as four:
        found.port = four.sockets[0].getsockname()[1]
        async with await asyncio.start_server(found.answer, "::", found.port):
            monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
            monkeypatch.setattr(socket.socket, "connect", lambda sock, target: found.connect(sock, target))
            yield found


def urls(house: House, hosts: list[str]) -> Iterator[str]:
    """Every host with both schemes, and with the ports that somebody else's service might have."""
    for number, host in enumerate(hosts):
        for scheme in ("https", "http"):
            yield f"{scheme}://{host}:{house.port}/latest/meta-data/?x=1"
        yield f"HTTPS://{host}:{(22, 25, 80, 443, 6379, 5432)[number % 6]}/"


def hostile(house: House) -> list[str]:
    """Every URL there is here."""
    return [*urls(house, LITERALS), *urls(house, list(NAMES)), *(url.format(house.port) for url in TRICKS)]


def quiet(tmp_path: Path, **more: str) -> dict[str, str]:
    """A deployment that allows nothing private, and polls nothing over a network."""
    allowed = {"RELAY_ALLOWED_NETWORKS": "", "RELAY_PROVIDER": "sandbox", "RELAY_RETRY_SCHEDULE": "0s,0.1s"}
    return environment(f"sqlite:///{tmp_path / 'relay.db'}", **{**allowed, **more})


@pytest.fixture
async def relay(house: House, tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployment(quiet(tmp_path), working=False) as running:
        house.friends.add(httpx.URL(running.url).port or 0)
        yield running


async def register(relay: Deployment, target: dict[str, Any], task_id: str = "sandbox:never") -> httpx.Response:
    return await relay.http.post("/v1/watches", json={"task_id": task_id, "targets": [target]})


async def try_out(relay: Deployment, target: dict[str, Any]) -> httpx.Response:
    return await relay.http.post("/v1/targets/test", json=target)


def webhook(url: str) -> dict[str, Any]:
    return {"type": "webhook", "url": url}


# Registering, and trying out


async def test_every_address_that_is_not_public_is_refused_however_it_is_written(
    house: House, relay: Deployment
) -> None:
    found = list(urls(house, LITERALS))
    for url in found:
        assert pointers(await register(relay, webhook(url))) == ["/targets/0/url"], url
        assert pointers(await try_out(relay, webhook(url))) == ["/url"], url
    batch = [{"task_id": "sandbox:never", "targets": [webhook(url)]} for url in found]
    response = await relay.http.post("/v1/watches/batch", json={"watches": batch})
    assert {item["status"] for item in response.json()["data"]} == {422}
    assert house.dialled() == {}
    await house.is_quiet()


async def test_urls_that_are_not_what_they_seem_are_refused(house: House, relay: Deployment) -> None:
    for url in TRICKS:
        assert pointers(await register(relay, webhook(url.format(house.port)))) == ["/targets/0/url"], url
        assert pointers(await try_out(relay, webhook(url.format(house.port)))) == ["/url"], url
    assert house.dialled() == {}
    await house.is_quiet()


async def test_names_are_refused_or_blocked_at_the_connection(house: House, relay: Deployment) -> None:
    for name in NAMES:
        for url in urls(house, [name]):
            response = await register(relay, webhook(url))
            assert response.status_code in (200, 201) or pointers(response) == ["/targets/0/url"], url
            response = await try_out(relay, webhook(url))
            if response.status_code == 422:
                assert pointers(response) == ["/url"], url
                continue
            assert url.lower().startswith("https:")
            attempt = response.json()["attempt"]
            refused = (
                ("blocked", "connect") if any(set(a) & set(PUBLIC) for a in NAMES[name]) else ("blocked", "protocol")
            )
            assert attempt["error"] in refused, (url, attempt)
            assert (response.json()["delivered"], attempt["answer"]) == (False, "")
    await house.is_quiet()


async def test_local_names_are_told_at_once_and_so_is_http_to_anywhere(house: House, relay: Deployment) -> None:
    for host in ("localhost", "LOCALHOST.", "intranet", "vault.internal", "metadata.google.internal", "nowhere"):
        assert pointers(await register(relay, webhook(f"https://{host}/"))) == ["/targets/0/url"], host
    house.answers["public.attack.example"] = [[PUBLIC[0]]]
    for host in (*NAMES, "public.attack.example", PUBLIC[0], f"[{PUBLIC[1]}]"):
        assert pointers(await register(relay, webhook(f"http://{host}/"))) == ["/targets/0/url"], host
    assert house.dialled() == {}


async def test_the_canary_sings_where_loopback_is_allowed(house: House, tmp_path: Path) -> None:
    """Or its silence would prove nothing."""
    async with deployment(quiet(tmp_path, RELAY_ALLOWED_NETWORKS="127.0.0.0/8,::1/128"), working=False) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)
        for host in ("127.0.0.1", "127.0.0.2", "[::1]", "0x7f.1", "localhost", "loopback.attack.example"):
            answer = (await try_out(relay, webhook(f"http://{host}:{house.port}/"))).json()
            assert (answer["delivered"], answer["attempt"]["answer"]) == (True, "secret"), host
        assert house.seen == 6
        assert sum(house.dialled().values()) >= 6


# Slack's incoming webhooks


async def test_a_slack_webhook_leads_to_slack_only(house: House, relay: Deployment) -> None:
    for url in hostile(house):
        response = await register(relay, {"type": "slack", "webhook_url": url})
        assert pointers(response) == ["/targets/0/webhook_url"], url
    for host in (
        "hooks.slack.com.attack.example",
        "hooks.slack.com@127.0.0.1",
        "127.0.0.1#.hooks.slack.com",
        "slack.com",
    ):
        target = {"type": "slack", "webhook_url": f"https://{host}/services/T/B/x"}
        assert pointers(await try_out(relay, target)) == ["/webhook_url"], host
    assert house.dialled() == {}


async def test_a_slack_webhook_at_a_private_address_is_blocked(house: House, tmp_path: Path) -> None:
    """Even of a host that the deployment lists, or of Slack's own, should its name be forged."""
    house.answers |= {"hooks.slack.com": [["127.0.0.1"]], "hooks.slack-gov.com": [["169.254.169.254", "::1"]]}
    hosts = ["hooks.slack.com", "hooks.slack-gov.com", *(host.strip("[]").rstrip(".").lower() for host in LITERALS)]
    listed = ",".join([*hosts, *(name.lower() for name in NAMES), *NAMES])
    async with deployment(quiet(tmp_path, SLACK_HOOK_HOSTS=listed), working=False) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)
        outcomes = Counter[str]()
        for host in (*LITERALS, *NAMES, *hosts[:2]):
            for scheme in ("https", "http"):
                target = {"type": "slack", "webhook_url": f"{scheme}://{host}:{house.port}/services/T/B/x"}
                response = await try_out(relay, target)
                if response.status_code == 422:
                    outcomes["refused"] += 1
                    continue
                assert scheme == "https"
                attempt = response.json()["attempt"]
                outcomes[attempt["error"]] += 1
                assert response.json()["delivered"] is False, target
        assert outcomes["blocked"] > 20
        assert set(outcomes) <= {"refused", "blocked", "connect", "protocol"}
    await house.is_quiet()


# Deliveries of what was stored while it was allowed


async def test_what_was_stored_while_allowed_is_blocked_once_it_is_not(house: House, tmp_path: Path) -> None:
    """And so is what the API would never have taken."""
    found = hostile(house)
    async with deployment(quiet(tmp_path, RELAY_ALLOWED_NETWORKS="0.0.0.0/0,::/0"), working=False) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)
        batch = [{"task_id": task(n), "targets": [webhook(url)]} for n, url in enumerate(found)]
        response = await relay.http.post("/v1/watches/batch", json={"watches": batch})
        refused = [n for n, item in enumerate(response.json()["data"]) if item["status"] == 422]
        assert len(refused) < len(found) / 2
        await store(relay, {task(n): {"url": found[n], "headers": {}} for n in refused})
    assert house.dialled() == {}
    async with deployment(quiet(tmp_path)) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)

        async def all_dead() -> dict[str, str] | None:
            query = sa.select(schema.watches.c.task_id, schema.deliveries.c.state, schema.attempts.c.error)
            query = query.select_from(schema.deliveries).join(schema.watches).join(schema.attempts)
            rows = list(await relay.relay.db.read(lambda tx: tx.execute(query).all()))
            errors = {row.task_id: row.error for row in rows if row.state == "dead"}
            return errors if len(errors) == len(found) else None

        errors = await until(all_dead)
        usual = set(urls(house, [host for host in LITERALS if is_usual(host)]))
        assert len(usual) > 100
        for number, url in enumerate(found):
            expected = ("blocked",) if url in usual else ("blocked", "dns", "connect", "protocol")
            assert errors[task(number)] in expected, url
    await house.is_quiet()


def is_usual(host: str) -> bool:
    """Whether it is an address in the one way of writing that everybody reads alike."""
    try:
        return bool(ip_address(host.strip("[]")))
    except ValueError:
        return False


def task(number: int) -> str:
    return f"sandbox:complete-in-0s#{number}"


async def store(relay: Deployment, addresses: dict[str, dict[str, Any]], kind: str = "webhook") -> None:
    """Watches with targets that no registration was ever asked about, as an older relay may have taken them."""
    app = await relay.relay.db.read(apps.by_name, apps.DEFAULT)
    assert app is not None
    now = relay.relay.context.clock()
    wanted = []
    for task_id, address in addresses.items():
        target_id = new_id("tgt")
        sealed = relay.relay.vault.seal(orjson.dumps(address), target_id)
        ends = ("task.completed", "task.failed")
        target = registrations.NewTarget(target_id, kind, sealed, task_id, "attack.example", ends, task_id.encode())
        wanted.append(registrations.Registration(app.id, "sandbox", task_id, (target,), "{}", None, now, now + 60_000))
    await relay.relay.db.run(registrations.register, wanted, now)


async def test_stored_slack_webhooks_too(house: House, tmp_path: Path) -> None:
    house.answers["public.attack.example"] = [[PUBLIC[0]]]
    found = [
        *urls(house, ["127.0.0.1", "127.1", "2130706433", "[::1]", "169.254.169.254", "[64:ff9b::7f00:1]"]),
        *urls(house, ["localhost", "loopback.attack.example", "all.attack.example", "rebound.attack.example"]),
        *(trick.format(house.port) for trick in TRICKS),
        "http://public.attack.example/services/T/B/x",
    ]
    async with deployment(quiet(tmp_path), working=True) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)
        await store(relay, {task(n): {"webhook_url": url} for n, url in enumerate(found)}, kind="slack")

        async def all_dead() -> list[str] | None:
            query = sa.select(schema.attempts.c.error).join(schema.deliveries)
            query = query.where(schema.deliveries.c.state == "dead", schema.attempts.c.number == 2)
            errors = list(await relay.relay.db.read(lambda tx: tx.execute(query).scalars().all()))
            return errors if len(errors) == len(found) else None

        errors = await until(all_dead)
        assert Counter(errors)["blocked"] >= 24
        assert set(errors) <= {"blocked", "connect", "dns", "protocol"}
    assert house.dialled()[PUBLIC[0]] <= 4  # for https://rebound.attack.example alone
    await house.is_quiet()


# The transports themselves


async def test_no_transport_connects_to_what_is_not_public(house: House) -> None:
    async with (
        Transport(Guard(), timeout=5, max_bytes=100) as transport,
        guarded_session(Guard(), Lookups("test", 4)) as session,
    ):
        for url in hostile(house):
            literal = url in set(urls(house, LITERALS))
            for method in ("GET", "POST"):
                try:
                    request = httpx.Request(method, url)
                except (httpx.InvalidURL, UnicodeError):
                    break
                with pytest.raises(httpx.TransportError) as caught:
                    await transport.handle_async_request(request)
                assert not literal or failure_class(caught.value) == "blocked", url
            with pytest.raises((aiohttp.ClientError, ValueError)) as odd:
                await session.get(url)
            assert not isinstance(odd.value, aiohttp.ClientResponseError), url
    await house.is_quiet()


async def test_addresses_without_tls_must_be_allowed_ones(house: House) -> None:
    """http:// to a name is judged when it is registered, and again when its name has come to mean something else."""
    house.answers |= {
        "moved.attack.example": [["127.0.0.1"], [PUBLIC[0]]],
        "public.attack.example": [[PUBLIC[0]]],
        "both.attack.example": [[PUBLIC[0], PUBLIC[1], "10.0.0.1"]],
    }
    plain = Guard([ip_network("127.0.0.0/8")], public=False)
    async with Transport(plain, timeout=5, max_bytes=100) as transport:
        for host in (PUBLIC[0], f"[{PUBLIC[1]}]", "public.attack.example", "both.attack.example"):
            with pytest.raises(httpx.TransportError) as caught:
                await transport.handle_async_request(httpx.Request("POST", f"http://{host}:{house.port}/"))
            assert failure_class(caught.value) == "blocked"
    assert house.dialled() == {}


async def test_http_to_a_name_that_has_become_public_is_blocked(house: House, tmp_path: Path) -> None:
    house.answers |= {
        "moved.attack.example": [["127.0.0.1"], [PUBLIC[0]]],
        "turned.attack.example": [["127.0.0.1"], ["127.0.0.2"]],
    }
    async with deployment(quiet(tmp_path, RELAY_ALLOWED_NETWORKS="127.0.0.1/32"), working=False) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)
        for name in ("moved", "turned"):
            response = await try_out(relay, webhook(f"http://{name}.attack.example:{house.port}/"))
            assert response.json()["attempt"]["error"] == "blocked"
            assert "RELAY_ALLOWED_NETWORKS" in response.json()["attempt"]["note"]
    assert house.dialled() == {}
    await house.is_quiet()


async def test_a_slack_webhook_without_tls_is_blocked_too_once_its_name_is_public(house: House, tmp_path: Path) -> None:
    house.answers["hooks.attack.example"] = [["127.0.0.1"], [PUBLIC[0]]]
    environ = quiet(tmp_path, RELAY_ALLOWED_NETWORKS="127.0.0.1/32", SLACK_HOOK_HOSTS="hooks.attack.example")
    async with deployment(environ, working=False) as relay:
        house.friends.add(httpx.URL(relay.url).port or 0)
        target = {"type": "slack", "webhook_url": "http://hooks.attack.example/services/T/B/x"}
        response = await try_out(relay, target)
        assert response.json()["attempt"]["error"] == "blocked"
    assert house.dialled() == {}


async def test_of_several_addresses_only_the_public_ones_are_tried(house: House, relay: Deployment) -> None:
    for name in ("first", "last", "between"):
        before = house.dialled()
        attempt = (await try_out(relay, webhook(f"https://{name}.attack.example:{house.port}/"))).json()["attempt"]
        assert (attempt["error"], attempt["answer"]) in (("connect", ""), ("blocked", ""))
        assert set(house.dialled() - before) <= set(PUBLIC)
        assert house.dialled()[PUBLIC[0]] > before[PUBLIC[0]]
    await house.is_quiet()


# Redirects


PLACES = ("http://127.0.0.2:{0}/", "http://127.0.0.1:{0}/", "//127.0.0.1:{0}/", "http://169.254.169.254/", "/again")


async def test_no_redirect_is_followed(house: House, receiver: Receiver, upstream: Upstream, tmp_path: Path) -> None:
    """Not to what is private, nor to what is allowed: by a webhook, a hook of Slack's, Slack itself, an upstream."""
    here = receiver.url.removeprefix("http://")
    environ = quiet(
        tmp_path,
        RELAY_ALLOWED_NETWORKS="127.0.0.1/32",
        SLACK_HOOK_HOSTS=here,
        SLACK_API_URL=f"{receiver.url}/api/",
        SLACK_BOT_TOKEN="xoxb-1",
        UNIFIED_VIDEO_BASE_URL=upstream.url,
    )
    async with deployment(environ) as relay:
        house.friends |= {httpx.URL(url).port or 0 for url in (relay.url, receiver.url, upstream.url)}
        number = 0
        for status in (300, 301, 302, 303, 307, 308):
            for place in PLACES:
                number += 1
                headers = {"Location": place.format(house.port), "Refresh": f"0; url={place.format(house.port)}"}
                receiver.scripts |= {
                    f"/{number}": Answer(b"", status, headers),
                    f"/services/T/B/{number}": Answer(b"", status, headers),
                    "/api/chat.postMessage": Answer(b"", status, headers),
                }
                upstream.scripts[f"moved-{number}"] = Answer(b"", status, headers)
                for target in (
                    webhook(f"{receiver.url}/{number}"),
                    {"type": "slack", "webhook_url": f"{receiver.url}/services/T/B/{number}"},
                    {"type": "slack", "channel": "#renders"},
                ):
                    answer = (await try_out(relay, target)).json()
                    assert (answer["delivered"], answer["attempt"]["error"]) == (False, f"http_{status}"), target
                watch = {"task_id": f"moved-{number}", "provider": "unified-video", "targets": [webhook(receiver.url)]}
                assert (await relay.http.post("/v1/watches", json=watch)).status_code == 201
        posts = Counter(post.path for post in receiver.posts)
        assert posts.pop("/api/chat.postMessage") == number
        assert set(posts.values()) == {1}
        assert "/again" not in posts

        async def all_asked() -> bool:
            return all(upstream.asked[f"moved-{n}"] for n in range(1, number + 1))

        await until(all_asked)
        assert {url.partition("?")[0] for url, _ in upstream.heads} == {f"{upstream.url}/v1/video/query"}
    assert house.dialled() == {}
    await house.is_quiet()


async def test_an_upstream_at_a_private_address_is_not_asked(house: House, tmp_path: Path) -> None:
    for number, base in enumerate(("http://127.0.0.1:{0}", "https://127.1:{0}", "http://loopback.attack.example:{0}")):
        environ = quiet(tmp_path, UNIFIED_VIDEO_BASE_URL=base.format(house.port))
        async with deployment(environ) as relay:
            house.friends.add(httpx.URL(relay.url).port or 0)
            target = webhook("https://public.example/")
            body = {"task_id": f"task-{number}", "provider": "unified-video", "targets": [target]}
            watch = (await relay.http.post("/v1/watches", json=body)).json()

            async def polled(relay: Deployment = relay, watch_id: str = watch["id"]) -> Any:
                found = await relay.watch(watch_id)
                return found if found["polls"] else None

            assert (await until(polled))["error"]["code"] == "blocked"
    assert house.dialled() == {}
    await house.is_quiet()


# Behind a proxy


async def test_behind_a_proxy_nothing_else_is_dialled(house: House, receiver: Receiver, tmp_path: Path) -> None:
    """What lies behind the proxy is the proxy's to refuse; addresses that say what they are, relay still refuses."""
    house.answers["app.attack.example"] = [["10.0.0.1"]]
    environ = quiet(
        tmp_path,
        RELAY_EGRESS_PROXY=receiver.url,
        SLACK_BOT_TOKEN="xoxb-1",
        SLACK_API_URL="http://slack.attack.example/api/",
        UNIFIED_VIDEO_BASE_URL="http://upstream.attack.example",
    )
    async with deployment(environ) as relay:
        house.friends |= {httpx.URL(url).port or 0 for url in (relay.url, receiver.url)}
        assert pointers(await try_out(relay, webhook(f"https://127.0.0.1:{house.port}/"))) == ["/url"]
        for target in (
            webhook("https://app.attack.example/"),
            webhook("https://loopback.attack.example/"),
            {"type": "slack", "webhook_url": "https://hooks.slack.com/services/T/B/x"},
            {"type": "slack", "channel": "#renders"},
        ):
            answer = (await try_out(relay, target)).json()
            assert answer["delivered"] is False
        body = {"task_id": "t", "provider": "unified-video", "targets": [webhook("https://app.attack.example/")]}
        watch = (await relay.http.post("/v1/watches", json=body)).json()

        async def polled() -> Any:
            found = await relay.watch(watch["id"])
            return found if found["polls"] else None

        await until(polled)
    assert [post.path for post in receiver.posts] == ["/api/chat.postMessage"]
    assert house.dialled() == {}
    await house.is_quiet()


async def test_the_command_line_goes_through_the_proxy_too(house: House, receiver: Receiver, tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "RELAY_CONFIG": CONFIG,
        "RELAY_EGRESS_PROXY": receiver.url,
        "RELAY_ALLOWED_NETWORKS": "127.0.0.0/8",
        "UNIFIED_VIDEO_BASE_URL": f"http://127.0.0.1:{house.port}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relay", "providers", "try", "unified-video", "task", env=environ, cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert b"not_answered" in said  # this proxy takes no GET
    await house.is_quiet()


# The channels, called directly


async def test_a_channel_makes_an_outcome_of_any_url(house: House) -> None:
    guard = Guard()
    encrypted, plain = (Transport(by, timeout=5, max_bytes=100) for by in (guard, guard.plain()))
    given = resources(TargetTransport(encrypted, plain), guard)
    hooks, webhooks = SlackChannel(given), WebhookChannel(given)
    body = orjson.dumps({"type": "task.completed", "data": {"state": "completed", "task_id": "t"}})
    try:
        for url in hostile(house):
            for channel, address in ((webhooks, {"url": url}), (hooks, {"webhook_url": url})):
                outcome: Outcome = await channel.send(Message("evt_1", "task.completed", body, address, [SECRET], 0))
                assert outcome.error in ("blocked", "dns", "connect", "protocol"), (url, outcome)
                assert url not in (outcome.note or "")
    finally:
        for one in (encrypted, plain, hooks):
            await one.aclose()
    await house.is_quiet()
