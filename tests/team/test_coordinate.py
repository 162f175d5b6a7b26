"""A leader that delegates: what members are asked, and what the leader is told."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from kern_async import RunContext, cancel_run
from kern_async.run.base import RunStatus
from kern_async.testing import Cut, Forever, Status, Text, ToolCall

from ..agent.crew import Crew, Together, delegate, events_of, in_order


async def test_a_member_does_the_task_and_the_leader_answers(any_crew: Crew) -> None:
    writer = any_crew.agent("Writer", Text("It rained."))
    team = any_crew.team(delegate("writer", "Write."), Text("Here it is."), members=[writer])
    output = await team.arun("A story, please.", run_id="the-run")
    assert any_crew.requests("Writer")[0].last_text == "Write."
    assert any_crew.told("Leader") == ["It rained."]
    assert (output.status, output.content) == (RunStatus.completed, "Here it is.")
    (member,) = output.member_responses
    assert (member.content, member.parent_run_id) == ("It rained.", "the-run")
    assert member.run_id != "the-run"
    assert output.tools[0].child_run_id == member.run_id


async def test_members_of_one_turn_work_at_the_same_time(any_crew: Crew) -> None:
    together = Together(3)
    members = [any_crew.agent(name, together.then(Text(f"{name}!"))) for name in ("A", "B", "C")]
    team = any_crew.team([delegate("a"), delegate("b"), delegate("c")], members=members)
    with anyio.fail_after(5):
        output = await team.arun("Go.")
    assert sorted(together.arrived) == ["A", "B", "C"]
    assert any_crew.told("Leader") == ["A!", "B!", "C!"]
    assert len(output.member_responses) == 3


async def test_one_member_may_have_two_tasks_at_once(crew: Crew) -> None:
    together = Together(2)
    crew.script("A", together.then(Text("one")), together.then(Text("two")))
    team = crew.team([delegate("a", "First."), delegate("a", "Second.")], members=[crew.agent("A")])
    with anyio.fail_after(5):
        output = await team.arun("Go.")
    assert sorted(crew.told("Leader")) == ["one", "two"]
    children = [tool.child_run_id for tool in output.tools]
    assert len(set(children)) == 2
    assert set(children) == {member.run_id for member in output.member_responses}
    answers = {member.run_id: member.content for member in output.member_responses}
    assert all(answers[str(tool.child_run_id)] == tool.result for tool in output.tools)


async def test_answers_stand_in_the_order_of_the_delegations(crew: Crew) -> None:
    replies, finished = in_order("C", "B", "A")
    members = [crew.agent(name, replies[name]) for name in ("A", "B", "C")]
    team = crew.team([delegate("a"), delegate("b"), delegate("c")], members=members)
    with anyio.fail_after(5):
        await team.arun("Go.")
    assert finished == ["C", "B", "A"]
    assert crew.told("Leader") == ["A says so.", "B says so.", "C says so."]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Status(400, "bad luck"), ["Writer failed", "ModelStatusError", "bad luck"]),
        ([Text("It was a "), Cut()], ["Writer failed", "ModelConnectionError", "It was a "]),
    ],
    ids=["no answer", "half an answer"],
)
async def test_a_members_failure_is_told_to_the_leader_who_goes_on(
    crew: Crew, fault: Any, says: list[str]
) -> None:
    members = [crew.agent("Writer", fault), crew.agent("Editor", Text("Fine."))]
    team = crew.team([delegate("writer"), delegate("editor")], Text("We tried."), members=members)
    events = await events_of(team)
    told, other = crew.told("Leader")
    assert all(words in told for words in says), told
    assert other == "Fine."
    assert (events[-1].event, events[-1].content) == ("TeamRunCompleted", "We tried.")
    (failed,) = [event for event in events if event.event == "TeamToolCallError"]
    assert failed.error == told
    assert sum(event.event == "RunError" for event in events) == 1


async def test_a_cancelled_member_ends_alone_and_the_leader_is_told(any_crew: Crew) -> None:
    together = Together(2)
    members = [
        any_crew.agent("Writer", [Text("Once "), *together.then(), Forever()]),
        any_crew.agent("Editor", together.then(Text("Fine."))),
    ]
    team = any_crew.team([delegate("writer"), delegate("editor")], Text("Without it."), members=members)
    said = ""
    events: list[Any] = []
    with anyio.fail_after(5):
        async with team.arun("Go.", stream=True, stream_events=True) as stream:
            async for event in stream:
                events.append(event)
                if event.event == "RunContent" and event.agent_id == "writer":
                    said += event.content
                    assert cancel_run(event.run_id, reason="too long") is True
    ends = {event.agent_id: event for event in events if event.event in ("RunCompleted", "RunCancelled")}
    assert (ends["writer"].event, ends["editor"].event) == ("RunCancelled", "RunCompleted")
    assert (ends["writer"].cancelled_by, ends["writer"].reason) == ("request", "too long")
    told, other = any_crew.told("Leader")
    assert "Writer was cancelled (too long)" in told
    assert said.strip() in told
    assert other == "Fine."
    assert (events[-1].event, events[-1].content) == ("TeamRunCompleted", "Without it.")


async def test_an_unknown_member_is_told_to_the_leader_who_goes_on(any_crew: Crew) -> None:
    members = [any_crew.agent("Writer"), any_crew.agent("Editor")]
    team = any_crew.team(delegate("wrtier"), Text("I see."), members=members)
    output = await team.arun("Go.")
    (told,) = any_crew.told("Leader")
    assert "Member with ID wrtier not found" in told
    assert "writer, editor" in told
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert output.member_responses == []


async def test_a_delegation_with_wrong_arguments_is_told_to_the_leader(crew: Crew) -> None:
    call = ToolCall("delegate_task_to_member", {"member": "writer"})
    output = await crew.team(call, Text("I see."), members=[crew.agent("Writer")]).arun("Go.")
    assert "member_id: required" in crew.told("Leader")[0]
    assert output.content == "I see."


async def test_a_member_without_words_is_told_as_such(crew: Crew) -> None:
    team = crew.team(delegate("writer"), members=[crew.agent("Writer", Text([]))])
    await team.arun("Go.")
    assert crew.told("Leader") == ["No response from the member agent."]


async def test_a_members_object_reaches_the_leader_as_json(crew: Crew) -> None:
    class Story(BaseModel):
        title: str

    writer = crew.agent("Writer", Text('{ "title": "Rain" }'), output_schema=Story)
    output = await crew.team(delegate("writer"), members=[writer]).arun("Go.")
    assert crew.told("Leader") == ['{"title":"Rain"}']
    assert output.member_responses[0].content == Story(title="Rain")


async def test_a_teams_answer_may_be_an_object(any_crew: Crew) -> None:
    class Story(BaseModel):
        title: str

    writer = any_crew.agent("Writer", Text("It rained."))
    team = any_crew.team(delegate("writer"), Text('{"title": "Rain"}'), members=[writer], output_schema=Story)
    assert (await team.arun("Go.")).content == Story(title="Rain")
    assert "Story" not in str(any_crew.requests("Writer")[0].body), "the schema is the team's own"


async def test_members_share_the_runs_ids_and_data(crew: Crew) -> None:
    seen: list[RunContext] = []

    def look(context: RunContext) -> str:
        seen.append(context)
        return "seen"

    writer = crew.agent("Writer", ToolCall("look"), tools=[look], dependencies={"own": 1})
    team = crew.team(delegate("writer"), members=[writer])
    output = await team.arun(
        "Go.", session_id="s", user_id="ada", dependencies={"shared": 2}, metadata={"m": 3}
    )
    (context,) = seen
    assert (context.session_id, context.user_id) == ("s", "ada")
    assert context.dependencies == {"own": 1, "shared": 2}
    assert context.metadata == {"m": 3}
    assert context.run_id == output.member_responses[0].run_id != output.run_id


async def test_a_leader_has_tools_of_its_own(crew: Crew) -> None:
    def look() -> str:
        return "rain"

    team = crew.team(
        [ToolCall("look"), delegate("writer")],
        Text("Done."),
        members=[crew.agent("Writer", Text("It rained."))],
        tools=[look],
    )
    await team.arun("Go.")
    assert crew.requests("Leader")[0].tool_names == ["look", "delegate_task_to_member"]
    assert crew.told("Leader") == ["rain", "It rained."]
    assert crew.requests("Writer")[0].tools == []


async def test_a_teams_limit_of_tool_calls_is_about_its_own_calls(crew: Crew) -> None:
    def look() -> str:
        return "rain"

    writer = crew.agent(
        "Writer",
        [ToolCall("look"), ToolCall("look")],
        Text("First."),
        Text("Second."),
        tools=[look],
    )
    team = crew.team(
        delegate("writer"), delegate("writer"), delegate("writer"), members=[writer], tool_call_limit=2
    )
    await team.arun("Go.")
    told = crew.told("Leader")
    assert told[:2] == ["First.", "Second."]
    assert "2 tool calls" in told[2]
