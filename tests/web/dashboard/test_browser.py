"""The dashboard in a real browser: people click, and see what happened, without loading anything again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.support import databases, parties
from tests.support.browser import CHROMIUM, browsing, go
from tests.support.deployment import Deployment, deployment, environment

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]

PASSWORD = "a-password-for-tests"
AXE = Path(__file__).parents[2] / "vendor" / "axe-4.14.1.min.js"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@dataclass
class Scene:
    """A relay with a password, and the parties around it."""

    relay: Deployment
    upstream: parties.Upstream
    receiver: parties.Receiver


@pytest.fixture
async def scene(tmp_path: Path, upstream: parties.Upstream, receiver: parties.Receiver) -> AsyncIterator[Scene]:
    url = databases.migrated_file(tmp_path / "relay.db")
    environ = environment(url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_ADMIN_PASSWORD=PASSWORD)
    async with deployment(environ) as relay:
        yield Scene(relay, upstream, receiver)


@pytest.fixture
async def page(scene: Scene) -> AsyncIterator[Page]:
    """A browser that has logged in."""
    async with browsing(viewport={"width": 1280, "height": 900}) as opened:
        opened.set_default_timeout(15_000)
        await go(opened, scene.relay.url, PASSWORD)
        await expect(opened.locator("#connection")).to_have_text("Live")
        yield opened


async def test_from_the_registration_to_the_retry(scene: Scene, page: Page, name: str) -> None:
    """The main journey: register by API, see the bar move, see the end, open the attempt, retry it, log out."""
    step = 0
    scene.upstream.scripts[name] = lambda _: (
        parties.says("processing", progress=(0.1, 0.4, 0.8)[step]) if step < 3 else parties.done()
    )
    scene.receiver.scripts[f"/{name}"] = parties.Answer(b"the hook is being moved", 503)
    await expect(page.locator("#live")).to_contain_text("Nothing is being watched")
    await page.evaluate("window.stayed = true")

    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    row = page.locator(f"#w-{watch['id']}")
    await expect(row.locator("progress")).to_have_attribute("value", "10.0")
    for step, value in ((1, "40.0"), (2, "80.0")):  # noqa: B007 - the script reads it
        await expect(row.locator("progress")).to_have_attribute("value", value)
    step = 3
    await expect(page.locator(f"#e-{watch['id']}")).to_contain_text("completed")
    await expect(row).to_have_count(0)
    link = page.locator(f"#e-{watch['id']} a", has_text="Result")
    assert await link.get_attribute("href") == "https://cdn.example/v.mp4"

    needing = page.locator(".attention li", has_text=name)
    await expect(needing).to_contain_text("dead")
    assert await page.evaluate("window.stayed"), "all of it came without loading the page again"

    await needing.get_by_role("link", name=name).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    attempt = page.locator("details.attempt").first
    await attempt.locator("summary").click()
    await expect(attempt).to_contain_text("the hook is being moved")

    scene.receiver.scripts[f"/{name}"] = parties.Answer(b"thanks")
    await page.evaluate("window.stayed = true")
    await page.get_by_role("button", name="Retry now").click()
    await expect(page.locator("#said")).to_contain_text("again")
    await expect(page.locator(".timeline li.delivered")).to_contain_text("task.completed")
    await expect(page.get_by_role("button", name="Retry now")).to_have_count(0)
    row = page.locator(".timeline li.delivered")
    assert await row.evaluate("it => it.contains(document.activeElement)"), "the focus stayed in the row"
    await expect(page.locator("#said")).to_be_in_viewport()
    await expect(attempt).to_contain_text("the hook is being moved")
    assert await attempt.evaluate("it => it.open"), "what was open stayed open"
    assert await page.evaluate("window.stayed")

    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login")
    await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
    await expect(page.get_by_label("Password")).to_be_visible()


async def test_stop_asks_first_and_send_test_says_what_came_of_it(scene: Scene, page: Page, name: str) -> None:
    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
    await page.get_by_role("button", name="Send test").click()
    await expect(page.locator("#said")).to_contain_text("The test event arrived: 200")
    assert [post.event["type"] for post in scene.receiver.to(f"/{name}")] == ["relay.test"]

    page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.dismiss()))
    await page.get_by_role("button", name="Stop watching").click()
    assert (await scene.relay.watch(watch["id"]))["state"] == "watching"
    page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await page.get_by_role("button", name="Stop watching").click()
    await expect(page.locator(".head .badge")).to_have_text("cancelled")
    await expect(page.get_by_role("button", name="Stop watching")).to_have_count(0)


async def test_a_button_that_takes_long_is_not_disturbed_by_updates(scene: Scene, page: Page, name: str) -> None:
    scene.receiver.scripts[f"/{name}"] = parties.Answer(b"slow", after=3)
    scene.upstream.scripts[name] = lambda number: parties.says("processing", progress=min(0.9, number / 100))
    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if "/watches/" in request.url else None)
    button = page.get_by_role("button", name="Send test")
    await button.click()
    await scene.receiver.wait_for(1, f"/{name}")
    await expect(button).to_be_disabled()
    await expect(page.locator("#said")).to_contain_text("The test event arrived: 200 in 3.", timeout=10_000)
    await expect(button).to_be_enabled()
    assert sent.count("POST") == 1
    before = len(sent)
    async with asyncio.timeout(10):
        while len(sent) == before:  # it goes on
            await asyncio.sleep(0.02)


async def test_a_hidden_page_gives_its_connection_back(scene: Scene, page: Page, name: str) -> None:
    """A browser keeps six connections to one host: as many open tabs must not starve the seventh."""
    async with page.expect_event("requestfailed", lambda request: request.url.endswith("/live")):
        await see(page, hidden=True)
    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    async with page.expect_event("request", lambda request: request.url.endswith("/live")):
        await see(page, hidden=False)
    await expect(page.locator(f"#w-{watch['id']}")).to_be_visible()


async def see(page: Page, *, hidden: bool) -> None:
    """Has a page believe that its tab is hidden, or not."""
    await page.evaluate(
        """hidden => {
            Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }""",
        hidden,
    )


async def test_hostile_text_is_text(scene: Scene, page: Page, name: str) -> None:
    task = f"{name}{HOSTILE}"
    scene.upstream.scripts[task] = parties.says(
        "completed",
        video_url="javascript:document.title='owned'",
        output_url="https://cdn.example/render.mp4",  # without one link that is one, relay would ask again for 20 s
        thumbnail_url="data:text/html,<script>1</script>",
        enhanced_prompt=HOSTILE,
    )
    watch = await scene.relay.register(task, f"{scene.receiver.url}/{name}", metadata={HOSTILE: HOSTILE})
    await expect(page.locator(f"#e-{watch['id']}")).to_contain_text(HOSTILE)
    for path in ("/", f"/watches/{watch['id']}", "/search?q=%3Cscript%3E"):
        await page.goto(scene.relay.url + path)
        assert await page.locator("a[href^='javascript:' i], a[href^='data:' i], main img, main script").count() == 0
        assert "owned" not in await page.title() or HOSTILE in await page.title()
    await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
    await expect(page.locator("blockquote")).to_have_text(HOSTILE)
    await expect(page.locator(".result a")).to_have_count(1)
    await expect(page.locator(".result a")).to_have_attribute("href", "https://cdn.example/render.mp4")


async def test_times_are_the_readers_and_exact_on_hover(scene: Scene, page: Page, name: str) -> None:
    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
    time = page.locator("#t-registered time")
    local = await time.evaluate(
        "it => new Date(it.dateTime).toLocaleTimeString('en-GB', {timeZone: 'Europe/Berlin', timeStyle: 'medium'})"
    )
    await expect(time).to_have_text(local)
    title = await time.get_attribute("title")
    assert title == watch["created_at"].replace("T", " ").replace("Z", " UTC")


async def test_without_javascript_it_can_be_read_and_used(scene: Scene, name: str) -> None:
    scene.upstream.scripts[name] = parties.says("processing", progress=0.3)
    async with browsing(java_script_enabled=False) as page:
        await go(page, scene.relay.url, PASSWORD)
        watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
        async with asyncio.timeout(10):
            while (await scene.relay.watch(watch["id"]))["progress"] is None:
                await asyncio.sleep(0.05)
        await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
        await expect(page.locator("#t-registered time")).to_contain_text("UTC")
        await expect(page.locator(".head progress")).to_have_attribute("value", "30.0")
        await page.get_by_role("button", name="Stop watching").click()
        await expect(page.locator("main")).to_contain_text("Nobody will be told")
        assert (await scene.relay.watch(watch["id"]))["state"] == "watching"
        await page.get_by_role("button", name="Stop watching").click()
        await expect(page.locator("#said")).to_contain_text("Stopped watching")
        assert (await scene.relay.watch(watch["id"]))["state"] == "cancelled"
        await page.get_by_label("Task or watch id").fill(name)
        await page.get_by_role("button", name="Search").click()
        await page.wait_for_url(f"**/watches/{watch['id']}")


async def furnished(scene: Scene, name: str) -> list[str]:
    """Pages with one of everything on them."""
    scene.upstream.scripts[f"{name}-on"] = parties.says("processing", progress=0.3)
    scene.upstream.scripts[f"{name}-over"] = [
        parties.says("queued"),
        parties.says("queued", progress=0.5),
        parties.done(),
    ]
    scene.receiver.scripts[f"/{name}"] = parties.Answer(b"no" * 200, 500)
    on = await scene.relay.register(f"{name}-on-{'x' * 120}", f"{scene.receiver.url}/{name}", metadata={"a": "b" * 500})
    over = await scene.relay.register(f"{name}-over", f"{scene.receiver.url}/{name}")
    async with asyncio.timeout(20):
        while not await scene.relay.deliveries(state="dead"):
            await asyncio.sleep(0.05)
    dead = (await scene.relay.deliveries(state="dead"))[0]["id"]
    return [
        "/",
        f"/watches/{on['id']}",
        f"/watches/{over['id']}",
        "/search?q=nothing",
        "/watches/wch_none",
        "/watches",
        "/watches?q=nothing&place=x&reason=y",
        "/deliveries",
        f"/deliveries/{dead}",
        "/deliveries/again?state=dead",
        "/deliveries/again?state=dead&at=1&of=3",
        "/apps",
        "/providers",
        "/try",
    ]


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 360)])
async def test_axe_finds_nothing_serious(scene: Scene, name: str, theme: str, width: int) -> None:
    async with browsing(color_scheme=theme, viewport={"width": width, "height": 900}, bypass_csp=True) as page:
        await page.goto(f"{scene.relay.url}/login")
        await no_complaints(page)
        await go(page, scene.relay.url, PASSWORD)
        await expect(page.locator("#live")).to_contain_text("Nothing is being watched")
        await no_complaints(page)
        for path in await furnished(scene, name):
            await page.goto(scene.relay.url + path)
            for summary in await page.locator("summary").all():
                await summary.click()
            await no_complaints(page)


async def no_complaints(page: Page) -> None:
    await page.add_script_tag(path=AXE)
    found = await page.evaluate("async () => (await axe.run()).violations")
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], page.url


SMALL = """() => [...document.querySelectorAll('a[href], button, summary, input:not([type=hidden]), select')]
    .filter(it => it.offsetParent !== null && !it.closest('p.of, p.empty, .skip') && !it.matches('.skip'))
    .map(it => [it.outerHTML.slice(0, 120), it.getBoundingClientRect()])
    .filter(([, box]) => box.height < 24 || box.width < 24)
    .map(([html, box]) => `${html} ${box.width}x${box.height}`)"""
"""What is smaller than a fingertip needs (WCAG 2.5.8), but for links within a sentence."""


SPLIT = """() => [...document.querySelectorAll('h1, h2, .words')].filter(it => it.offsetParent !== null)
    .flatMap(it => [...it.childNodes].filter(node => node.nodeType === Node.TEXT_NODE))
    .flatMap(node => [...node.data.matchAll(/[a-z]+/gi)].map(found => {
        const range = document.createRange()
        range.setStart(node, found.index)
        range.setEnd(node, found.index + found[0].length)
        return [found[0], range.getClientRects().length]
    })).filter(([word, lines]) => lines > 1 && word.length < 12).map(([word]) => word)"""
"""Words of ordinary length that begin on one line and end on the next."""


@pytest.mark.parametrize("width", [320, 360, 3840])
async def test_nothing_needs_sideways_scrolling(scene: Scene, name: str, width: int) -> None:
    async with browsing(viewport={"width": width, "height": 800}) as page:
        await go(page, scene.relay.url, PASSWORD)
        for path in await furnished(scene, name):
            await page.goto(scene.relay.url + path)
            for summary in await page.locator("summary").all():
                await summary.click()
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, path
            assert await page.evaluate(SMALL) == [], path
            assert await page.evaluate(SPLIT) == [], path


async def test_the_keyboard_alone_does(scene: Scene, page: Page, name: str) -> None:
    scene.receiver.scripts[f"/{name}"] = parties.Answer(b"no", 500)
    scene.upstream.scripts[name] = parties.done()
    await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    button = page.locator(".attention li", has_text=name).get_by_role("button")
    await expect(button).to_be_visible()
    scene.receiver.scripts[f"/{name}"] = parties.Answer(b"thanks")
    await page.goto(f"{scene.relay.url}/")
    await expect(button).to_be_visible()
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await button.evaluate("it => it === document.activeElement"):
            break
    else:
        pytest.fail("the button cannot be reached")
    await page.keyboard.press("Enter")
    await expect(page.locator("#said")).to_contain_text("again")
    await expect(page.locator(".attention")).to_have_count(0)


async def test_focus_and_scroll_survive_an_update(scene: Scene, page: Page, name: str) -> None:
    step = 1
    scene.upstream.scripts[name] = lambda _: parties.says("processing", progress=step / 10)
    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    row = page.locator(f"#w-{watch['id']}")
    await expect(row.locator("progress")).to_have_attribute("value", "10.0")
    await row.get_by_role("link").focus()
    before = await row.bounding_box()
    step = 9
    await expect(row.locator("progress")).to_have_attribute("value", "90.0")
    assert await row.get_by_role("link").evaluate("it => it === document.activeElement")
    assert await row.bounding_box() == before, "nothing jumped"


async def test_a_page_whose_session_is_over_leads_to_the_login_and_back(scene: Scene, page: Page, name: str) -> None:
    watch = await scene.relay.register(name, f"{scene.receiver.url}/{name}")
    await page.goto(f"{scene.relay.url}/watches/{watch['id']}")
    await expect(page.locator("#connection")).to_have_text("Live")
    await page.context.clear_cookies()
    scene.upstream.scripts[name] = parties.says("processing", progress=0.5)
    await page.wait_for_url("**/login?to=**")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/watches/{watch['id']}")


async def test_a_page_says_when_it_is_cut_off(scene: Scene, page: Page) -> None:
    scene.relay.relay.feed.close()  # as at the end of the process
    await expect(page.locator("#connection")).to_have_text("Reconnecting…")
