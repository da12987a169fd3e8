"""The environment variables of a provider, named after its file: `UNIFIED_VIDEO_BASE_URL` for `unified-video`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

Variable = Literal["BASE_URL", "API_KEY", "TOKEN_URL"]
"""How the environment variables of a provider may end."""


def variable(name: str, what: Variable) -> str:
    """Return the environment variable of a provider, `UNIFIED_VIDEO_BASE_URL` for `unified-video`."""
    return f"{name.upper().replace('-', '_')}_{what}"


def variables(name: str) -> Iterator[str]:
    """Yield every environment variable that a provider may have."""
    for what in get_args(Variable):
        yield variable(name, what)
        yield f"{variable(name, what)}_FILE"
