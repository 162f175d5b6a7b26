"""The page without a mouse, with a screen reader, in the dark, on a small screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from kern_async.testing import Gate, Hang, Text, ToolCall

from .desk import Desk, numbers
from .looks import count_reaches, eventually, head, member, opened, root, shows, text_of

DOCS = Path(__file__).parents[2] / "docs" / "images"

AUDIT = """() => {
  const wrong = [];
  const shown = (element) => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const nameOf = (element) => element.getAttribute("aria-label")
    || (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim()
    || [...(element.labels ?? [])].map((label) => label.textContent).join(" ").trim()
    || (element.matches("input, select, textarea") ? "" : element.textContent.trim());
  for (const element of document.querySelectorAll("button, a, input, select, textarea, summary, section, main, aside, form.approvals, [role=group], [tabindex='0']")) {
    if (shown(element) && !nameOf(element)) wrong.push(`no name: ${element.outerHTML.slice(0, 120)}`);
  }
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    if (!shown(heading)) continue;
    const next = Number(heading.tagName[1]);
    if (next > level + 1) wrong.push(`a level is left out before: ${heading.textContent}`);
    level = next;
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) wrong.push(`twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-controls], [aria-labelledby], [aria-describedby], label[for]")) {
    for (const name of ["aria-controls", "aria-labelledby", "aria-describedby", "for"]) {
      const id = element.getAttribute(name);
      if (id && !document.getElementById(id)) wrong.push(`${name} points nowhere: ${id}`);
    }
  }
  for (const [selector, count] of [["h1", 1], ["main", 1], ["[role=status][aria-live=polite]", 1], ["html[lang]", 1]]) {
    if (document.querySelectorAll(selector).length !== count) wrong.push(`not once: ${selector}`);
  }

  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let up = element; up; up = up.parentElement) {
      const color = rgba(getComputedStyle(up).backgroundColor);
      if (color[3] === 255) return color;
    }
    return rgba(getComputedStyle(document.documentElement).getPropertyValue("--page"));
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(element) || element.closest(".sr, :disabled, script, style, option")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(rgba(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) seen.add(`contrast ${ratio.toFixed(2)}: ${element.className || element.tagName} "${walker.currentNode.data.trim().slice(0, 40)}"`);
  }
  return [...wrong, ...seen];
}"""


def scene(desk: Desk) -> Gate:
    """A team in the middle of its work: one member calls a tool, one writes, one has nothing yet."""
    end = Gate()
    desk.says["three sources on the bridge vote"] = [
        Text(
            "Three sources agree on the count: the council's minutes, the clerk's note and the recording. "
            "The minutes have 9 to 6; the note names who was absent.",
            interval=0.005,
        ),
        end,
    ]
    desk.says["Find sources."] = ToolCall("look_up", {"topic": "the bridge vote"})
    desk.says["Write it."] = [
        Text(
            "The council voted last night to keep the old bridge open to walkers and cyclists, and to close it to "
            "cars from the spring. After four hours and thirty speakers the vote was nine to six.\n\nThe bridge, "
            "built in 1911, carries eleven thousand cars on a working day. From April they will cross at the "
            "mill, two kilometres to the north, where the city wants to widen the road before the winter.",
            interval=0.005,
        ),
        end,
    ]
    desk.says["Doubt it."] = [
        Text(
            "Who counted the eleven thousand cars, and when? The widening of the mill road is promised for the "
            "winter, but no money for it is in the budget that was passed in June.",
            interval=0.005,
        ),
        end,
    ]
    return end


def in_full_swing(page: Page, desk: Desk) -> Gate:
    end = scene(desk)
    opened(page, desk, "Newsroom", "Write up last night's bridge vote for the morning edition, with sources.")
    expect(text_of(page, "Researcher")).to_contain_text("who was absent")
    expect(text_of(page, "Writer")).to_contain_text("before the winter")
    expect(text_of(page, "Critic")).to_contain_text("passed in June")
    expect(page.locator("#live")).to_contain_text("Critic")
    return end


def audited(page: Page) -> list[Any]:
    # Colours of what has just changed may be on their way.
    page.wait_for_timeout(200)
    return page.evaluate(AUDIT)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_an_order_and_contrast(page: Page, desk: Desk, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    in_full_swing(page, desk)
    root(page).get_by_role("button", name="Stop Critic", exact=True).click()
    shows(member(page, "Critic"), "Cancelled")
    root(page).get_by_role("button", name="Stop Writer gently").click()
    assert audited(page) == []

    root(page).get_by_role("button", name="After this turn").click()
    shows(member(page, "Writer"), "Cancelling")
    assert audited(page) == []

    root(page).get_by_role("button", name="Stop Newsroom", exact=True).click()
    shows(root(page), "Cancelled")
    page.locator("#sessions > li > button").first.click()
    expect(page.locator("#sessions li li").first).to_be_visible()
    assert audited(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_question_and_an_error_have_names_and_contrast_too(page: Page, desk: Desk, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    desk.says["Mail Ann."] = ToolCall("send_mail", {"to": "ann@example.org"})
    opened(page, desk, "Clerk", "Mail Ann.")
    shows(root(page), "Paused")
    assert audited(page) == []

    page.context.route("**/cancel?*", lambda route: route.abort())
    root(page).get_by_role("button", name="Stop Clerk", exact=True).click()
    expect(root(page)).to_contain_text("The server was not reached")
    assert audited(page) == []


def test_a_screen_reader_finds_the_tree(page: Page, desk: Desk) -> None:
    in_full_swing(page, desk)
    expect(page.get_by_role("main")).to_match_aria_snapshot(
        """
        - article:
          - button "Details of Newsroom" [expanded]
          - heading "Newsroom team" [level=2]
          - button "Stop Newsroom"
          - button "Stop Newsroom gently"
          - text: /Running/
          - list:
            - listitem:
              - button "Details of Researcher" [expanded]
              - heading "Researcher agent" [level=3]
              - button "Stop Researcher"
              - button "Stop Researcher gently"
              - text: /Running/
              - list
              - group "Text of Researcher"
            - listitem:
              - heading "Writer agent" [level=3]
              - group "Text of Writer"
            - listitem:
              - heading "Critic agent" [level=3]
        """
    )


def test_what_happens_is_announced(page: Page, desk: Desk) -> None:
    desk.says["Count."] = [Text(numbers(5)), Hang()]
    opened(page, desk, "Writer", "Count.")
    said = page.get_by_role("status")
    expect(said).to_have_text("Writer is started.")
    count_reaches(page, "Writer", 4)

    root(page).get_by_role("button", name="Stop Writer", exact=True).click()

    expect(said).to_contain_text("ancelled")


def press_until(page: Page, key: str, name: str) -> None:
    for _ in range(60):
        page.keyboard.press(key)
        focused = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
        )
        if focused == name:
            return
    raise AssertionError(f"{key} does not come to {name}")


def test_all_can_be_done_with_the_keyboard(page: Page, desk: Desk) -> None:
    in_full_swing_says = scene(desk)
    page.goto(f"{desk.url}/console")
    expect(page.get_by_label("Team or agent")).to_contain_text("Newsroom")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the run")).to_be_focused()
    page.get_by_label("Team or agent").focus()
    page.keyboard.press("Tab")
    page.keyboard.type("Write it up.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Newsroom")).to_be_focused()
    expect(text_of(page, "Critic")).to_contain_text("passed in June")

    press_until(page, "Tab", "Stop Critic gently")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="After this turn")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="After its running tools")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="After this turn")).to_be_hidden()

    press_until(page, "Shift+Tab", "Stop Critic")
    page.keyboard.press("Enter")
    shows(member(page, "Critic"), "Cancelled")
    expect(page.get_by_role("heading", name="Critic")).to_be_focused()

    press_until(page, "Shift+Tab", "Stop Newsroom")
    page.wait_for_timeout(1200)  # the page looks at the server and draws anew: the focus stays
    page.keyboard.press("Space")
    shows(root(page), "Cancelled")
    in_full_swing_says.open()


def test_a_small_screen_has_room_for_all_of_it(page: Page, desk: Desk) -> None:
    page.set_viewport_size({"width": 360, "height": 720})
    in_full_swing(page, desk)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    stop = root(page).get_by_role("button", name="Stop Newsroom", exact=True)
    expect(stop).to_be_in_viewport()
    page.get_by_role("heading", name="Sessions").scroll_into_view_if_needed()
    text_of(page, "Critic").scroll_into_view_if_needed()
    expect(stop).to_be_in_viewport()  # it comes along
    stop.click()
    shows(root(page), "Cancelled")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_nothing_moves_for_those_who_do_not_want_it(page: Page, desk: Desk) -> None:
    page.emulate_media(reduced_motion="reduce")
    in_full_swing(page, desk)
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    eventually(page, lambda: page.evaluate("document.getAnimations().length") > 0, "nothing moves at all")


def test_it_is_light_or_dark_as_the_system_is(page: Page, desk: Desk, tmp_path: Path) -> None:
    """With `PICTURES=1` the pictures of the docs are made anew."""
    in_full_swing(page, desk)
    folder = DOCS if os.environ.get("PICTURES") else tmp_path
    folder.mkdir(exist_ok=True)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(300)
    colour = "getComputedStyle(document.body).backgroundImage"
    light = page.evaluate(colour)
    page.screenshot(path=folder / "console-light.png", animations="disabled")

    page.emulate_media(color_scheme="dark")
    root(page).get_by_role("button", name="Stop Critic", exact=True).click()
    shows(member(page, "Critic"), "Cancelled")
    root(page).get_by_role("button", name="Stop Newsroom", exact=True).click()
    shows(root(page), "Cancelled")
    expect(head(root(page)).get_by_role("button", name="Continue")).to_be_visible()
    expect(page.locator("#sessions > li")).not_to_have_count(0)
    expect(page.locator("#recent")).to_contain_text("Cancelled")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(300)
    assert page.evaluate(colour) != light
    page.screenshot(path=folder / "console-dark.png", animations="disabled")
    assert all(picture.stat().st_size < 200_000 for picture in folder.glob("console-*.png"))
