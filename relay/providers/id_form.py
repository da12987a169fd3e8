"""Ids of several parts: `id = "{document_id}/{document_key}"`. DeepL wants two ids, Together's queue also the model."""

from __future__ import annotations

import re

_MARK = re.compile(r"\{(\w+)\}")


class IdForm:
    """How an id is put together of named parts.

    A part is at least one character and no `/`, unless its name ends in `_path`. None is `.` or `..`.

    Args:
        form: the parts in braces, with what stands between them; empty for an id that is used as a whole.

    Attributes:
        names: of the parts, in their order.

    Raises:
        ValueError: the form cannot tell the parts apart.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.names: tuple[str, ...] = tuple(_MARK.findall(form))
        between = _MARK.split(form)[::2]
        if "{" in "".join(between) or "}" in "".join(between):
            raise ValueError("must be names in braces, such as {project}/{job}")
        if form and not self.names:
            raise ValueError("holds no name in braces, such as {project}/{job}")
        if len(set(self.names)) < len(self.names):
            raise ValueError("holds a name twice")
        if taken := set(self.names) & {"task_id", "task_path", "key", "base_url"}:
            raise ValueError(f"{{{min(taken)}}} means something else already")
        if not all(between[1:-1]):
            raise ValueError("needs something between two parts, such as '/'")
        self._pattern = re.compile(_MARK.sub(_group, re.sub(r"\\([{}])", r"\1", re.escape(form))), re.DOTALL)

    def parts(self, task_id: str) -> dict[str, str] | None:
        """Return the parts of an id by their names; None if it is not of this form."""
        if not self.names:
            return {}
        match = self._pattern.fullmatch(task_id)
        if match is None or any(step in (".", "..") for part in match.groups() for step in part.split("/")):
            return None
        return match.groupdict()


def _group(mark: re.Match[str]) -> str:
    return f"(?P<{mark[1]}>.+)" if mark[1].endswith("_path") else f"(?P<{mark[1]}>[^/]+?)"
