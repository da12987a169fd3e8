"""OpenAI's own SDK, of which only the base URL and the key are changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from starlette.responses import Response

from tests.support.deployment import API_KEY, deployment, environment
from tests.support.maker import making, says

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),  # the library looks at the date
]


def video(number: int, status: str) -> dict[str, object]:
    return {
        "id": f"video_{number}", "object": "video", "status": status, "model": "sora-2", "progress": 100,
        "created_at": 1, "seconds": "4", "size": "720x1280", "prompt": "a cat",
    }  # fmt: skip


async def test_create_and_poll(database_url: str, tmp_path: Path) -> None:
    async with making() as maker:
        maker.found = lambda task_id: video(int(task_id.rpartition("_")[2]), "completed")

        async def answer(number: int) -> Response:
            return says(video(number, "queued"))

        maker.answer = answer
        environ = environment(
            database_url,
            RELAY_PROVIDER="openai-videos",
            OPENAI_VIDEOS_BASE_URL=maker.url,
            OPENAI_VIDEOS_API_KEY="sk-upstream",
        )
        async with deployment(environ) as relay:
            for base in (f"{relay.url}/v1", f"{relay.url}/via/openai-videos/v1"):
                client = openai.AsyncOpenAI(base_url=base, api_key=API_KEY)
                async with client:
                    made = await client.videos.create_and_poll(
                        model="sora-2", prompt="a cat", poll_interval_ms=50, timeout=30
                    )
                assert (made.status, made.prompt) == ("completed", "a cat")
            watches = (await relay.http.get("/v1/watches")).json()["data"]
            assert {watch["task_id"] for watch in watches} == {"video_1", "video_2"}


async def test_it_repeats_nothing_that_nobody_knows(database_url: str) -> None:
    async with making() as maker:

        async def broken(_: int) -> Response:
            return says({"error": {"message": "oh"}}, 500)

        maker.answer = broken
        environ = environment(database_url, OPENAI_BATCH_BASE_URL=maker.url, OPENAI_BATCH_API_KEY="sk-upstream")
        async with deployment(environ, working=False) as relay:
            client = openai.AsyncOpenAI(base_url=f"{relay.url}/via/openai-batch/v1", api_key=API_KEY, max_retries=3)
            async with client:
                with pytest.raises(openai.InternalServerError):
                    await client.batches.create(
                        completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file-1"
                    )
        assert len(maker.made) == 1
        await asyncio.sleep(0)
