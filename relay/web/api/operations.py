"""An operation of the API: its route, its handler, and what the OpenAPI document says about it, in one decorator.

The routes and the document are both gathered from what the decorators declare, so neither can lack what the other has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from relay.store import apps
from relay.web.api.openapi.spec import JsonObject, errors, json_of
from relay.web.context import Context

ApiHandler = Callable[[Context, Request, apps.App], Awaitable[Response]]
"""What answers an operation for the app whose API key the request carries."""

PublicHandler = Callable[[Request], Awaitable[Response]]
"""What answers an operation that needs no API key."""

H = TypeVar("H", bound=Callable[..., Any])

BODY_ERRORS = (400, 408, 413, 415, 422)
"""What every operation with a request body can answer."""

API_ERRORS = (401, 429, 503)
"""What every operation behind an API key can answer."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[H]):
    """One operation.

    Attributes:
        documentation: what the OpenAPI document says about it.
    """

    method: str
    path: str
    handler: H
    documentation: JsonObject


class Operations(Generic[H]):
    """The operations of one group, in the order in which the document lists them.

    Args:
        group: its name, a tag in the document.
        public: its operations need no API key.
    """

    def __init__(self, group: str, *, public: bool = False) -> None:
        self._group = group
        self._public = public
        self.all: list[Operation[H]] = []

    def add(
        self,
        route: str,
        summary: str,
        description: str,
        answers: Mapping[str, JsonObject],
        parameters: Sequence[JsonObject] = (),
        body: JsonObject | None = None,
    ) -> Callable[[H], H]:
        """Declare the operation that the decorated function handles; its name gives the `operationId`.

        Args:
            route: method and path, such as `GET /v1/watches/{id}`.
            answers: by status. Those that every operation of its kind can give are added.
            body: the schema of its request body.
        """
        method, _, path = route.partition(" ")
        details: JsonObject = {
            "summary": summary,
            "description": description,
            **({"security": []} if self._public else {}),
            "responses": {
                **answers,
                **({} if body is None else errors(*BODY_ERRORS)),
                **({} if self._public else errors(*API_ERRORS)),
            },
            **({"parameters": list(parameters)} if parameters else {}),
            **({} if body is None else {"requestBody": {"required": True, "content": json_of(body)}}),
        }

        def declare(handler: H) -> H:
            named = {"tags": [self._group], "operationId": _camel_case(handler.__name__)}
            self.all.append(Operation(method, path, handler, named | details))
            return handler

        return declare


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
