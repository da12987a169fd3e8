"""Names of providers: of a file, or of an inline definition, which is named by its hash."""

from __future__ import annotations

INLINE = "inline:"
"""What the name of an inline definition begins with. No file is named so."""


def family(provider: str) -> str:
    """Return under which name a provider is counted: each has its own, but inline definitions are too many."""
    return "inline" if provider.startswith(INLINE) else provider
