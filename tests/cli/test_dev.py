"""`relay dev` as a developer meets it: what it prints is pasted, and what was asked for happens."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal

import httpx
import pytest

from relay.security import signing
from tests.support.browser import CHROMIUM, browsing
from tests.support.commands import Shell
from tests.support.parties import until

pytestmark = pytest.mark.anyio

READY = r"relay is ready at (http://127\.0\.0\.1:\d+) "


async def paste(shell: Shell, line: str) -> str:
    """Runs a printed line as a shell does; returns what it printed."""
    process = await asyncio.create_subprocess_shell(
        line,
        env=shell.environ,
        cwd=shell.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_what_it_prints_can_be_pasted_and_nothing_stays(shell: Shell) -> None:
    temporary = shell.folder / "tmp"
    temporary.mkdir()
    async with shell.running("dev", "--port", "0", TMPDIR=str(temporary)) as dev:
        url = (await dev.says(READY))[1]
        last = await dev.says(r"--webhook http://127\.0\.0\.1:9000/ --follow\n")
        assert last
        curl, listen, watch = re.findall(r"^(?:curl|.*relay (?:listen|watch)) .*", dev.printed, re.MULTILINE)

        assert '"state":"watching"' in await paste(shell, curl)
        await dev.says(r"✓ task\.completed  sandbox:complete-in-5s#1  \(signature verified\)\n")

        secret = shlex.split(listen)[-1]
        async with shell.running("listen", "--port", "0", "--secret", secret) as receiver:
            hook = (await receiver.says(r"Listening on (http://127\.0\.0\.1:\d+)"))[1]
            followed = await paste(shell, watch.replace("http://127.0.0.1:9000", hook))
            assert re.search(r"^completed: https://", followed, re.MULTILINE)
            await receiver.says(r"task\.completed .*verified")

        async with httpx.AsyncClient(base_url=url, verify=False) as http:
            (arrived,) = (await http.get("/inbox.json")).json()
            assert (arrived["verified"], arrived["event"]["data"]["task_id"]) == (True, "sandbox:complete-in-5s#1")
            assert "complete-in-5s#1" in (await http.get("/inbox")).text
            assert (await http.get("/")).status_code == 200  # the dashboard
            forged = await http.post("/inbox", content=b'{"type": "\\ud800<script>"}')
            assert forged.status_code == 401
            page = await http.get("/inbox")
        assert "not verified" in page.text
        assert "&lt;script&gt;" in page.text
        assert await dev.stop(signal.SIGINT) == 0
    assert list(temporary.iterdir()) == []
    assert list(shell.folder.iterdir()) == [temporary]


async def test_a_given_file_stays_and_keeps_its_key(shell: Shell) -> None:
    printed = []
    for _ in range(2):
        async with shell.running("dev", "--port", "0", "--db", "dev.db") as dev:
            await dev.says(READY)
            printed.append((await dev.says(r"API key +(rly_\S+)\n +signing secret +(whsec_\S+)\n")).groups())
            assert await dev.stop() == 0
    assert printed[0] == printed[1]
    assert len(signing.key_of(printed[0][1])) == 32
    assert (shell.folder / "dev.db").is_file()


async def test_a_mistake_is_one_line(shell: Shell) -> None:
    (shell.folder / "text").write_text("no database " * 100)
    folder, text, option = await shell.run_each(
        [
            (("dev", "--port", "0", "--db", "no/such/folder/x.db"), {}),
            (("dev", "--port", "0", "--db", "text"), {}),
            (("dev", "--port", "0"), {"RELAY_POLL_INTERVAL": "often"}),
        ]
    )
    assert re.search("^--db: .*is not there: create it", folder.complaint)
    assert re.search("^--db: .*is not a SQLite", text.complaint)
    assert option.complaint.startswith("RELAY_POLL_INTERVAL: ")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
async def test_an_open_inbox_shows_what_arrives(shell: Shell) -> None:
    async with shell.running("dev", "--port", "0") as dev, browsing() as page:
        url = (await dev.says(READY))[1]
        await page.goto(f"{url}/inbox")
        await page.get_by_text("Nothing has arrived yet").wait_for()
        async with httpx.AsyncClient(verify=False) as http:
            await http.post(f"{url}/inbox", json={"type": "task.completed", "data": {"task_id": "mine"}})
        await page.get_by_text("the header 'webhook-id' is missing").wait_for()
        await page.get_by_text("Body").click()
        await until(lambda: page.get_by_text('"task_id": "mine"').is_visible())
        await page.wait_for_timeout(1500)  # it has looked again, and what is open stays open
        assert await page.get_by_text('"task_id": "mine"').is_visible()
        await page.close()  # an open one would complain of the end
        assert await dev.stop() == 0
