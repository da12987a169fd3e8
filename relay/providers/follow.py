"""`[follow]`: a second request in the same poll, for the result of a task that the first answer says is completed.

Some APIs name only a file in the answer about a task (MiniMax), or the address of the result (fal).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

import httpx
from pydantic import Field, field_validator, model_validator

from relay.model.reading import Reading, Result
from relay.providers.answer_paths import ResultPaths
from relay.providers.document import Answer, document_of
from relay.providers.envelope import places_of
from relay.providers.fields import MAX_LINK
from relay.providers.paths import Path, Table, as_path
from relay.providers.placeholders import filled_url, names_in
from relay.providers.results import links_of, result_of, stands_inside


class Follow(Table):
    """`[follow]`: where the result is, and where in the second answer.

    Attributes:
        path: path and query of the second request.
        names: what its placeholders stand for in the first answer.
        url: where the first answer has the whole address of the second request.
    """

    path: str = Field("", pattern=r"^(/[!-~]*)?$")
    names: dict[str, Path] = Field({}, alias="with")
    url: Path = Path(expressions=())
    result: ResultPaths

    _paths = field_validator("url", mode="before")(as_path)

    @field_validator("names", mode="before")
    @classmethod
    def _named_paths(cls, value: Any) -> Any:
        return {name: as_path(path) for name, path in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if bool(self.path) == bool(self.url.expressions):
            raise ValueError("needs either 'path' or 'url'")
        if unused := set(self.names) - set(names_in(self.path)):
            raise ValueError(f"with: {{{min(unused)}}} does not stand in 'path'")
        if not (self.result.url.expressions or self.result.text.expressions or self.result.ref.expressions):
            raise ValueError("result: needs 'url', 'text' or 'ref'")
        return self


class NoFollowUp(Exception):
    """An answer does not say where its result is, or not in a way that relay follows."""


class FollowUp:
    """Asks for the result of a completed task, and reads it.

    Args:
        table: what the file says.
        members: the members in which the answer proper may stand.
        base: the address of the upstream; None if it is not known.
    """

    def __init__(self, table: Follow, members: tuple[str, ...], base: httpx.URL | None) -> None:
        self._table = table
        self._members = members
        self._base = base

    def target(self, answer: Answer, names: Mapping[str, str]) -> str:
        """Return path and query of the second request.

        Args:
            answer: the first one.
            names: what the placeholders of the task stand for.

        Raises:
            NoFollowUp: the answer leads to none, or to another host: the deployment's key would go there.
        """
        document = document_of(answer)
        places = places_of(document.value, self._members) if document else []
        if self._table.url.expressions:
            return self._own(self._text(self._table.url, places, "the address of its result"))
        found = {name: self._text(path, places, f"a '{name}'") for name, path in self._table.names.items()}
        prefix = self._base.raw_path.decode().rstrip("/") if self._base else ""
        return prefix + filled_url(self._table.path, {**names, **found})

    def read(self, reading: Reading, second: Answer) -> Reading:
        """Return the reading of the first answer with the result that the second one holds."""
        document = document_of(second) if 200 <= second.status < 300 else None
        if document is None or reading.result is None:
            return reading
        places = places_of(document.value, self._members)
        paths = self._table.result
        names = second.link_names
        urls, find = links_of(paths.url, places, names)
        more = {name: value for name, value in result_of(paths, urls, places, names).items() if value}
        inline = reading.inline or stands_inside(paths, urls, find, places)
        return reading._replace(result=cast(Result, {**reading.result, **more}), inline=inline)

    def _own(self, address: str) -> str:
        """Return path and query of an address of this upstream."""
        try:
            url = self._base.join(address) if self._base else httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise NoFollowUp("the address of the result is none") from None
        if self._base and (url.scheme, url.host, url.port) != (self._base.scheme, self._base.host, self._base.port):
            raise NoFollowUp(
                f"the address of the result leads to '{url.scheme}://{url.netloc.decode()}', not to {self._base.host}"
            )
        return url.raw_path.decode()

    @staticmethod
    def _text(path: Path, places: Any, what: str) -> str:
        value = path.first(places)
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not 0 < len(text) <= MAX_LINK:
            raise NoFollowUp(f"the answer holds no text for {what}")
        return text
