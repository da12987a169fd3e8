"""Upstreams that no file declares: an app says where one task is asked about, and what its end looks like.

Whoever has an API key chooses the host, as with targets. So the queries go out as attempts do: the URL is judged by the
guard, http is for allowed networks only, and what they use is the share of the app. The cadence and the lanes are the
same for all, and the expressions only look (`expressions.judge_plain`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import orjson

from relay.model.cadence import Cadence
from relay.model.providers import INLINE, family
from relay.model.watch import Caution
from relay.outbound.lane import Limit
from relay.outbound.prepared import Exchanger
from relay.providers.definition import Definition
from relay.providers.hosts import Unaskable, address_of
from relay.providers.provider import Provider
from relay.settings.types import MIB

MAX_REMEMBERED = 1000
"""Inline definitions that a process keeps ready. Another is made ready for each of its polls."""

MAX_READERS = 100
"""Of these, as many with other expressions: to check and compile them takes longer than the rest."""

CADENCE = Cadence(floor=5.0, learn=False)
"""How often a task is asked about. RELAY_POLL_INTERVAL replaces it, but for the floor."""

OF_APP = Limit(5, 2.0)
"""What one app may ask of one host."""

OF_HOST = Limit(100, 20.0)
"""What all apps together may ask of one host."""


@dataclass(frozen=True, slots=True)
class Inline:
    """An inline definition, checked: where to ask, and expressions that say how to read the answer."""

    url: str
    completed: str
    failed: str | None = None
    result: str | None = None
    progress: str | None = None
    error: str | None = None

    @property
    def text(self) -> str:
        """Return it as it is stored: the same for the same definition."""
        members = {name: value for name, value in asdict(self).items() if value is not None}
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS).decode()

    @property
    def name(self) -> str:
        """Return what stands in the place of a provider's name."""
        return INLINE + hashlib.sha256(self.text.encode()).hexdigest()[:32]


class InlineProvider(Provider):
    """The upstream of one inline definition.

    Args:
        inline: the definition.
        exchanger: sends the queries.
    """

    def __init__(self, inline: Inline, exchanger: Exchanger) -> None:
        address = address_of(inline.url)
        if address is None:
            raise Unaskable("provider/url", "must be an address", "such as https://api.example/jobs/7")
        super().__init__(definition_of(replace(inline, url="")), None, exchanger)
        self._stand_at(address.origin)
        self.name = inline.name
        self.address = inline.url
        self.at_home = False
        self._url_target = (address.target or "/").encode("ascii")

    def lanes(self, _key: str | None, app: str, /) -> Sequence[tuple[Hashable, Limit]]:
        """Return the lanes that a query goes through: the app's at the host, and that of all apps."""
        return (("inline", app, self.host), OF_APP), (("inline", self.host), OF_HOST)

    def share(self, app: str) -> tuple[str, str]:
        """Return the app: it has chosen the host."""
        return app, ""

    def cadence(self, instead: Cadence | None) -> Cadence:
        """Return how often to ask, never more often than all inline definitions may be asked."""
        return CADENCE if instead is None else replace(instead, floor=max(instead.floor, CADENCE.floor))

    def _target_of(self, _task_id: str, _names: Mapping[str, str], /) -> bytes:
        return self._url_target


class InlineProviders:
    """The upstreams of inline definitions, each made when it is first asked.

    Args:
        encrypted, plain: send queries with TLS, and without it to allowed networks only.
        problem: returns why a URL may not be called, or None.
    """

    def __init__(self, encrypted: Exchanger, plain: Exchanger, problem: Callable[[str], Awaitable[str | None]]) -> None:
        self._encrypted = encrypted
        self._plain = plain
        self._problem = problem
        self._providers: dict[str, InlineProvider] = {}

    def __getitem__(self, text: str) -> InlineProvider:
        provider = self._providers.get(text)
        if provider is None:
            inline = Inline(**orjson.loads(text))
            exchanger = self._encrypted if inline.url.lower().startswith("https:") else self._plain
            provider = InlineProvider(inline, exchanger)
            if len(self._providers) >= MAX_REMEMBERED:
                self._providers.clear()
            self._providers[text] = provider
        return provider

    async def problem(self, text: str) -> str | None:
        """Return why relay may not ask where a definition says, or None if it may."""
        return await self._problem(self[text].address)


@lru_cache(MAX_READERS)
def definition_of(inline: Inline) -> Definition:
    """Return an inline definition, its URL aside, as a provider file would say it. Many tasks have the same."""
    status = [
        f"({inline.failed}) && 'failed'" if inline.failed else "",
        # JMESPath takes 0 for true.
        f"({inline.completed}) && ({inline.completed}) != `0` && 'completed'",
        "'pending'",
    ]
    read: dict[str, object] = {
        "status": [expression for expression in status if expression],
        "progress": inline.progress or [],
        "result": {"url": inline.result or []},
        "error": {"message": inline.error} if inline.error else {},
    }
    request = {
        "path": "/{task_id}",  # in its place stands that of the URL
        "headers": {"Accept": "application/json", "Authorization": "Bearer {key}"},
        "max_bytes": MIB,
    }
    return Definition.model_validate(
        {
            "name": family(INLINE),
            "title": "Inline definition",
            "request": request,
            "read": read,
            "statuses": {"pending": ["pending"], "completed": ["completed"], "failed": ["failed"]},
            "caution": Caution() if inline.result else Caution(bare_after=1),
            "cadence": CADENCE,
            "budget": OF_APP,
        }
    )
