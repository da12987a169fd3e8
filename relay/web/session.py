"""Who may see the dashboard: one password, a signed cookie, a token in every form, and patience with those who guess.

Nothing is stored. The cookie is signed with a key that comes from the vault's and the password, so it holds in every
process of a deployment, and a new password ends every session. Without a password the dashboard is for whoever sits at
this machine: see `at_this_machine`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from relay.errors import Forbidden, TooManyRequests
from relay.guard import is_loopback
from relay.model import Millis
from relay.settings import Settings
from relay.vault import Vault
from relay.web.limits import Bucket

LIFETIME = 12 * 3600
"""Seconds that a session lasts."""

PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Headers of which one means that somebody else has sent the request on."""

PER_ADDRESS, IN_ALL = (5.0, 0.1), (30.0, 1.0)
"""Wrong passwords at once, and per second from then on: from one address, and altogether."""

MAX_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """What a cookie says: until when, and whether whoever has it knew the password. A stranger's serves its forms."""

    nonce: str
    until: Millis
    known: bool


class Sessions:
    """Makes and reads the cookies of one deployment.

    Args:
        settings: the password, and whether the public address is https.
        vault: what cookies are signed with.
    """

    def __init__(self, settings: Settings, vault: Vault) -> None:
        self._password = settings.admin_password
        # A platform's router speaks https, whether or not RELAY_BASE_URL says so.
        self._secure = settings.deployed or settings.public_url.startswith("https://")
        self._host = urlsplit(settings.base_url).netloc.lower()
        self._closed = settings.deployed or not (self._host == "" or is_loopback(urlsplit(settings.base_url).hostname))
        self._keys = vault.derived(f"dashboard session {self._password}")
        self._hops = settings.hops
        self._everybody = Bucket(*IN_ALL, time.monotonic())
        self._by_address: dict[str, Bucket] = {}
        # A browser takes a cookie of this name only over https, and keeps other hosts of the domain from setting it.
        self.cookie = "__Host-relay_session" if self._secure else "relay_session"

    @property
    def wants_login(self) -> bool:
        """Whether there is a password."""
        return self._password is not None

    def read(self, request: Request, now: Millis) -> Session | None:
        """The session of a request; None when it has none, or one that is over."""
        payload, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        if not any(
            hmac.compare_digest(_mac(key, f"session {payload}").encode(), signature.encode()) for key in self._keys
        ):
            return None
        kind, until, nonce = payload.split(".")
        session = Session(nonce, int(until), kind == "known")
        return session if now < session.until else None

    def new(self, now: Millis, *, known: bool) -> Session:
        """A new session."""
        return Session(secrets.token_urlsafe(18), now + LIFETIME * 1000, known)

    def give(self, response: Response, session: Session) -> None:
        """Sends a session's cookie along."""
        payload = f"{'known' if session.known else 'stranger'}.{session.until}.{session.nonce}"
        value = f"{payload}.{_mac(self._keys[0], f'session {payload}')}"
        response.set_cookie(
            self.cookie, value, max_age=LIFETIME, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    def take(self, response: Response) -> None:
        """Has the browser forget its cookie."""
        response.delete_cookie(self.cookie, path="/", secure=self._secure, httponly=True, samesite="lax")

    def may_see(self, request: Request, session: Session | None) -> bool:
        """Whether this request may see the dashboard.

        Raises:
            Forbidden: nobody may from there, since there is no password.
        """
        if self._password is not None:
            return session is not None and session.known
        if self._closed or not at_this_machine(request):
            raise Forbidden(
                "set RELAY_ADMIN_PASSWORD: without it, the dashboard is only for this machine's own browser"
            )
        return True

    def log_in(self, request: Request, password: str) -> bool:
        """Whether this is the password.

        Raises:
            TooManyRequests: there were too many wrong ones.
        """
        mine, now = self._patience(client_address(request, self._hops)), time.monotonic()
        if wait := max(mine.wait(now), self._everybody.wait(now)):
            raise TooManyRequests("too many wrong passwords; wait a little", retry_after=wait)
        given, wanted = (
            hashlib.sha256((text or "").encode("utf-8", "replace")).digest() for text in (password, self._password)
        )
        if self._password is not None and hmac.compare_digest(given, wanted):
            return True
        mine.take()
        self._everybody.take()
        return False

    def _patience(self, address: str) -> Bucket:
        """What is left of one address's patience; whoever has an IPv6 address has a whole /64 of them."""
        try:
            parsed = ip_address(address)
            if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
                address = str(ip_network((parsed, 64), strict=False))
        except ValueError:
            pass
        if address not in self._by_address:
            if len(self._by_address) >= MAX_ADDRESSES:
                self._by_address.clear()  # what is left for all together still holds
            self._by_address[address] = Bucket(*PER_ADDRESS, time.monotonic())
        return self._by_address[address]

    def token(self, session: Session) -> str:
        """What every form of this session must bring."""
        return _mac(self._keys[0], f"form {session.nonce}")

    def check(self, request: Request, session: Session | None, token: str) -> None:
        """Makes sure that a form was sent from a page of ours, by the browser that the page was made for.

        Raises:
            Forbidden: it was not, or the page is too old.
        """
        origin = request.headers.get("origin")
        here = {request.headers.get("host", "").lower(), self._host} - {""}
        parts = None if origin is None else _split(origin)
        foreign = origin is not None and (parts is None or parts.netloc.lower() not in here)
        if foreign or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise Forbidden("this form was sent from another site")
        good = session is not None and any(
            hmac.compare_digest(_mac(key, f"form {session.nonce}").encode(), token.encode()) for key in self._keys
        )
        if not good:
            raise Forbidden("this form was too old: go back, load the page again, and try again")


def at_this_machine(request: Request) -> bool:
    """Whether a browser of this machine asks, directly and by a local name.

    The peer alone does not tell: a proxy here speaks for the world, and a site of the world can have its name lead
    here (DNS rebinding), but then the browser says that name.
    """
    peer = request.client.host if request.client else ""
    named = _split(f"//{request.headers.get('host', '')}")
    local = named is not None and is_loopback(named.hostname)
    return is_loopback(peer) and local and not any(name in request.headers for name in PROXIED)


def client_address(request: Request, hops: int) -> str:
    """Who asks: the peer, or behind proxies of ours what the outermost of them has seen.

    Each proxy adds on the right of `X-Forwarded-For` whom it heard from; what stands further left anybody may have
    written.

    Args:
        hops: how many proxies there are.
    """
    chain = [one.strip() for line in request.headers.getlist("x-forwarded-for") for one in line.split(",")]
    if hops and len(chain) >= hops:
        return chain[-hops]
    return request.client.host if request.client else ""


def _split(address: str) -> SplitResult | None:
    """The parts of an address that a browser names, or None: whoever asks may name what is none, such as `[`."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
