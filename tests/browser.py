"""A real browser for the pages that tokenloc writes: Chromium, driven by Playwright, without network access."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
LOCAL = {"127.0.0.1", "localhost"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; skip the test if it is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(browser: Browser, viewport: dict[str, int], allowed: str | None = None) -> Iterator[Page]:
    """Open a page; fail at the end if it logged an error or requested anything from another machine.

    Errors that begin with ``allowed`` are ignored.
    """
    errors: list[str] = []

    def refuse_remote(route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in LOCAL:
            errors.append(f"requested {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def log(message: ConsoleMessage) -> None:
        if message.type == "error" and not (allowed and message.text.startswith(allowed)):
            errors.append(message.text)

    page = browser.new_page(viewport=viewport)
    page.route("**/*", refuse_remote)
    page.on("console", log)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors, errors
