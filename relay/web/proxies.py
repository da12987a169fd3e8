"""Proxies before relay: whether there is one that relay was not told about."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

log = structlog.stdlib.get_logger(__name__)


class Unproxied:
    """Warns once if a request came through a proxy although, as far as is set, there is none.

    All callers then share the proxy's address, and with it the limit for wrong passwords.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the headers of a request, and pass it on."""
        if not self._warned and b"x-forwarded-for" in dict(scope.get("headers", ())):
            self._warned = True
            log.warning(
                "requests carry X-Forwarded-For, and RELAY_TRUSTED_HOPS is 0: if a proxy of yours is in front, set it"
                " to the number of proxies, or the wrong passwords of all visitors count as those of one",
                client=scope["client"] and scope["client"][0],
            )
        await self._app(scope, receive, send)
