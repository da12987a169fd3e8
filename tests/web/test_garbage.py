"""What a request leaves behind: nothing that only the garbage collector finds, which would hold the event loop up."""

from __future__ import annotations

import gc

import pytest
from starlette.requests import Request

from tests.web.callers import Caller

pytestmark = pytest.mark.anyio


async def test_a_request_leaves_no_cycle_behind(api: Caller, name: str) -> None:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for number in range(5):
            watch = await api.register(f"{name}-{number}", "https://app.example/hooks")
            assert (await api.http.get(f"/v1/watches/{watch['id']}")).status_code == 200
            assert (await api.http.get("/v1/watches?limit=0")).status_code == 422
        gc.collect()
        left = sum(isinstance(found, Request) for found in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert left == 0
