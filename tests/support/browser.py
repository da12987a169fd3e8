"""A real browser for pages: the machine's own Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

from playwright.async_api import Page, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.asynccontextmanager
async def browsing(**options: Any) -> AsyncIterator[Page]:
    """A page of a new browser; any error that the page's scripts or its policy raise fails whoever uses it."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            context = await browser.new_context(timezone_id="Europe/Berlin", locale="en-GB", **options)
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            yield page
        finally:
            await browser.close()
    wrong = [one for one in complaints if "Content Security Policy" in one or "Error" in one]
    assert not wrong, wrong


async def go(page: Page, url: str, password: str) -> None:
    """Logs in."""
    await page.goto(f"{url}/login")
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{url}/")
