"""Mode `route`: the chosen member's words are the team's answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from kern_async import TeamMode
from kern_async.run.base import RunStatus
from kern_async.testing import Status, Text

from ..agent.crew import Crew, delegate, events_of


@pytest.mark.parametrize(
    "options", [{"mode": TeamMode.route}, {"mode": "route"}, {"respond_directly": True}], ids=str
)
async def test_the_chosen_members_words_are_the_answer(any_crew: Crew, options: dict[str, Any]) -> None:
    members = [any_crew.agent("German", Text("Guten Tag.")), any_crew.agent("French")]
    team = any_crew.team(delegate("german", "Grüße."), members=members, **options)
    events = await events_of(team, yield_run_output=True)
    *_, end, output = events
    assert len(any_crew.requests("Leader")) == 1
    assert any_crew.requests("French") == []
    assert (output.status, output.content, end.content) == (
        RunStatus.completed,
        "Guten Tag.",
        "Guten Tag.",
    )
    (member,) = output.member_responses
    assert member.content == "Guten Tag."
    deltas = [event for event in events[:-1] if event.event.endswith("RunContent")]
    assert "".join(event.content for event in deltas) == "Guten Tag."
    assert {event.event for event in deltas} == {"TeamRunContent"}
    assert {(event.run_id, event.member_run_id) for event in deltas} == {(output.run_id, member.run_id)}


async def test_a_leader_may_answer_itself(crew: Crew) -> None:
    team = crew.team(Text("Hello."), members=[crew.agent("German")], mode="route")
    events = await events_of(team)
    assert events[-1].content == "Hello."
    assert {event.member_run_id for event in events if event.event == "TeamRunContent"} == {None}


async def test_only_one_member_answers(crew: Crew) -> None:
    members = [crew.agent("German", Text("Guten Tag.")), crew.agent("French", Text("Bonjour."))]
    team = crew.team([delegate("german"), delegate("french")], members=members, mode="route")
    output = await team.arun("Go.")
    assert output.content in ("Guten Tag.", "Bonjour.")
    assert len(output.member_responses) == 1
    refused = [tool for tool in output.tools if tool.tool_call_error]
    assert len(refused) == 1
    assert "already" in (refused[0].result or "")
    assert len(crew.requests("Leader")) == 1


async def test_a_failed_choice_lets_the_leader_choose_again(crew: Crew) -> None:
    members = [crew.agent("German", Status(400)), crew.agent("French", Text("Bonjour."))]
    team = crew.team(delegate("german"), delegate("french"), members=members, mode="route")
    output = await team.arun("Go.")
    assert "German failed" in crew.told("Leader")[0]
    assert (output.status, output.content) == (RunStatus.completed, "Bonjour.")
    assert [member.status for member in output.member_responses] == [RunStatus.error, RunStatus.completed]


async def test_an_answer_is_handed_up_through_nested_teams(crew: Crew) -> None:
    german = crew.agent("German", Text("Guten Tag."))
    inner = crew.team(delegate("german"), members=[german], name="Inner", mode="route")
    events = await events_of(crew.team(delegate("inner"), members=[inner], mode="route"), run_id="outer")
    assert events[-1].content == "Guten Tag."
    assert next(e for e in events if e.event == "TeamRunCompleted" and e.run_id != "outer").content == (
        "Guten Tag."
    )
    deltas = [event for event in events if event.event.endswith("RunContent")]
    assert "".join(event.content for event in deltas) == "Guten Tag."
    assert {event.run_id for event in deltas} == {"outer"}
    assert {event.member_run_id for event in deltas} == {events_run(events, "german")}


def events_run(events: list[Any], agent_id: str) -> str:
    return next(event.run_id for event in events if getattr(event, "agent_id", None) == agent_id)


async def test_a_team_below_a_routing_one_speaks_as_its_leader(crew: Crew) -> None:
    """The inner team coordinates: its leader's words are the answer, its member's are not."""
    german = crew.agent("German", Text("Guten Tag."))
    inner = crew.team(delegate("german"), Text("He says hello."), members=[german], name="Inner")
    events = await events_of(crew.team(delegate("inner"), members=[inner], mode="route"), run_id="outer")
    assert events[-1].content == "He says hello."
    spoken = "".join(e.content for e in events if e.event == "TeamRunContent")
    assert spoken == "He says hello."
    assert "".join(e.content for e in events if e.event == "RunContent") == "Guten Tag."


async def test_a_mode_that_is_given_overrides_the_flags(crew: Crew) -> None:
    german = crew.agent("German", Text("Guten Tag."))
    team = crew.team(
        delegate("german"),
        Text("He says hello."),
        members=[german],
        mode="coordinate",
        respond_directly=True,
    )
    assert team.mode is TeamMode.coordinate
    assert (await team.arun("Go.")).content == "He says hello."


async def test_the_chosen_members_object_is_the_answer(crew: Crew) -> None:
    class Greeting(BaseModel):
        word: str

    member = crew.agent("German", Text('{"word": "Hallo"}'), output_schema=Greeting)
    output = await crew.team(delegate("german"), members=[member], mode="route").arun("Go.")
    assert output.content == Greeting(word="Hallo")
    assert output.content_type == "Greeting"
