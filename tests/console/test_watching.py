"""What the page shows of a run, over reloads, lost connections and restarts of the server."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from kern_async.testing import Gate, Text, ToolCall

from .desk import ANSWER, TASKS, Desk, numbers
from .looks import count_of, count_reaches, member, opened, root, shows, start, text_of

CUTTABLE = """
// The page's own streams of events, which can be cut from outside as a network does it.
window.asked = [];
window.cuts = [];
const real = window.fetch;
window.fetch = async (url, options) => {
  if (String(url).endsWith("/events")) {
    window.asked.push(options.headers["Last-Event-ID"] ?? null);
    if (window.forgets) options = {...options, headers: {}};
  }
  const response = await real(url, options);
  if (!String(url).endsWith("/events")) return response;
  const reader = response.body.getReader();
  const body = new ReadableStream({
    start(controller) {
      window.cuts.push(() => { reader.cancel(); controller.error(new TypeError("network error")); });
    },
    async pull(controller) {
      const {done, value} = await reader.read();
      if (done) controller.close(); else controller.enqueue(value);
    },
  });
  return new Response(body, {status: response.status, headers: response.headers});
};
"""


def test_a_run_is_started_and_the_texts_of_its_members_grow(page: Page, desk: Desk) -> None:
    desk.says |= {task: Text(numbers(), interval=0.01) for task in TASKS.values()}
    opened(page, desk, "Newsroom", "Write up the bridge vote.")

    for name in ("Researcher", "Writer", "Critic"):
        before = count_reaches(page, name, 5)
        assert count_reaches(page, name, before + 20) > before
        shows(member(page, name), "Running")
    shows(root(page), "Running")
    expect(root(page)).to_contain_text("Write up the bridge vote.")
    expect(root(page).locator("> .body > .tools > li")).to_have_count(3)


def test_a_tool_call_is_shown_with_what_it_was_given_and_what_it_returned(page: Page, desk: Desk) -> None:
    desk.says["Doubt it."] = ToolCall("look_up", {"topic": "the bridge"})
    desk.says["Find sources."] = ToolCall("look_up", {"topic": "the vote"})
    opened(page, desk, "Newsroom", "Write it up.")

    shows(root(page), "Completed")
    call = member(page, "Researcher").locator(".tool")
    expect(call).to_contain_text("topic: the vote")
    call.locator("summary").click()
    expect(call).to_contain_text("three sources on the vote")


@pytest.mark.parametrize("target", ["Newsroom", "Writer"])
def test_a_page_that_is_loaded_anew_in_mid_run_loses_and_doubles_nothing(
    page: Page, desk: Desk, target: str
) -> None:
    end = Gate()
    desk.says |= {task: [Text(numbers(200), interval=0.01), end, Text("200 ")] for task in TASKS.values()}
    opened(page, desk, target, "Write it." if target == "Writer" else "Write it up.")
    count_reaches(page, "Writer", 30)

    page.reload()

    shows(root(page), "Running")
    assert count_reaches(page, "Writer", 100) >= 100
    end.open()
    shows(root(page), "Completed")
    for name in ("Writer",) if target == "Writer" else ("Researcher", "Writer", "Critic"):
        assert count_of(page, name) == 201
    expect(text_of(page, target)).to_have_text(
        ANSWER if target == "Newsroom" else re.compile("^0 1 2 .* 200 $")
    )


@pytest.mark.parametrize("repeats", [False, True], ids=["from-where-it-was", "from-the-start"])
def test_a_lost_connection_is_made_again_and_the_text_goes_on_where_it_was(
    page: Page, desk: Desk, repeats: bool
) -> None:
    """Whether the server heeds what the page has already, or sends all once more."""
    page.add_init_script(CUTTABLE + ("window.forgets = true;" if repeats else ""))
    end = Gate()
    desk.says["Count."] = [Text(numbers(150), interval=0.01), end, Text("150 ")]
    opened(page, desk, "Writer", "Count.")

    for least in (20, 70):
        count_reaches(page, "Writer", least)
        page.evaluate("window.cuts.at(-1)()")
    count_reaches(page, "Writer", 149)
    end.open()

    shows(root(page), "Completed")
    assert count_of(page, "Writer") == 151
    first, *again = page.evaluate("window.asked")
    assert first is None
    assert len(again) == 2
    assert 0 < int(again[0]) < int(again[1])


@pytest.mark.leaves("process")  # the server of the tests that come after
def test_a_server_that_starts_again_is_found_again(page: Page, desk: Desk) -> None:
    desk.says["Count."] = Text(numbers(), interval=0.01)
    opened(page, desk, "Writer", "Count.")
    count_reaches(page, "Writer", 30)

    desk.stop()
    expect(page.locator("#link")).to_contain_text("Reconnecting")
    desk.start()

    expect(page.locator("#link")).to_have_text("Connected", timeout=20_000)
    shows(root(page), "Cancelled")
    expect(root(page)).to_contain_text("by the server's shutdown")
    assert count_of(page, "Writer") >= 30
    start(page, "Newsroom", "Once more.")
    shows(root(page), "Completed")


def test_a_past_run_is_found_in_its_session_and_shown_whole(page: Page, desk: Desk) -> None:
    desk.says |= {task: Text(f"{task} Done.") for task in TASKS.values()}
    opened(page, desk, "Newsroom", "For the archive.")
    shows(root(page), "Completed")

    page.goto("about:blank")
    page.goto(f"{desk.url}/console")
    page.locator("#sessions > li > button").first.click()
    page.locator("#sessions").get_by_role("link", name="For the archive.").click()

    shows(root(page), "Completed")
    expect(root(page).locator("> .body > .asked")).to_have_text("For the archive.")
    expect(text_of(page, "Newsroom")).to_have_text(ANSWER)
    expect(text_of(page, "Critic")).to_have_text("Doubt it. Done.")
    expect(root(page).get_by_role("button", name="Stop", exact=False)).to_have_count(0)


def test_the_next_run_can_be_in_the_session_of_the_open_one(page: Page, desk: Desk) -> None:
    opened(page, desk, "Writer", "First.")
    shows(root(page), "Completed")
    session = root(page).locator("dl").inner_text()

    page.get_by_label("In the session of the open run").check()
    start(page, "Writer", "Second.")

    shows(root(page), "Completed")
    expect(root(page).locator("> .body > .asked")).to_have_text("Second.")
    again = root(page).locator("dl").inner_text()
    assert again.split("Session")[1] == session.split("Session")[1]
    assert again != session


def test_a_paused_run_is_answered_and_goes_on(page: Page, desk: Desk) -> None:
    desk.says["Mail Ann."] = ToolCall("send_mail", {"to": "ann@example.org"})
    desk.says["sent to ann@example.org"] = Text("The mail is out.")
    opened(page, desk, "Clerk", "Mail Ann.")
    shows(root(page), "Paused")

    page.reload()
    question = page.get_by_role("group", name="Clerk waits: send_mail")
    expect(question).to_contain_text("ann@example.org")
    question.get_by_label("Allow").check()
    page.get_by_role("button", name="Send and continue").click()

    shows(root(page), "Completed")
    expect(text_of(page, "Clerk")).to_have_text("The mail is out.")


def test_what_is_rejected_is_not_done(page: Page, desk: Desk) -> None:
    desk.says["Mail Ann."] = ToolCall("send_mail", {"to": "ann@example.org"})
    opened(page, desk, "Clerk", "Mail Ann.")
    shows(root(page), "Paused")

    page.get_by_role("radio", name="Reject").check()
    page.get_by_label("What the model is told").fill("not before Monday")
    page.get_by_role("button", name="Send and continue").click()

    shows(root(page), "Completed")
    assert "not before Monday" in desk.provider.requests[-1].text


def test_a_start_that_is_refused_says_why_and_keeps_the_message(page: Page, desk: Desk) -> None:
    page.context.route(
        "**/agents/writer/runs", lambda route: route.fulfill(status=429, json={"detail": "too many runs"})
    )
    opened(page, desk, "Writer", "Count.")

    expect(page.get_by_role("alert")).to_have_text("It was not started: too many runs")
    expect(page.get_by_label("Message")).to_have_value("Count.")
    expect(root(page)).to_have_count(0)


def test_a_server_that_asks_to_wait_is_waited_for(page: Page, desk: Desk) -> None:
    page.context.route(
        "**/runs", lambda route: route.fulfill(status=429, headers={"Retry-After": "1"}, json={}), times=1
    )
    page.goto(f"{desk.url}/console")

    expect(page.locator("#link")).to_have_text("The server asks to wait")
    expect(page.locator("#link")).to_have_text("Connected")


def test_thousands_of_deltas_do_not_freeze_the_page(page: Page, desk: Desk) -> None:
    go = Gate()
    desk.says["Pour."] = [Text("0 "), go, Text(numbers(20_000)[1:], burst=True)]
    opened(page, desk, "Writer", "Pour.")
    expect(text_of(page, "Writer")).to_contain_text("0")
    page.evaluate(
        """() => {
          window.longest = 0;
          let last = performance.now();
          const look = (now) => { window.longest = Math.max(window.longest, now - last); last = now; requestAnimationFrame(look); };
          requestAnimationFrame(look);
        }"""
    )
    go.open()

    shows(root(page), "Completed")
    expect(text_of(page, "Writer")).to_contain_text(" 19999 ")
    assert page.evaluate("window.longest") < 1000
    shown = text_of(page, "Writer").text_content() or ""
    assert len(shown) < 20_000
    page.get_by_role("button", name="earlier characters").click()
    expect(text_of(page, "Writer")).to_contain_text("0 1 2 3 ")
    assert count_of(page, "Writer") == 20_000
