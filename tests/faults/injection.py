"""Faults on demand: every function of relay that a claim passes through can be made to raise.

`install` wraps the functions of some modules, once and before anything is built. A wrapped function does what it did,
until it is told to raise: at its nth call from now on, or at each call that is about one watch.
"""

from __future__ import annotations

import errno
import functools
import importlib
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import relay

ROOT = str(Path(relay.__file__).parent)

KINDS: dict[str, Callable[[], Exception]] = {
    "KeyError": lambda: KeyError("injected"),
    "RecursionError": lambda: RecursionError("injected"),
    "EMFILE": lambda: OSError(errno.EMFILE, "injected"),
    "MemoryError": lambda: MemoryError("injected"),
    "RuntimeError": lambda: RuntimeError("injected"),
}


@dataclass
class Point:
    """A function that can be made to raise.

    Attributes:
        calls: how often it was called while nothing was to be raised.
        about: the watches that its calls were about, of those that are asked for.
        raised: how often it has raised since it was told to.
    """

    name: str
    calls: int = 0
    about: set[str] = field(default_factory=set)
    raised: int = 0
    _after: int | None = None
    _victim: str | None = None
    _kind: str = ""

    def raise_once(self, kind: str, nth: int) -> None:
        """Raise at the nth call from now on."""
        self._kind, self._after, self.raised = kind, nth, 0

    def raise_always(self, kind: str, victim: str) -> None:
        """Raise at each call that is about a watch."""
        self._kind, self._victim, self.raised = kind, victim, 0

    def rest(self) -> None:
        self._after = self._victim = None

    def called(self, points: Points, given: Iterable[Any]) -> None:
        """Note a call; raise if it is time to."""
        if self._victim is not None:
            if is_about(self._victim, given):
                self.raised += 1
                raise KINDS[self._kind]()
        elif self._after is not None:
            with points.lock:
                self._after -= 1
                due = self._after == 0
            if due:
                self.raised += 1
                raise KINDS[self._kind]()
        elif points.tracing:
            self.calls += 1
            self.about |= {one for one in points.wanted if is_about(one, given)}


@dataclass
class Points:
    """All functions that can be made to raise, by name."""

    all: dict[str, Point] = field(default_factory=dict)
    tracing: bool = False
    wanted: frozenset[str] = frozenset()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, *packages: str) -> list[Point]:
        """The functions of packages that the traced run has called."""
        return [one for one in self.all.values() if one.calls and one.name.startswith(packages)]


INNER = ("id", "watch_id", "task_id", "claim", "body", "address")
"""Where an argument may name a watch. Properties of these names do not raise: this module looks at them itself."""


def is_about(watch: str, given: Iterable[Any], depth: int = 3) -> bool:
    """Return whether the arguments of a call name a watch: by its id, or by its task id, at any place near the top."""
    return any(_names(watch, value, depth) for value in given)


def _names(watch: str, value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return value == watch
    if isinstance(value, bytes):
        return watch.encode() in value
    if depth == 0 or value is None or isinstance(value, int | float):
        return False
    if isinstance(value, list | tuple | set | frozenset):
        return is_about(watch, value, depth - 1)
    if type(value) is dict:
        return is_about(watch, value.values(), depth - 1)
    inner = (getattr(value, name, None) for name in INNER)
    return is_about(watch, inner, depth - 1)


def install(packages: Iterable[str], patch: pytest.MonkeyPatch) -> Points:
    """Wrap every function of these packages and modules, wherever relay's modules hold it."""
    points = Points()
    for package in packages:
        module = importlib.import_module(package)
        names = [package]
        if hasattr(module, "__path__"):
            names += [one.name for one in pkgutil.walk_packages(module.__path__, f"{package}.")]
        for name in names:
            _wrap_module(importlib.import_module(name), points, patch)
    return points


def _wrap_module(module: Any, points: Points, patch: pytest.MonkeyPatch) -> None:
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) and _is_ours(value):
            wrapped = _wrapped(value, f"{module.__name__}.{name}", points)
            for holder in [one for key, one in sys.modules.items() if key.startswith("relay")]:
                for held in [key for key, one in vars(holder).items() if one is value]:
                    patch.setattr(holder, held, wrapped)
        elif inspect.isclass(value) and not issubclass(value, BaseModel):
            _wrap_class(value, points, patch)


def _wrap_class(cls: type, points: Points, patch: pytest.MonkeyPatch) -> None:
    for name, member in list(vars(cls).items()):
        label = f"{cls.__module__}.{cls.__name__}.{name}"
        if inspect.isfunction(member) and _is_ours(member):
            patch.setattr(cls, name, _wrapped(member, label, points))
        elif isinstance(member, staticmethod | classmethod) and _is_ours(member.__func__):
            patch.setattr(cls, name, type(member)(_wrapped(member.__func__, label, points)))
        elif isinstance(member, property) and name not in INNER and member.fget and _is_ours(member.fget):
            patch.setattr(cls, name, property(_wrapped(member.fget, label, points)))


def _is_ours(function: Any) -> bool:
    """Return whether a function was written in relay: not made by a decorator or a library, and no generator."""
    code = getattr(function, "__code__", None)
    is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return code is not None and code.co_filename.startswith(ROOT) and not is_generator


def _wrapped(function: Any, name: str, points: Points) -> Any:
    point = points.all[name] = Point(name)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            point.called(points, (*args, *kwargs.values()))
            return await function(*args, **kwargs)

        return coroutine

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        point.called(points, (*args, *kwargs.values()))
        return function(*args, **kwargs)

    return call
