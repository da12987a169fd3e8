"""How an operation is called from a shell, from Python and from JavaScript, made of what the document says of it."""

from __future__ import annotations

import json
import shlex
from typing import Any

from relay.web.api.openapi.spec import JsonObject

KEY = "rly_…"


def samples(method: str, url: str, body: Any, *, public: bool) -> list[JsonObject]:
    """Return one sample per language.

    Args:
        url: with an example's id in its path.
        body: an example of the request body; None if it has none.
        public: the operation needs no API key.
    """
    headers = {} if public else {"Authorization": f"Bearer {KEY}"}
    made = ((_curl, "Shell", "curl"), (_python, "Python", "Python"), (_javascript, "JavaScript", "JavaScript"))
    return [{"lang": lang, "label": label, "source": make(method, url, headers, body)} for make, lang, label in made]


def _curl(method: str, url: str, headers: dict[str, str], body: Any) -> str:
    words = ["curl", *([] if method == "GET" or body is not None else ["-X", method]), url]
    given = headers | ({} if body is None else {"Content-Type": "application/json"})
    lines = [shlex.join(words), *(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in given.items())]
    if body is not None:
        lines.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def _python(method: str, url: str, headers: dict[str, str], body: Any) -> str:
    given = [repr(url)]
    given += [f"headers={headers!r}"] if headers else []
    given += [] if body is None else [f"json={body!r}"]
    arguments = "".join(f"    {argument},\n" for argument in given)
    return (
        f"import httpx\n\nresponse = httpx.{method.lower()}(\n{arguments})\nprint(response.status_code, response.text)"
    )


def _javascript(method: str, url: str, headers: dict[str, str], body: Any) -> str:
    given = headers | ({} if body is None else {"Content-Type": "application/json"})
    options = [f"  method: {json.dumps(method)},\n"] if method != "GET" else []
    options += [f"  headers: {json.dumps(given, ensure_ascii=False)},\n"] if given else []
    options += [] if body is None else [f"  body: JSON.stringify({json.dumps(body, ensure_ascii=False)}),\n"]
    return (
        f"const response = await fetch({json.dumps(url)}, {{\n{''.join(options)}}});\n"
        "console.log(response.status, await response.text());"
    )
