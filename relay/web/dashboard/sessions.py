"""Who may see the dashboard: one password, a signed cookie, a token in every form, and a limit for wrong passwords.

No session is stored. The key that signs the cookie is derived from the vault's key and the password. So a cookie holds
in every process of a deployment, and a new password ends every session. So does a log-out: the cookie names its
generation, and each log-out begins the next one (`Generation`). Without a password, the dashboard is only for browsers
on this machine: see `at_this_machine`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from relay.errors import ConfigError, Forbidden, TooManyRequests
from relay.model.times import Millis
from relay.security.guard import is_loopback
from relay.security.vault import Vault
from relay.settings.options import Settings
from relay.store import Database, generations
from relay.web.rate_limit import Bucket

log = structlog.stdlib.get_logger(__name__)

KNOWN_FOR = 400 * 24 * 3600
"""Seconds for which a browser that was logged in is known again: as long as browsers keep a cookie."""

LOOK_EVERY = 2.0
"""Seconds for which the generation is remembered: for so long a session may outlive a log-out at another process."""

NEXT_PAGE = 60
"""Seconds within which the next page must be read that shows what a form has made."""

LIFETIME = 12 * 3600
"""Seconds that a session lasts."""

PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Headers that say that a proxy has sent the request on."""

PER_ADDRESS = (5.0, 0.1)
"""Wrong passwords from one address: how many at once, and how many per second after that."""

IN_ALL = (30.0, 1.0)
"""The same for all addresses together."""

MAX_BUCKETS = 10_000
"""Addresses and known browsers whose wrong passwords are counted."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a cookie says.

    Attributes:
        nonce: makes the tokens of this session's forms.
        known: the visitor has given the password. The session of another visitor is only for the login form.
    """

    nonce: str
    until: Millis
    known: bool

    @property
    def generation(self) -> int | None:
        """Return the generation in which the visitor has given the password; None if an earlier release took it."""
        number, separator, _ = self.nonce.partition("~")
        return int(number) if separator else None


