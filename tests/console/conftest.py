"""A browser, and a server for it to look at.

Both are kept for the tests of a module: to start them for each would take longer than the tests. The browser is the
system's; without one, these tests are skipped, but in CI that is an error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from kern_async.testing import ProviderServer

from .desk import Desk

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ARGS = [
    "--headless",
    "--no-sandbox",  # its own pages only, and root may not have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing = "there is no browser; install Debian's package `chromium`, or Google Chrome"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def module_desk(tmp_path_factory: pytest.TempPathFactory) -> Generator[Desk]:
    with ProviderServer() as provider:
        desk = Desk(provider, tmp_path_factory.mktemp("desk"))
        desk.start()
        yield desk
        desk.stop()


@pytest.fixture
def desk(module_desk: Desk) -> Generator[Desk]:
    module_desk.clear()
    yield module_desk
    module_desk.clear()


@pytest.fixture
def faults() -> list[str]:
    """What the browser has to say against the page; it must be empty after a test."""
    return []


@pytest.fixture
def page(browser: Browser, faults: list[str]) -> Generator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(10_000)
    page = context.new_page()

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            faults.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert not faults
