"""What an app asks of relay: to watch a task, and to tell its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relay.channels.base import Target


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A task to watch and where to tell its end, as an app asks for it.

    Attributes:
        provider: which upstream to ask; None for the configured one.
        metadata: JSON that comes back in every event.
        expires_in: seconds until relay stops watching; None for what the provider's file says, or the configured time.
        upstream_key: the upstream's API key for this watch; None for the configured one.
        upstream_base: the address at which to ask about it; None for the provider's own.
        inline: its inline definition, where no file declares its provider.
        late_after: seconds after which the task is late; or `P95`, for when most of its kind have ended.
        permitted: the targets are permitted, whatever the app may have by itself.
    """

    task_id: str
    targets: Sequence[Target]
    provider: str | None = None
    metadata: str = "{}"
    expires_in: int | None = None
    upstream_key: str | None = field(default=None, repr=False)
    upstream_base: str | None = None
    inline: str | None = field(default=None, repr=False)
    late_after: int | str | None = None
    permitted: bool = False
