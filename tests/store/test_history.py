"""What later turns of a session are told of earlier ones."""

from __future__ import annotations

from typing import Any

import pytest

from kern_async import RunStatus, Team, tool
from kern_async.db.database import BaseDb
from kern_async.testing import Hang, Text, ToolCall
from kern_async.testing.scripted import call

from ..agent.crew import Crew
from ..agent.crew import delegate as crew_delegate
from .parts import agent, asked, cancel_at, delegate, forever, model, new_process, read


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


async def test_all_earlier_turns_are_told_whatever_their_end(db: BaseDb) -> None:
    solo = agent(
        "Solo",
        ["I look. ", call("look", what="rain")],
        "It rains.",
        ["The lo", forever],
        ["Half", ValueError("broken")],
        call("pay", amount=1),
        "Last.",
        db=db,
        tools=[look, pay],
        add_history_to_context=True,
        session_id="s",
    )
    await solo.arun("One?")
    await read(solo, "Two?", on=cancel_at("The lo"))
    await solo.arun("Three?")
    paused = await solo.arun("Four?")
    assert paused.is_paused
    await solo.arun("Five?")
    assert asked(solo)[-1] == [
        "One?", "I look. ", "saw rain", "It rains.",
        "Two?", "The lo",
        "Three?", "Half",
        "Four?", None, "not finished",
        "Five?",
    ]  # fmt: skip
    await solo.acancel_run(paused.run_id)


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_the_last_runs_only(db: BaseDb, number: int) -> None:
    solo = agent("Solo", db=db, num_history_runs=number)
    solo.model = model(*[f"Answer {n}." for n in range(4)])
    for n in range(4):
        await solo.arun(f"Question {n}?", session_id="s")
    told = [text for n in range(max(0, 3 - number), 3) for text in (f"Question {n}?", f"Answer {n}.")]
    assert asked(solo)[-1] == [*told, "Question 3?"]


async def test_nothing_of_other_sessions_users_or_agents(db: BaseDb) -> None:
    solo = agent("Solo", "Mine.", "Other session.", "Here.", db=db, add_history_to_context=True)
    await solo.arun("One?", session_id="s")
    await solo.arun("Elsewhere?", session_id="other")
    await agent("Another", "Not mine.", db=db).arun("Another's?", session_id="s")
    await solo.arun("Two?", session_id="s")
    assert asked(solo)[-1] == ["One?", "Mine.", "Two?"]


async def test_each_user_who_names_no_session_has_one(db: BaseDb) -> None:
    solo = agent("Solo", db=db, add_history_to_context=True)
    solo.model = model("A.", "B.", "C.", "D.")
    ada = await solo.arun("Ada?", user_id="ada")
    bob = await solo.arun("Bob?", user_id="bob")
    assert ada.session_id != bob.session_id
    await solo.arun("Again?", user_id="ada")
    assert asked(solo)[-1] == ["Ada?", "A.", "Again?"]
    await solo.arun("Who?")
    assert asked(solo)[-1] == ["Who?"]


async def test_an_agent_s_runs_as_a_member_are_not_those_of_its_own(db: BaseDb) -> None:
    one = agent("One", "As a member.", "Alone.", "Alone again.", db=db, add_history_to_context=True)
    team = Team([one], name="T", model=model(delegate("one", "Task."), "All."), db=db)
    await team.arun("Go.", session_id="s")
    await one.arun("Alone?", session_id="s")
    assert asked(one)[-1] == ["Alone?"]


async def test_a_member_is_told_of_its_own_earlier_runs_of_its_team_s_database(db: BaseDb) -> None:
    one = agent("One", "First.", "Second one.", add_history_to_context=True)
    two = agent("Two", "Other.")
    team = Team(
        [one, two],
        name="T",
        model=model([delegate("one", "Task 1."), delegate("two", "Task 2.")], "All.", delegate("one", "Task 3."), "Again."),
        db=db,
    )  # fmt: skip
    await team.arun("Go.", session_id="s")
    new_process()
    await team.arun("More.", session_id="s")
    assert asked(one)[-1] == ["Task 1.", "First.", "Task 3."]


async def test_a_leader_is_told_of_its_runs_and_not_of_its_members(db: BaseDb) -> None:
    team = Team(
        [agent("One", "First.", "Second one.")],
        name="T",
        model=model(["I ask. ", delegate("one")], "All.", "Again."),
        db=db,
        add_history_to_context=True,
    )
    await team.arun("Go.", session_id="s")
    await team.arun("More.", session_id="s")
    assert asked(team)[-1] == ["Go.", "I ask. ", "First.", "All.", "More."]


