"""Stop buttons: what they end, and what the page says of it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from kern_async.testing import Gate, Hang, Text

from .desk import ANSWER, TASKS, Desk, numbers
from .looks import count_reaches, eventually, member, opened, root, shows, text_of


def test_one_member_is_stopped_and_the_team_goes_on_without_it(page: Page, desk: Desk) -> None:
    end = Gate()
    desk.says |= {task: [Text(numbers(5)), end, Text("5 ")] for task in TASKS.values()}
    opened(page, desk, "Newsroom", "Write it up.")
    count_reaches(page, "Critic", 4)

    root(page).get_by_role("button", name="Stop Critic", exact=True).click()

    shows(member(page, "Critic"), "Cancelled")
    expect(member(page, "Critic")).to_contain_text("Cancelled on request: stopped in the console")
    shows(member(page, "Writer"), "Running")
    shows(root(page), "Running")
    end.open()
    shows(root(page), "Completed")
    shows(member(page, "Writer"), "Completed")
    expect(text_of(page, "Newsroom")).to_have_text(ANSWER)


def test_a_team_whose_members_wait_for_a_first_token_that_never_comes_is_stopped(
    page: Page, desk: Desk
) -> None:
    desk.says |= {task: Hang() for task in TASKS.values()}
    opened(page, desk, "Newsroom", "Write it up.")
    desk.provider.wait_for_request(4)

    root(page).get_by_role("button", name="Stop Newsroom", exact=True).click()

    shows(root(page), "Cancelled")
    for name in ("Researcher", "Writer", "Critic"):
        shows(member(page, name), "Cancelled")
    eventually(page, lambda: desk.provider.open_requests == 0, "the provider still answers")
    expect(page.locator("#recent")).to_contain_text("Cancelled")
    assert desk.ask("GET", "/runs") == []


def test_a_run_is_stopped_in_the_list_without_being_open(page: Page, desk: Desk) -> None:
    desk.says |= {task: Text(numbers(), interval=0.01) for task in TASKS.values()}
    opened(page, desk, "Newsroom", "Write it up.")
    count_reaches(page, "Critic", 4)
    page.goto(f"{desk.url}/console#")
    page.reload()
    listed = page.locator("#live")
    expect(listed).to_contain_text("Critic")

    listed.get_by_role("button", name="Stop Critic").click()
    expect(listed.get_by_role("button", name="Stop Critic")).to_be_hidden()
    expect(listed.get_by_role("button", name="Stop Writer")).to_be_visible()
    listed.get_by_role("button", name="Stop Newsroom").click()

    expect(page.locator("#recent")).to_contain_text("Cancelled")
    expect(page.locator("#live-empty")).to_be_visible()


def test_a_gentle_stop_lets_the_answer_be_finished(page: Page, desk: Desk) -> None:
    end = Gate()
    desk.says["Count."] = [Text(numbers(5)), end, Text("5 6 7 ")]
    opened(page, desk, "Writer", "Count.")
    count_reaches(page, "Writer", 4)

    root(page).get_by_role("button", name="Stop Writer gently").click()
    root(page).get_by_role("button", name="After this turn").click()

    shows(root(page), "Cancelling")
    expect(root(page)).to_contain_text("It will end as cancelled after this turn.")
    page.wait_for_timeout(1000)  # longer than between two looks at /runs, which must not change it
    shows(root(page), "Cancelling")
    end.open()
    shows(root(page), "Cancelled")
    count_reaches(page, "Writer", 7)


def test_after_a_gentle_stop_one_can_still_stop_now(page: Page, desk: Desk) -> None:
    desk.says["Count."] = Text(numbers(), interval=0.01)
    opened(page, desk, "Writer", "Count.")
    count_reaches(page, "Writer", 4)
    root(page).get_by_role("button", name="Stop Writer gently").click()
    root(page).get_by_role("button", name="After this turn").click()
    shows(root(page), "Cancelling")

    root(page).get_by_role("button", name="Stop Writer", exact=True).click()

    shows(root(page), "Cancelled")


def test_a_stop_that_comes_too_late_is_told_that_nothing_was_changed(page: Page, desk: Desk) -> None:
    end = Gate()
    desk.says["Count."] = [Text(numbers(5)), end]
    opened(page, desk, "Writer", "Count.")
    count_reaches(page, "Writer", 4)
    run_id = page.url.rpartition("/")[2]
    page.context.route("**/runs/*/events", lambda route: route.abort())
    page.reload()  # it cannot see any event now, so it does not know of the end
    shows(root(page), "Pending")
    end.open()
    eventually(
        page, lambda: desk.ask("GET", f"/agents/writer/runs/{run_id}")["status"] == "COMPLETED", "it runs"
    )

    root(page).get_by_role("button", name="Stop Writer", exact=True).click()

    expect(root(page)).to_contain_text("It had ended already (Completed): nothing was changed.")


def test_a_stop_that_does_not_reach_the_server_says_so(page: Page, desk: Desk) -> None:
    desk.says["Count."] = Text(numbers(), interval=0.01)
    opened(page, desk, "Writer", "Count.")
    count_reaches(page, "Writer", 4)
    page.context.route("**/cancel?*", lambda route: route.abort())

    root(page).get_by_role("button", name="Stop Writer", exact=True).click()

    expect(root(page)).to_contain_text("The server was not reached: it has not been stopped.")
    shows(root(page), "Running")


def test_a_stopped_run_goes_on_when_it_is_continued(page: Page, desk: Desk) -> None:
    desk.says["Count."] = [Text(numbers(5)), Hang()]
    opened(page, desk, "Writer", "Count.")
    count_reaches(page, "Writer", 4)
    root(page).get_by_role("button", name="Stop Writer", exact=True).click()
    shows(root(page), "Cancelled")

    desk.says.clear()
    root(page).get_by_role("button", name="Continue").click()

    shows(root(page), "Completed")
    expect(text_of(page, "Writer")).to_contain_text("Nothing to say.")
