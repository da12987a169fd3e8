"""A guard of docs/security.md: how it is taken out, and a test that fails then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard, and how it is taken out.

    Attributes:
        name: in words.
        file: in `relay/`.
        code: stands once in the file.
        without: what stands there without the guard.
        test: in `tests/`, fails then; written as docs/security.md writes it.
    """

    name: str
    file: str
    code: str
    without: str
    test: str
