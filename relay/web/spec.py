"""What the OpenAPI document is built of: references, headers, parameters, answers, operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.web.params import DEFAULT_LIMIT, MAX_LIMIT

Json = dict[str, Any]


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


HEADERS = {
    "Age": "Seconds since the upstream last said so.",
    "ETag": "Names the watch as it is shown here, but for what every poll changes.",
    "Preference-Applied": "`wait=N`: for how many seconds the answer could have been held back.",
    "Relay-Watch": "The watch of this task.",
    "Location": "Of the watch.",
    "RateLimit": "What is left of the key's requests, and in how many seconds it has all of them again.",
    "RateLimit-Policy": "How many requests a key may make in how many seconds.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "`Bearer`.",
    "X-Request-ID": "Names this request in the log.",
}
SOMETIMES = ("Preference-Applied", "Relay-Watch")
LIMITED = ("RateLimit", "RateLimit-Policy", "X-Request-ID")


def headers_of(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def answer_of(description: str, name: str, *headers: str) -> Json:
    return {"description": description, "headers": headers_of(*LIMITED, *headers), "content": json_of(ref(name))}


def links_to(path: str, *operations: str) -> Json:
    """Where the id in an answer leads."""
    return {
        "links": {name: {"operationId": name, "parameters": {"id": f"$response.body#{path}"}} for name in operations}
    }


def query(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def header(name: str, description: str) -> Json:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def id_of(prefix: str) -> Json:
    schema = {"type": "string", "examples": [f"{prefix}_01K6X15VHRFF09DKKQJRZWHM60"]}
    return {"name": "id", "in": "path", "required": True, "schema": schema}


NO_NUL = r"^[^\x00]*$"


def page(prefix: str) -> tuple[Json, ...]:
    pattern = rf"^{prefix}_[0-9A-Z]{{26}}$"
    return (
        query("cursor", "The `next_cursor` of the page before.", type="string", pattern=pattern),
        query("limit", "How many.", type="integer", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT),
    )


def operation(
    tag: str,
    operation_id: str,
    summary: str,
    description: str,
    answers: Json,
    problems: Sequence[int],
    parameters: Sequence[Json] = (),
    body: Json | None = None,
) -> Json:
    operation: Json = {
        "tags": [tag],
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "responses": answers
        | {str(status): {"$ref": f"#/components/responses/{status}"} for status in (*problems, 401, 429, 503)},
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": json_of(body)}
    return operation


def health(name: str, summary: str, description: str, answers: dict[str, tuple[str, Json]]) -> Json:
    """What a platform asks, which has no key."""
    responses = {
        status: {
            "description": text,
            "headers": headers_of("X-Request-ID"),
            "content": json_of({"type": "object", "required": list(fields), "properties": fields}),
        }
        for status, (text, fields) in answers.items()
    }
    operation = {"tags": ["Health"], "operationId": name, "summary": summary, "description": description}
    return {"get": {**operation, "security": [], "responses": responses}}
