"""What a person sees of the page, and does on it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from .desk import Desk, counts


def start(page: Page, target: str, message: str) -> None:
    page.get_by_label("Team or agent").select_option(label=target)
    page.get_by_label("Message").fill(message)
    page.get_by_role("button", name="Start").click()


def opened(page: Page, desk: Desk, target: str, message: str) -> None:
    """The page, with a run just started."""
    page.goto(f"{desk.url}/console")
    start(page, target, message)


def root(page: Page) -> Locator:
    return page.get_by_role("article")


def member(page: Page, name: str) -> Locator:
    return page.locator("li.node").filter(has=page.get_by_role("heading", name=name))


def head(node: Locator) -> Locator:
    return node.locator("> .head")


def shows(node: Locator, state: str) -> None:
    """The node says that it is in this state."""
    expect(head(node).locator(".state")).to_have_text(state)


def text_of(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=f"Text of {name}", exact=True)


def count_of(page: Page, name: str) -> int:
    return counts(text_of(page, name).text_content() or "")


def count_reaches(page: Page, name: str, least: int) -> int:
    """Wait until so many numbers are there, each once and in order; say how many there are."""
    expect(text_of(page, name)).to_contain_text(f" {least} ")
    return count_of(page, name)


def eventually(page: Page, holds: Callable[[], bool], what: str) -> None:
    """Let the page live until it holds, 10 s at most."""
    for _ in range(400):
        if holds():
            return
        page.wait_for_timeout(25)
    raise AssertionError(what)
