"""Who may look, from where, and what an attacker's text can do: nothing."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Generator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from kern_async.testing import ProviderServer, Text, ToolCall

from .desk import ANSWER, Desk
from .looks import opened, root, shows, start, text_of

KEY = "open-sesame"
EVIL = """<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script><b>bold</b>"""


@pytest.fixture
def guarded(tmp_path: Path, provider: ProviderServer) -> Generator[Desk]:
    """A server that asks for a key, in an app of somebody's own."""
    desk = Desk(provider, tmp_path, path="/ops/agents", OS_SECURITY_KEY=KEY)
    desk.start()
    desk.clear()
    yield desk
    desk.stop()


def test_a_guarded_server_below_a_path_is_reached_with_its_key(page: Page, guarded: Desk) -> None:
    page.goto(f"{guarded.url}/console")
    field = page.get_by_label("Access key or token")
    expect(field).to_be_focused()

    field.fill("no kéy")
    field.press("Enter")
    expect(page.locator("#key-why")).to_contain_text("ASCII")
    field.fill("wrong")
    field.press("Enter")
    expect(page.locator("#key-why")).to_have_text("It did not accept the one that was given.")
    field.fill(KEY)
    page.get_by_role("button", name="Use key").click()

    expect(field).to_be_hidden()
    start(page, "Newsroom", "Write it up.")
    shows(root(page), "Completed")  # its events were read with the key too
    page.reload()
    expect(text_of(page, "Newsroom")).to_have_text(ANSWER)
    expect(page.locator("#sessions > li")).to_have_count(1)
    expect(field).to_be_hidden()

    page.get_by_role("button", name="Forget key").click()
    expect(field).to_be_visible()
    assert page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    status, _, body = fetched(guarded)
    assert status == 200
    assert not [name for name in (b"Newsroom", b"Night desk", KEY.encode()) if name in body]


def test_what_a_model_says_is_text_and_never_html(page: Page, desk: Desk) -> None:
    desk.says["Find sources."] = ToolCall("look_up", {"topic": EVIL})
    desk.says["Write it."] = Text([EVIL])
    opened(page, desk, "Newsroom", EVIL)

    shows(root(page), "Completed")
    expect(text_of(page, "Writer")).to_have_text(EVIL)
    expect(root(page).locator("> .body > .asked")).to_have_text(EVIL)
    expect(root(page).locator(".tool .what", has_text="onerror")).to_have_count(1)
    page.reload()
    expect(text_of(page, "Writer")).to_have_text(EVIL)
    page.locator("#sessions > li > button").first.click()
    expect(page.locator("#sessions li li")).to_contain_text("onerror")
    assert page.locator("#run img, #run script, #run b, .side img, .side b").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_browser_is_told_to_run_nothing_but_the_page_itself(
    page: Page, faults: list[str], desk: Desk
) -> None:
    page.goto(f"{desk.url}/console")
    refused = page.evaluate(
        """() => {
          const refused = [];
          const attempt = (name, act) => { try { act(); } catch (error) { refused.push(`${name}: ${error.name}`); } };
          attempt("html", () => { document.body.innerHTML = "<i>no</i>"; });
          const script = document.createElement("script");
          attempt("script", () => { script.textContent = "window.hacked = 1"; });
          script.append(document.createTextNode("window.hacked = 1"));
          document.body.append(script);
          const elsewhere = document.createElement("img");
          elsewhere.src = "/console";
          document.body.append(elsewhere);
          return refused;
        }"""
    )
    assert refused == ["html: TypeError", "script: TypeError"]
    assert page.evaluate("window.hacked") is None
    assert page.get_by_role("heading", name="New run").count() == 1
    assert [fault for fault in faults if "img-src data:" in fault]
    faults.clear()


def test_nothing_is_loaded_from_elsewhere(page: Page, desk: Desk) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    opened(page, desk, "Newsroom", "Write it up.")
    shows(root(page), "Completed")

    assert asked
    assert not [url for url in asked if not url.startswith((desk.url, "data:"))]


def fetched(desk: Desk, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urlopen(Request(f"{desk.url}/console", headers=headers), timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_the_policy_names_the_hash_of_each_script_and_style(desk: Desk) -> None:
    status, headers, body = fetched(desk)
    policy = headers["content-security-policy"]

    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", body.decode(), re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}'])
def test_a_page_that_is_known_is_not_sent_again(desk: Desk, known: str) -> None:
    _, headers, _ = fetched(desk)

    status, again, body = fetched(desk, **{"If-None-Match": known.format(headers["etag"])})

    assert (status, body) == (304, b"")
    assert again["etag"] == headers["etag"]
    assert fetched(desk, **{"If-None-Match": '"other"'})[0] == 200