class Generation:
    """Which sessions hold: those of the current generation. A log-out begins the next one, in all processes.

    Args:
        db: has its number.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._looked_at = float("-inf")
        self._current = 0

    async def current(self) -> int:
        """Return the current generation, as it was lately."""
        if time.monotonic() - self._looked_at > LOOK_EVERY:
            self._current = await self._db.read(generations.current, generations.DASHBOARD)
            self._looked_at = time.monotonic()
        return self._current

    async def ended(self, session: Session) -> bool:
        """Return whether a session was ended by a log-out."""
        return session.known and session.generation not in (None, await self.current())

    async def end(self) -> None:
        """End every session."""
        self._current = await self._db.run(generations.advance, generations.DASHBOARD)
        self._looked_at = time.monotonic()


class Sessions:
    """Makes and reads the cookies of one deployment.

    Args:
        settings: the password, and whether the public address is https.
        vault: what cookies are signed with.
    """

    def __init__(self, settings: Settings, vault: Vault) -> None:
        self._password = settings.admin_password
        self._vault = vault
        # A platform's router takes https, whether or not RELAY_BASE_URL says so.
        self._secure = settings.deployed or settings.public_url.startswith("https://")
        self._host = urlsplit(settings.base_url).netloc.lower()
        self._closed = settings.deployed or not (self._host == "" or is_loopback(urlsplit(settings.base_url).hostname))
        self._keys = vault.derived(f"dashboard session {self._password}")
        self._browser_keys = vault.derived("dashboard browser")
        self._hops = settings.hops
        self._all_addresses = Bucket(*IN_ALL, time.monotonic())
        self._buckets: dict[str, Bucket] = {}
        # A browser takes a cookie of this name only over https, and keeps other hosts of the domain from setting it.
        prefix = "__Host-" if self._secure else ""
        self.cookie = f"{prefix}relay_session"
        self.browser_cookie = f"{prefix}relay_browser"
        self.made_cookie = f"{prefix}relay_made"

    @property
    def wants_login(self) -> bool:
        """Return whether there is a password."""
        return self._password is not None

    def read(self, request: Request, now: Millis) -> Session | None:
        """Return the session of a request; None if it has none, or one that is over."""
        payload, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        if not self._signed(f"session {payload}", signature):
            return None
        kind, until, nonce = payload.split(".")
        session = Session(nonce, int(until), kind == "known")
        return session if now < session.until else None

    def new(self, now: Millis, *, known: bool, generation: int = 0) -> Session:
        """Return a new session."""
        # The release before reads the same cookie, so the generation is a part of what it takes for the nonce.
        return Session(f"{generation}~{secrets.token_urlsafe(18)}", now + LIFETIME * 1000, known)

    def give(self, response: Response, session: Session) -> None:
        """Put a session's cookie into a response."""
        payload = f"{'known' if session.known else 'stranger'}.{session.until}.{session.nonce}"
        value = f"{payload}.{_mac(self._keys[0], f'session {payload}')}"
        self._set(response, self.cookie, value, LIFETIME)

    def know(self, request: Request, response: Response) -> None:
        """Have the browser show from now on that it was logged in once: its wrong passwords are counted apart."""
        browser = self._browser(request) or secrets.token_urlsafe(18)
        value = f"{browser}.{_mac(self._browser_keys[0], f'browser {browser}')}"
        self._set(response, self.browser_cookie, value, KNOWN_FOR)

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(name, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax")

    def _delete(self, response: Response, name: str) -> None:
        response.delete_cookie(name, path="/", secure=self._secure, httponly=True, samesite="lax")

    def _browser(self, request: Request) -> str | None:
        """Return the name of a browser that was logged in once; None for others."""
        browser, _, signature = request.cookies.get(self.browser_cookie, "").rpartition(".")
        return browser if _is_signed(self._browser_keys, f"browser {browser}", signature) else None

    def take(self, response: Response) -> None:
        """Have the browser delete its cookie."""
        self._delete(response, self.cookie)

    def hand_on(self, response: Response, session: Session, now: Millis, *made: str) -> None:
        """Have the session's next page show what a form has made, once: to load that page again makes nothing anew."""
        sealed = self._vault.seal(orjson.dumps([now + NEXT_PAGE * 1000, *made]), _next_page_of(session))
        self._set(response, self.made_cookie, urlsafe_b64encode(sealed).decode(), NEXT_PAGE)

    def handed_on(self, request: Request, session: Session, now: Millis) -> list[str]:
        """Return what the page before has made; nothing if there is none, or it is over, or of another session."""
        try:
            sealed = urlsafe_b64decode(request.cookies.get(self.made_cookie, ""))
            until, *made = orjson.loads(self._vault.open(sealed, _next_page_of(session)))
        except (ValueError, ConfigError):
            return []
        return made if now < until else []

    def forget(self, response: Response) -> None:
        """Have the browser delete what the page before has made: it is shown."""
        self._delete(response, self.made_cookie)

    def may_see(self, request: Request, session: Session) -> bool:
        """Return whether this request may see the dashboard.

        Raises:
            Forbidden: there is no password, and the browser is not on this machine.
        """
        if self._password is not None:
            return session.known
        if self._closed or not at_this_machine(request):
            raise Forbidden(
                "set RELAY_ADMIN_PASSWORD: without it, the dashboard is only for this machine's own browser"
            )
        return True

    def log_in(self, request: Request, password: str) -> bool:
        """Return whether this is the password.

        A browser that was logged in once has a bucket of its own: whatever strangers guess, its operator gets in.

        Raises:
            TooManyRequests: there were too many wrong ones.
        """
        browser = self._browser(request)
        address = client_address(request, self._hops)
        buckets = [self._of_address(address), self._all_addresses]
        if browser is not None:
            buckets = [self._bucket(f"browser {browser}")]
        now = time.monotonic()
        if wait := max(bucket.wait(now) for bucket in buckets):
            raise TooManyRequests("too many wrong passwords; wait a little", retry_after=wait)
        if self._password is not None and hmac.compare_digest(_digest(password), _digest(self._password)):
            log.info("logged in", address=address)
            return True
        for bucket in buckets:
            bucket.take()
        log.warning("wrong password", address=address, known_browser=browser is not None)
        return False

    def _of_address(self, address: str) -> Bucket:
        """Return the bucket of an address: one for each IPv4 address, and one for each /64 of IPv6."""
        try:
            parsed = ip_address(address)
            if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
                address = str(ip_network((parsed, 64), strict=False))
        except ValueError:
            pass
        return self._bucket(address)

    def _bucket(self, key: str) -> Bucket:
        if key not in self._buckets:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()  # the limit for all addresses still holds
            self._buckets[key] = Bucket(*PER_ADDRESS, time.monotonic())
        return self._buckets[key]

    def token(self, session: Session) -> str:
        """Return what every form of this session must bring."""
        return _mac(self._keys[0], f"form {session.nonce}")

    def check(self, request: Request, session: Session, token: str) -> None:
        """Make sure that a form was sent from a page of ours, by the browser that the page was made for.

        Raises:
            Forbidden: it was not, or the page is too old.
        """
        if not self._from_our_page(request):
            raise Forbidden("this form was sent from another site")
        if not self._signed(f"form {session.nonce}", token):
            raise Forbidden("this form was too old: go back, load the page again, and try again")

    def _from_our_page(self, request: Request) -> bool:
        """Return whether the browser says that one of our pages has sent this request, or does not say."""
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        origin = request.headers.get("origin")
        if origin is None:
            return True
        ours = {request.headers.get("host", "").lower(), self._host} - {""}
        parts = _split(origin)
        return parts is not None and parts.netloc.lower() in ours

    def _signed(self, text: str, signature: str) -> bool:
        """Return whether one of the keys has signed this text."""
        return _is_signed(self._keys, text, signature)


def at_this_machine(request: Request) -> bool:
    """Return whether a browser on this machine asks, directly and by a local name.

    The client's address alone does not tell. A proxy on this machine sends on what others ask. And a foreign site can
    have its own name lead here (DNS rebinding), but then the browser says that name.
    """
    client = request.client.host if request.client else ""
    named = _split(f"//{request.headers.get('host', '')}")
    local = named is not None and is_loopback(named.hostname)
    return is_loopback(client) and local and not any(name in request.headers for name in PROXIED)


def client_address(request: Request, hops: int) -> str:
    """Return the address that asks; behind proxies of ours, the one that the outermost of them has seen.

    Each proxy adds on the right of `X-Forwarded-For` the address that it was asked from. What stands further left may
    have been written by anyone.

    Args:
        hops: how many proxies there are.
    """
    chain = [address.strip() for line in request.headers.getlist("x-forwarded-for") for address in line.split(",")]
    if hops and len(chain) >= hops:
        return chain[-hops]
    return request.client.host if request.client else ""


def _split(address: str) -> SplitResult | None:
    """Return the parts of an address that a request names; None if it is not an address, such as `[`."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _next_page_of(session: Session) -> str:
    """Return whom the vault seals for what the next page of a session shows."""
    return f"dashboard made {session.nonce}"


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode("utf-8", "replace")).digest()


def _is_signed(keys: Sequence[bytes], text: str, signature: str) -> bool:
    return any(hmac.compare_digest(_mac(key, text).encode(), signature.encode()) for key in keys)


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