async def test_members_are_told_of_the_team_s_earlier_turns(db: BaseDb) -> None:
    one = agent("One", "First.", "Second one.", "Third.")
    lead = model(delegate("one"), "One.", [ "Tw", delegate("one")], [forever], delegate("one"), "Three.")  # fmt: skip
    inner = Team([one], name="Inner", model=lead)
    top = Team(
        [inner],
        name="T",
        model=model(delegate("inner"), "All.", ["Half", forever], delegate("inner"), "End."),
        db=db,
        add_team_history_to_members=True,
    )
    inner.add_team_history_to_members = True
    await top.arun("First?", session_id="s")
    await read(top, "Second?", on=cancel_at("Half"), session_id="s")
    lead.turns = [*list(lead.turns)[:2], delegate("one"), "Three."]
    output = await top.arun("Third?", session_id="s")
    assert output.status is RunStatus.completed, output.error
    told = asked(one)[-1][0] or ""
    for part in ("User: First?", "Team: All.", "User: Second?", "Team (cut off): Half", "Your task:"):
        assert part in told
    assert "Third?" not in told


async def test_a_history_is_trimmed(db: BaseDb) -> None:
    def last_two(messages: list[Any]) -> list[Any]:
        return messages[-2:]

    solo = agent("Solo", "A.", "B.", "C.", db=db, add_history_to_context=True, trim_history=last_two)
    for question in ("One?", "Two?", "Three?"):
        await solo.arun(question, session_id="s")
    assert asked(solo)[-1] == ["Two?", "B.", "Three?"]


async def test_what_was_told_of_is_not_stored_again(db: BaseDb) -> None:
    solo = agent("Solo", "A.", "B.", "C.", db=db, add_history_to_context=True)
    for question in ("One?", "Two?", "Three?"):
        output = await solo.arun(question, session_id="s")
    assert [m.content for m in output.messages if not m.from_history] == ["Three?", "C."]
    session = await solo.aget_session("s")
    assert session is not None
    assert [m.content for m in session.get_messages()] == ["One?", "A.", "Two?", "B.", "Three?", "C."]


async def test_a_background_run_is_told_too(db: BaseDb) -> None:
    solo = agent("Solo", "A.", "B.", db=db, add_history_to_context=True)
    await solo.arun("One?", session_id="s")
    output = await solo.arun("Two?", session_id="s", background=True)
    async for _ in solo.run_events(output.run_id):
        pass
    assert asked(solo)[-1] == ["One?", "A.", "Two?"]


# What providers take.


async def test_providers_take_the_histories_of_runs_of_any_end(any_crew: Crew, db: BaseDb) -> None:
    crew = any_crew
    solo = crew.agent(
        "Solo",
        [Text("I look. "), ToolCall("look", {"what": "rain"}), ToolCall("look", {"what": "sun"})],
        Text("Seen."),
        [Text("Half"), Hang()],
        [Text("I pay. "), ToolCall("look", {"what": "x"}), ToolCall("pay", {"amount": 1})],
        Text("Last."),
        Text("Paid."),
        db=db,
        tools=[look, pay],
        add_history_to_context=True,
        session_id="s",
    )
    await solo.arun("One?")
    await read(solo, "Two?", on=cancel_at("Half"))
    paused = await solo.arun("Three?")
    assert paused.is_paused
    output = await solo.arun("Four?")
    assert (output.status, output.content) == (RunStatus.completed, "Last."), output.error
    paused.requirements[0].confirm()  # type: ignore[index] - it is paused
    new_process()
    again = await solo.acontinue_run(paused)
    assert (again.status, again.content) == (RunStatus.completed, "I pay. Paid."), again.error


async def test_providers_take_the_histories_of_teams(any_crew: Crew, db: BaseDb) -> None:
    crew = any_crew
    one = crew.agent(
        "One", [Text("Fir"), Hang()], Text("Second one."), Text("Third."), add_history_to_context=True
    )
    team = crew.team(
        [Text("I ask. "), crew_delegate("one")],
        crew_delegate("one"),
        Text("All."),
        crew_delegate("one"),
        Text("Again."),
        members=[one],
        db=db,
        add_history_to_context=True,
        session_id="s",
    )
    await read(team, on=cancel_at("Fir"))
    for question, said in (("More?", "All."), ("And more?", "Again.")):
        output = await team.arun(question)
        assert (output.status, output.content) == (RunStatus.completed, said), output.error
    assert all(member.status is RunStatus.completed for member in output.member_responses)
    assert "Fir" in crew.requests("One")[-1].text


def test_an_agent_that_wants_a_history_without_a_database_is_refused_at_the_call() -> None:
    from kern_async.exceptions import ConfigurationError

    one = agent("One", "Never.", add_history_to_context=True)
    who: Any
    for who in (one, Team([one], name="T", model=model("Never."))):
        with pytest.raises(ConfigurationError, match="needs a database"):
            who.arun("Go.")
