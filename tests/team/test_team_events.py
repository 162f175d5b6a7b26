"""The events of a team's run: its own, and its members' between them."""

from __future__ import annotations

import json
from typing import Any, get_args

import anyio
import pytest
from pydantic import TypeAdapter

from kern_async import RunContext, Team, cancel_run
from kern_async.exceptions import InputCheckError
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunStatus
from kern_async.run.team import TeamOwnEvent, TeamRunEvent, TeamRunOutput, TeamRunOutputEvent
from kern_async.testing import Cut, Forever, Reasoning, Text, ToolCall

from ..agent.crew import Crew, delegate, events_of, names

EVENT: TypeAdapter[Any] = TypeAdapter(TeamRunOutputEvent)


def look(context: RunContext) -> str:
    """Look."""
    context.report("looking")
    return "rain"


async def test_the_order_without_delegation(any_crew: Crew) -> None:
    events = await events_of(any_crew.team(Text("Hello."), members=[any_crew.agent("Writer")]))
    assert names(events) == [
        "TeamRunStarted",
        "TeamModelRequestStarted",
        "TeamRunContent",
        "TeamModelRequestCompleted",
        "TeamRunContentCompleted",
        "TeamRunCompleted",
    ]


async def test_a_members_events_stand_between_the_ends_of_its_delegation(any_crew: Crew) -> None:
    writer = any_crew.agent("Writer", Text("It rained."))
    events = await events_of(any_crew.team(delegate("writer"), Text("Here."), members=[writer]))
    assert names(events) == [
        "TeamRunStarted",
        "TeamModelRequestStarted",
        "TeamModelRequestCompleted",
        "TeamToolCallStarted",
        "RunStarted",
        "ModelRequestStarted",
        "RunContent",
        "ModelRequestCompleted",
        "RunContentCompleted",
        "RunCompleted",
        "TeamToolCallCompleted",
        "TeamModelRequestStarted",
        "TeamRunContent",
        "TeamModelRequestCompleted",
        "TeamRunContentCompleted",
        "TeamRunCompleted",
    ]
    assert [event.event_index for event in events] == list(range(len(events)))
    completed = next(event for event in events if event.event == "TeamToolCallCompleted")
    assert completed.tool.child_run_id == next(e.run_id for e in events if e.event == "RunStarted")


async def test_a_plain_stream_has_starts_contents_and_ends_of_all(crew: Crew) -> None:
    writer = crew.agent("Writer", Text("It rained."))
    team = crew.team(delegate("writer"), Text("Here."), members=[writer])
    events = await events_of(team, stream_events=False)
    assert names(events) == [
        "TeamRunStarted",
        "RunStarted",
        "RunContent",
        "RunCompleted",
        "TeamRunContent",
        "TeamRunCompleted",
    ]


async def test_members_events_may_be_left_out(crew: Crew) -> None:
    inner = crew.team(delegate("worker"), members=[crew.agent("Worker")], name="Inner")
    team = crew.team(
        delegate("inner"),
        delegate("writer"),
        members=[inner, crew.agent("Writer")],
        stream_member_events=False,
    )
    *events, output = await events_of(team, yield_run_output=True)
    assert {event.run_id for event in events} == {output.run_id}
    assert len(output.member_responses) == 2
    assert [tool.tool_call_error for tool in output.tools] == [False, False]


async def test_every_event_says_whose_it_is(crew: Crew) -> None:
    team = crew.team(delegate("writer"), members=[crew.agent("Writer")], id="the-team")
    events = await events_of(team, run_id="the-run", session_id="s")
    for event in events:
        assert event.session_id == "s"
        if event.run_id == "the-run":
            assert (event.team_id, event.team_name, event.parent_run_id) == ("the-team", "Leader", None)
        else:
            assert (event.agent_id, event.agent_name, event.parent_run_id) == ("writer", "Writer", "the-run")


async def test_the_output_is_the_last_item_where_it_is_asked_for(crew: Crew) -> None:
    team = crew.team(Text("Hello."), members=[crew.agent("Writer")])
    *_, end, output = await events_of(team, stream_events=False, yield_run_output=True)
    assert isinstance(output, TeamRunOutput)
    assert (output.event, output.status) == ("TeamRunCompleted", RunStatus.completed)
    assert (end.content, end.metrics) == (output.content, output.metrics)


