"""Whoever looks at the dashboard over HTTP: the forms of its pages, filled in and sent."""

from __future__ import annotations

import re

import httpx

PASSWORD = "a-password-for-tests"
PAGES = ("/", "/search", "/search?q=nothing", "/watches/wch_none")


def token_of(page: httpx.Response) -> str:
    """The token that the forms of a page carry."""
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


async def send(client: httpx.AsyncClient, path: str, **fields: str) -> httpx.Response:
    """What a form of the page at `path` comes to."""
    token = token_of(await client.get(path))
    return await client.post(path, data={"token": token, **fields})
