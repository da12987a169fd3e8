"""What an answer gives as its reason: error codes, texts, and whether they say that the task is unknown."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from relay.model.reading import Kind, Problem
from relay.providers.answer_paths import ErrorPaths
from relay.providers.envelope import went_well
from relay.providers.fields import clean, reasons_in
from relay.providers.paths import Place
from relay.providers.statuses import Errors
from relay.providers.unknown_task import UnknownTask

MAX_CODE = 64
"""Characters of a code that are kept."""


class Reasons:
    """Finds the reasons in the answers of one provider.

    Args:
        paths, errors: the tables `[read.error]` and `[errors]` of its definition.
        kinds: what its statuses mean: some answers have one for a reason.
    """

    def __init__(self, paths: ErrorPaths, errors: Errors, kinds: Mapping[str, Kind]) -> None:
        self._paths = paths
        self._errors = errors
        self._kinds = kinds
        self._unknown = UnknownTask(errors.task_names)

    def problem(self, places: Sequence[Place], code: str, message: str, more: str = "") -> Problem:
        """Return the upstream's own code and message, or these; `more` follows the message where there is no code."""
        own = next((c for find in self._paths.code.finds(places) if (c := self._code(find.value))), None)
        reason = next(iter(self._texts(places)), None)
        more = f"with the code '{own}'" if own else more
        return Problem(code=own or code, message=reason or f"{message} {more}".rstrip())

    def given(self, places: Sequence[Place]) -> bool:
        """Return whether an answer gives a reason, or a code that stands for one."""
        return bool(self._texts(places)) or any(self._code(find.value) for find in self._paths.code.finds(places))

    def says_unknown(self, places: Sequence[Place], plain: str = "", *, by_status: bool = False) -> bool:
        """Return whether an answer says that the task is unknown: by code, in words, or by a declared HTTP status."""
        if self.names(places, self._errors.unknown_task_codes):
            return True
        if self.names(places, self._errors.gateway_codes):
            return False
        return by_status or any(map(self._unknown.is_said_in, (*self._texts(places), plain)))

    def speaks_of_something_else(self, places: Sequence[Place]) -> bool:
        """Return whether an answer gives a reason, and not that the task is unknown. Needs the names of tasks."""
        return bool(self._unknown) and bool(self._texts(places)) and not self.says_unknown(places)

    def names(self, places: Sequence[Place], codes: Container[str]) -> bool:
        """Return whether an answer holds one of these error codes."""
        return any(_code_of(find.value) in codes for find in self._paths.code.finds(places))

    def _texts(self, places: Sequence[Place]) -> list[str]:
        """Return the texts of an answer. "Success" is none; one that only says that it failed comes last."""
        texts = [text for find in self._paths.message.finds(places) for text in reasons_in(find.value)]
        kinds = {text: self._kinds.get(text.strip().lower()) for text in texts if not went_well(text)}
        ends = [text for text, kind in kinds.items() if kind in (Kind.FAILED, Kind.UNKNOWN_TASK)]
        return [text for text, kind in kinds.items() if kind is None] + ends

    def _code(self, value: Any) -> str | None:
        """Return an error code; the "success" of an envelope around the answer is none."""
        code = clean(_code_of(value))[:MAX_CODE]
        no_error = went_well(code) or self._kinds.get(code.lower()) in (Kind.PENDING, Kind.COMPLETED)
        return None if no_error or code in self._errors.fine_codes else code


def _code_of(value: Any) -> str:
    """Return a code as a text; a whole number is one, too."""
    return str(value) if isinstance(value, str) or type(value) is int else ""