async def test_a_leaders_reasoning_and_its_tools_progress_are_the_teams_events(crew: Crew) -> None:
    team = crew.team(
        [Reasoning("Hm."), ToolCall("look", id="call-7")], members=[crew.agent("Writer")], tools=[look]
    )
    events = await events_of(team)
    assert names(events)[2:5] == [
        "TeamReasoningStarted",
        "TeamReasoningContentDelta",
        "TeamReasoningCompleted",
    ]
    (custom,) = [event for event in events if event.event == "CustomEvent"]
    assert (custom.content, custom.tool_call_id, custom.team_id) == ("looking", "call-7", "leader")


async def test_a_teams_hooks_get_the_team(crew: Crew) -> None:
    got: list[Any] = []

    def before(team: Team) -> None:
        got.append(team)

    async def after(team: Team, run_output: TeamRunOutput) -> None:
        got.append(team)
        run_output.content = f"{run_output.content} ({len(run_output.member_responses)} asked)"

    team = crew.team(
        delegate("writer"),
        Text("Here."),
        members=[crew.agent("Writer")],
        pre_hooks=[before],
        post_hooks=[after],
    )
    events = await events_of(team)
    assert got == [team, team]
    assert events[-1].content == "Here. (1 asked)"
    assert {"TeamPreHookStarted", "TeamPostHookCompleted"} <= set(names(events))


async def test_an_input_that_a_teams_hook_refuses_reaches_nobody(crew: Crew) -> None:
    def refuse() -> None:
        raise InputCheckError("no politics")

    team = crew.team(members=[crew.agent("Writer")], mode="broadcast", pre_hooks=[refuse])
    output = await team.arun("Go.")
    assert (output.status, output.event, output.error_type) == (
        RunStatus.error,
        "TeamRunError",
        "InputCheckError",
    )
    assert crew.provider.requests == []


async def test_a_team_goes_on_after_a_cut_without_asking_its_members_again(crew: Crew) -> None:
    team = crew.team(
        delegate("writer"),
        [Text("Here it "), Cut()],
        Text("is."),
        members=[crew.agent("Writer")],
        retries=1,
        delay_between_retries=0,
    )
    output = await team.arun("Go.")
    assert (output.status, output.content) == (RunStatus.completed, "Here it is.")
    assert len(crew.requests("Writer")) == 1


async def completed(crew: Crew) -> list[Any]:
    worker = crew.agent("Worker", [Reasoning("Hm."), ToolCall("look")], Text("Rain."), tools=[look])
    inner = crew.team(
        ToolCall("create_task", {"title": "Look"}),
        ToolCall("execute_task", {"task_id": "1", "member_id": "worker"}),
        Text("Done."),
        members=[worker],
        name="Inner",
        mode="tasks",
    )
    team = crew.team([delegate("inner"), delegate("nobody")], members=[inner], pre_hooks=[lambda: None])
    return await events_of(team, yield_run_output=True)


async def cancelled(crew: Crew) -> list[Any]:
    items: list[Any] = []
    team = crew.team(delegate("writer"), members=[crew.agent("Writer", Forever())])
    async with team.arun("Go.", stream=True, stream_events=True, yield_run_output=True) as events:
        async for event in events:
            items.append(event)
            if event.event == "RunContent" and event.parent_run_id is not None:
                cancel_run(event.parent_run_id)
    return items


@pytest.mark.parametrize("ending", [completed, cancelled], ids=lambda ending: ending.__name__)
async def test_events_and_output_of_a_team_survive_json(crew: Crew, ending: Any) -> None:
    with anyio.fail_after(5):
        *events, output = await ending(crew)
    for event in events:
        again = EVENT.validate_json(event.to_json())
        assert type(again) is type(event)
        assert again == event
    restored = TeamRunOutput.from_dict(json.loads(output.to_json()))
    assert restored.to_dict() == output.to_dict()
    below: Any = restored
    while isinstance(below, TeamRunOutput):
        (below,) = below.member_responses
    assert isinstance(below, RunOutput), "members are told apart"


def test_a_teams_stream_is_told_apart_by_name() -> None:
    mapping = EVENT.json_schema()["discriminator"]["mapping"]
    own = {cls.model_fields["event"].default for cls in get_args(TeamOwnEvent)}
    assert own < set(mapping)
    assert own == set(TeamRunEvent) - {"CustomEvent"}
    assert all(name.startswith("Team") for name in own)


def test_a_team_is_printed_with_its_members_apart(crew: Crew, capsys: pytest.CaptureFixture[str]) -> None:
    members = [crew.agent("Writer", Text("It rained.")), crew.agent("Editor", Text("Too short."))]
    crew.team(Text("Here it is."), members=members, mode="broadcast").print_response("A story.")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    for line in ("[Writer] It rained.", "[Editor] Too short.", "[Leader] Here it is."):
        assert line in shown
