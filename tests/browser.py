"""A real browser for the pages that we make: Debian's Chromium, driven by Playwright, without any network."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
LOCAL = {"127.0.0.1", "localhost"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser; the test is skipped, with the reason, where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(browser: Browser, viewport: dict[str, int], known: Collection[str] = ()) -> Iterator[Page]:
    """Open a page; at the end fail for all that it wrote to the console as an error, or sought on the network.

    ``known`` are exact messages of somebody else's code that nothing mends.
    """
    faults: list[str] = []

    def only_here(route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in LOCAL:
            faults.append(f"sought {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def is_fault(message: ConsoleMessage) -> bool:
        return message.type == "error" and message.text not in known

    page = browser.new_page(viewport=viewport)
    page.route("**/*", only_here)
    page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert not faults, faults
