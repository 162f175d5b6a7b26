"""What a type checker sees of the public API. Nothing here is run: pyright checks it, in scripts/lint.

A line that must be an error carries a `pyright: ignore`, which is an error itself if the line is none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from typing import Any, assert_type

from kern_async import (
    Agent,
    RunContext,
    RunLimits,
    RunOutput,
    RunRequirement,
    RunStatus,
    RunStream,
    SyncRunStream,
    Team,
    TeamMode,
    TeamRunOutput,
    abandoned,
    acancel_run,
    cancel_run,
    tool,
)
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.agent import AgentEvent, RunCancelledEvent, RunContentEvent, RunOutputEvent
from kern_async.run.base import CancelledBy, RunMetrics, Work
from kern_async.run.cancel import get_active_runs
from kern_async.run.requirement import UserInputField
from kern_async.run.team import RunCancelledEvent as TeamRunCancelledEvent
from kern_async.run.team import RunPausedEvent as TeamRunPausedEvent
from kern_async.run.team import TeamEvent, TeamRunOutputEvent
from kern_async.run.tool import ToolExecution


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool(name="look_up", stop_after_tool_call=True)
async def search(query: str, context: RunContext) -> list[str]:
    context.report(f"searching {query}")
    return [] if context.cancelled else [query]


@tool(requires_user_input=True, user_input_fields=["to"], timeout=1.5, retries=2, tool_hooks=[print])
def send(to: str, body: str) -> int:
    return len(to + body)


agent = Agent(
    name="Writer", model=OpenAIResponses(id="m"), tools=[add, search, send, len], instructions=["Write."]
)
team = Team(
    name="Writers",
    members=[agent, Team(members=[agent])],
    model=OpenAIChat(id="m"),
    mode=TeamMode.broadcast,
    cancel_grace=0.5,
    timeout=60,
)


def decorated_functions_stay_what_they_are() -> None:
    assert_type(add(1, b=2), int)
    assert_type(send("Ann", body="Hi"), int)
    assert_type(send.user_input_schema({}), list[UserInputField])
    assert_type(send.check(""), dict[str, Any])
    add("1", 2)  # pyright: ignore[reportArgumentType]


async def decorated_coroutine_functions_too(context: RunContext) -> None:
    assert_type(await search("x", context), list[str])


async def awaited_runs() -> None:
    coroutine = assert_type(agent.arun("x"), Coroutine[Any, Any, RunOutput])
    assert_type(await coroutine, RunOutput)
    assert_type(await agent.arun("x", session_id="s", timeout=1.5), RunOutput)
    assert_type(await team.arun("x", stream=False), TeamRunOutput)


async def streams_of_events() -> None:
    stream = agent.arun("x", stream=True)
    assert_type(stream, RunStream[AgentEvent, RunOutput])
    generator: AsyncGenerator[AgentEvent, None] = stream
    assert_type(stream.run_id, str)
    assert_type(stream.output, RunOutput | None)
    assert_type(stream.cancel(reason="enough"), bool)
    await generator.aclose()
    async for event in stream:
        assert_type(event, AgentEvent)
    async with team.arun("x", stream=True, stream_events=True) as events:
        assert_type(events, RunStream[TeamEvent, TeamRunOutput])
        async for event in events:
            assert_type(event, TeamEvent)


async def streams_that_end_with_the_output() -> None:
    async for item in agent.arun("x", stream=True, yield_run_output=True):
        assert_type(item, AgentEvent | RunOutput)
    async for item in team.arun("x", stream=True, yield_run_output=True):
        assert_type(item, TeamEvent | TeamRunOutput)


def runs_without_an_event_loop() -> None:
    assert_type(agent.run("x"), RunOutput)
    assert_type(team.run("x"), TeamRunOutput)
    with team.run("x", stream=True) as events:
        assert_type(events, SyncRunStream[TeamEvent, TeamRunOutput])
        for event in events:
            assert_type(event, TeamEvent)
        events.close()


def events_are_told_apart_by_their_name(event: TeamEvent) -> None:
    if event.event == "TeamRunCancelled":
        assert_type(event, TeamRunCancelledEvent)
        assert_type(event.cancelled_by, CancelledBy)
        assert_type(event.abandoned, list[Work])
    elif event.event == "RunContent":
        assert_type(event, RunContentEvent)
        assert_type(event.content, str)
        assert_type(event.agent_id, str)
    elif event.event == "TeamRunPaused":
        assert_type(event, TeamRunPausedEvent)
        assert_type(event.requirements, list[RunRequirement])
        assert_type(event.status, RunStatus)
    elif isinstance(event, RunCancelledEvent):
        assert_type(event.reason, str | None)
        assert_type(event.settled_at, float)


def the_unions_for_pydantic_are_the_same(ours: AgentEvent, theirs: TeamEvent) -> None:
    of_agent: RunOutputEvent = ours
    of_team: TeamRunOutputEvent = theirs
    assert_type(of_agent.run_id, str)
    assert_type(of_team.event_index, int)


def outputs(output: RunOutput, of_team: TeamRunOutput) -> None:
    assert_type(output.status, RunStatus)
    assert_type(output.metrics, RunMetrics)
    assert_type(output.raise_for_status(), RunOutput)
    assert_type(of_team.member_responses, list[TeamRunOutput | RunOutput])
    assert_type(of_team.cancelled_by, CancelledBy | None)


def requirements(output: RunOutput) -> None:
    for requirement in assert_type(output.active_requirements, list[RunRequirement]):
        assert_type(requirement.user_input_schema, list[UserInputField] | None)
        assert_type(requirement.is_resolved(), bool)
        requirement.confirmation = True
    assert_type(output.tools_requiring_confirmation, list[ToolExecution])
    RunLimits(tool_calls=3)
    RunLimits(tool_calls="3")  # pyright: ignore[reportArgumentType]


async def cancels() -> None:
    assert_type(cancel_run("r"), bool)
    assert_type(agent.cancel_run("r", reason="enough", mode="now"), bool)
    assert_type(Team.cancel_run("r"), bool)
    assert_type(await acancel_run("r", wait=True), bool)
    assert_type(await team.acancel_run("r", reason="enough"), bool)
    assert_type(get_active_runs(), dict[str, bool])
    assert_type(abandoned(), list[Work])
    cancel_run("r", mode="soon")  # pyright: ignore[reportArgumentType]


async def mistakes_are_seen() -> None:
    Agent(model=OpenAIResponses(id="m"), instruction="typo")  # pyright: ignore[reportCallIssue]
    Team()  # pyright: ignore[reportCallIssue]
    await agent.arun("x", sesion_id="typo")  # pyright: ignore[reportCallIssue]
    await agent.arun("x", stream=True)  # pyright: ignore[reportGeneralTypeIssues]
    await agent.arun(3)  # pyright: ignore[reportArgumentType]
