"""Makes docs/slack.png: each kind of message in a channel of the simulator, by a real relay.

`python -m tests.bench.slack_page`. Look at it afterwards: somebody who has never seen relay should understand each
message in three seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from relay.simulators.slack import SimulatedSlack
from relay.store import Database, migrate
from relay.web.server import listen, serving
from tests.support import parties
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, until
from tests.support.workspace import HOOK, RENDERS, SIGNING_SECRET, TEAM, roots, variables, workspace

ROOT = Path(__file__).parents[2]
CHANNEL: dict[str, Any] = {"type": "slack", "channel": "#renders"}
THUMBNAIL = "https://cdn.example/kitten.png"
LINK = "https://cdn.example/calico-kitten.mp4?se=2026-12-01T15%3A04%3A21Z&sig=a"


PREVIEW = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360">
<defs><linearGradient id="sky" x2="0" y2="1"><stop stop-color="#f7b267"/><stop offset=".6" stop-color="#f4845f"/>
<stop offset="1" stop-color="#7a4b3a"/></linearGradient></defs>
<rect width="640" height="360" fill="url(#sky)"/><circle cx="470" cy="190" r="70" fill="#ffe8b5"/>
<path d="M0 360V262q20-40 28 0 14-56 26 0 16-44 30 0 12-60 28 0 18-48 30 0 14-40 28 0 16-62 30 0 14-44 30 0 12-50 28 0
18-40 30 0 14-58 28 0 16-44 30 0 12-56 28 0 18-48 30 0 14-40 28 0 16-62 30 0 14-44 30 0 12-50 28 0 18-40 30 0 14-50 28 0
16-40 30 0H640V360z" fill="#4a5d23"/><text x="190" y="265" font-size="110">🐈</text>
<text x="370" y="130" font-size="56">🦋</text></svg>"""


def answer(status: str, prompt: str = "", **more: Any) -> Answer:
    """An upstream's answer as the documented endpoint gives it."""
    body = {"status": status, "detail": {"input": {"prompt": prompt, "model": "sora-2"}}, **more}
    return Answer(orjson.dumps(body))


KITTEN = "A calico kitten chases a butterfly through tall grass at golden hour, 35mm film look, shallow depth of field"
SCENES: dict[str, tuple[Answer, dict[str, Any]]] = {
    "sora-2:task_finished": (
        answer(
            "completed",
            KITTEN,
            video_url=LINK,
            thumbnail_url=THUMBNAIL,
            width=1280,
            height=720,
        ),
        {},
    ),
    "sora-2:task_rendering": (
        answer("processing", "Slow dolly through a neon-lit alley after rain", progress=0.65),
        {},
    ),
    "veo3.1:task_silent": (answer("processing", "雨の夜の東京、ネオンの反射、ゆっくりとしたドリーショット"), {}),
    "veo3.1:task_queued": (answer("queued", "قطة تطارد فراشة في العشب الطويل عند الغروب", queue_position=4), {}),
    "sora-2:task_refused": (
        answer(
            "failed",
            "<!channel> *a famous person* <https://evil.example|click>",
            error={"code": "content_policy_violation", "message": "Your request was blocked by our moderation system."},
        ),
        {},
    ),
    "sora-2:task_busy": (
        answer(
            "failed",
            "Paper boats on a river of stars",
            error={"code": "server_overloaded", "message": "We are under heavy load, please try again later."},
        ),
        {},
    ),
    "veo3.1:task_late": (
        answer("processing", "A lighthouse in a storm, 1970s documentary", progress=0.2),
        {"expires_in": 3},
    ),
    "veo3.1:task_lost": (Answer(b"", 404), {}),
    "sora-2:task_stopped": (answer("processing", "An origami crane unfolds itself", progress=0.1), {}),
}


async def play(folder: Path, slack: SimulatedSlack, upstream: parties.Upstream, relay: Deployment) -> None:
    """Has every kind of message posted."""
    del folder
    async with parties.receiver() as receiver:
        receiver.scripts["/gone"] = Answer(status=410)
        for number, (task_id, (said, more)) in enumerate(SCENES.items()):
            upstream.scripts[task_id] = said
            targets = [CHANNEL]
            if task_id == "sora-2:task_busy":
                targets.append({"type": "webhook", "url": f"{receiver.url}/gone"})
            await relay.register(task_id, *targets, **more)

            async def posted(wanted: int = number + 1) -> bool:
                return len(roots(slack)) >= wanted

            await until(posted)
        hook = {"type": "slack", "webhook_url": f"{slack.url}/services/{HOOK}"}
        await relay.register("sora-2:task_finished", hook)
        root = next(one for one in roots(slack) if "task_stopped" in one["text"])
        pressed = slack.block_actions(RENDERS, root["ts"], "relay_stop")
        await slack.click(f"{relay.url}/slack/interactions", SIGNING_SECRET, pressed)

        async def shown() -> bool:
            texts = " ".join(one["text"] for one in roots(slack))
            wanted = (
                "65%",
                "position 4",
                "content filter",
                "could not be notified",
                "not finished",
                "Video lost",
                "No longer",
            )
            return all(word in texts for word in wanted) and len(roots(slack)) == len(SCENES) + 1

        await until(shown)
        command = slack.slash_command(RENDERS, "/relay", "list")
        await slack.command(f"{relay.url}/slack/commands", SIGNING_SECRET, command)

        async def answered() -> bool:
            return bool(slack.ephemeral(RENDERS))

        await until(answered)


async def picture(slack: SimulatedSlack, file: Path, height: int) -> None:
    """A picture of the page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    options = ("--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size=900,{height}")
    process = await asyncio.create_subprocess_exec(
        browser, *options, f"--screenshot={file}", f"{slack.url}/", stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def make(file: Path, height: int) -> None:
    """Plays everything and takes the picture."""
    with tempfile.TemporaryDirectory(prefix="relay-page-") as folder:
        config = Path(shutil.copytree(ROOT / "config", Path(folder) / "config"))
        provider = config / "providers/unified-video.toml"
        text = provider.read_text("utf-8").replace("lost_grace = 120", "lost_grace = 0")
        provider.write_text(text, "utf-8")
        url = f"sqlite:///{Path(folder) / 'relay.db'}"
        db = Database(url)
        db.run_here(migrate.upgrade)
        db.close()
        app = Starlette(routes=[Route("/", lambda _request: Response(PREVIEW, media_type="image/svg+xml"))])
        listener = listen("127.0.0.1", 0)
        seen_at = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        given = {"name": "Studio", "people": {"U0PERSON": "Sam"}, "pictures": {THUMBNAIL: seen_at}}
        async with serving(app, listener), parties.upstream() as upstream, workspace(**given) as slack:
            known = variables(slack, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_SLACK_TEAMS=f"{TEAM}=default")
            environ = environment(url, **known) | {"RELAY_CONFIG": str(config), "RELAY_RETRY_SCHEDULE": "0s"}
            async with deployment(environ) as relay:
                await play(Path(folder), slack, upstream, relay)
                await picture(slack, file, height)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.slack_page", description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs/slack.png")
    parser.add_argument("--height", type=int, default=1505)
    given = parser.parse_args()
    asyncio.run(make(given.to.resolve(), given.height))


if __name__ == "__main__":
    main()
