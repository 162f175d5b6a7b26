"""What members are given, and how teams and members find their models and each other."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Agent, RunContext, Team
from kern_async.run.media import Image
from kern_async.run.message import Message
from kern_async.testing import Text, ToolCall

from ..agent.crew import Crew, Together, delegate


async def test_the_leader_is_told_of_its_members(any_crew: Crew) -> None:
    inner = any_crew.team(
        name="Inner Team", members=[any_crew.agent("Deep", role="goes deep")], role="thinks"
    )
    writer = any_crew.agent("Writer", role="writes", description="not said")
    team = any_crew.team(members=[writer, inner], instructions="Be brief.", description="A team.")
    await team.arun("Go.")
    told = any_crew.requests("Leader")[0].instructions
    assert "- writer (Writer): writes\n- inner-team (Inner Team): thinks\n  - deep (Deep): goes deep" in told
    assert told.startswith("A team.\n\n")
    assert told.endswith("Be brief.")
    assert "not said" not in told


async def test_a_member_knows_nothing_of_the_team(crew: Crew) -> None:
    writer = crew.agent("Writer", instructions="Write well.")
    await crew.team(delegate("writer", "Write."), members=[writer], instructions="Lead well.").arun("Go.")
    request = crew.requests("Writer")[0]
    assert request.instructions == "Write well."
    assert request.text == "Write well.\nWrite."


@pytest.mark.parametrize(
    "given",
    ["A story.", {"topic": "rain"}, Message(role="user", content="Look.", images=(Image(content=b"png"),))],
    ids=["text", "dict", "message"],
)
async def test_members_may_get_the_runs_own_input(crew: Crew, given: Any) -> None:
    team = crew.team(
        delegate("writer", "Not this."), members=[crew.agent("Writer")], determine_input_for_members=False
    )
    await team.arun(given)
    assert crew.requests("Writer")[0].input == crew.requests("Leader")[0].input[:1]
    assert "Not this" not in crew.requests("Writer")[0].text


@pytest.mark.parametrize("shared", [True, False])
async def test_members_hear_of_each_other_where_that_is_wanted(crew: Crew, shared: bool) -> None:
    members = [crew.agent("Writer", Text("It rained.")), crew.agent("Editor")]
    team = crew.team(
        delegate("writer", "Write."),
        delegate("editor", "Edit."),
        members=members,
        share_member_interactions=shared,
    )
    await team.arun("Go.")
    asked = crew.requests("Editor")[0].last_text
    assert asked.endswith("Edit.")
    for words in ("Writer", "Write.", "It rained."):
        assert (words in asked) is shared
    assert crew.requests("Writer")[0].last_text == "Write."


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_leader_may_ask_who_its_members_are(crew: Crew, wanted: bool) -> None:
    team = crew.team(
        *([ToolCall("get_member_information")] if wanted else []),
        members=[crew.agent("Writer", role="writes")],
        get_member_information_tool=wanted,
    )
    await team.arun("Go.")
    assert ("get_member_information" in crew.requests("Leader")[0].tool_names) is wanted
    if wanted:
        assert crew.told("Leader") == ["- writer (Writer): writes"]


async def test_a_member_without_a_model_uses_the_teams(crew: Crew) -> None:
    crew.script("Leader", delegate("writer", "Write."), Text("It rained."), Text("Here."))
    writer = Agent(name="Writer")
    output = await Team(name="Leader", model=crew.model("Leader"), members=[writer]).arun("Go.")
    assert output.content == "Here."
    assert output.member_responses[0].content == "It rained."
    assert [request.model for request in crew.provider.requests] == ["Leader"] * 3
    assert writer.model is None, "the member itself is not changed"


async def test_a_team_without_a_model_uses_its_first_members(crew: Crew) -> None:
    members = [crew.agent("Writer"), crew.agent("Editor")]
    output = await Team(name="Leader", members=members).arun("Go.")
    assert output.model == "Writer"
    assert [request.model for request in crew.provider.requests] == ["Writer"]


async def test_models_are_found_through_nested_teams(crew: Crew) -> None:
    deep = Team(name="Inner", members=[Agent(name="Deep")])
    crew.script("Leader", delegate("inner"), delegate("deep"), Text("deep"), Text("inner"), Text("outer"))
    output = await crew.team(members=[deep]).arun("Go.")
    assert output.content == "outer"
    assert {request.model for request in crew.provider.requests} == {"Leader"}
    from_below = Team(name="Outer", members=[Team(name="Inner", members=[crew.agent("Bottom")])])
    assert (await from_below.arun("Go.")).model == "Bottom"


def set_state(key: str, value: Any, context: RunContext) -> str:
    """Set a value."""
    context.session_state[key] = value
    return "set"


def drop_state(key: str, context: RunContext) -> str:
    """Drop a value."""
    del context.session_state[key]
    return "dropped"


def sets(key: str, value: Any) -> ToolCall:
    return ToolCall("set_state", {"key": key, "value": value})


async def test_what_members_change_in_the_state_comes_back_to_the_team(crew: Crew) -> None:
    together = Together(2)
    one = crew.agent("One", sets("one", 1), together.then(Text("done")), tools=[set_state])
    two = crew.agent("Two", sets("two", 2), together.then(Text("done")), tools=[set_state])
    three = crew.agent(
        "Three", ToolCall("drop_state", {"key": "old"}), tools=[drop_state], instructions="{one} {two}"
    )
    team = crew.team(
        [delegate("one"), delegate("two")],
        delegate("three"),
        members=[one, two, three],
        session_state={"old": 0, "kept": True},
    )
    with anyio.fail_after(5):
        output = await team.arun("Go.")
    assert crew.requests("Three")[0].instructions == "1 2"
    assert output.session_state == {"kept": True, "one": 1, "two": 2}
    assert team.session_state == {"old": 0, "kept": True}


async def test_members_work_on_copies_of_the_state(crew: Crew) -> None:
    """A member that is still at work does not see, or spoil, what another one does."""
    together = Together(2)
    seen: list[str] = []

    def add(word: str, context: RunContext) -> str:
        context.session_state["words"].append(word)
        return "added"

    def look(context: RunContext) -> str:
        seen.append(" ".join(context.session_state["words"]))
        return "seen"

    def member(name: str) -> Agent:
        own = ToolCall("add", {"word": name})
        return crew.agent(name, own, together.then(ToolCall("look")), tools=[add, look])

    team = crew.team(
        [delegate("one"), delegate("two")],
        members=[member("one"), member("two")],
        session_state={"words": ["first"]},
    )
    with anyio.fail_after(5):
        await team.arun("Go.")
    assert sorted(seen) == ["first one", "first two"]


async def test_the_state_comes_back_from_the_depth(crew: Crew) -> None:
    deep = crew.agent("Deep", sets("deep", 3), tools=[set_state])
    inner = crew.team(delegate("deep"), members=[deep], name="Inner")
    output = await crew.team(delegate("inner"), members=[inner]).arun("Go.")
    assert output.session_state == {"deep": 3}
