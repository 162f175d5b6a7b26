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
    Session,
    SessionSummary,
    SyncRunStream,
    Team,
    TeamMode,
    TeamRunOutput,
    abandoned,
    acancel_run,
    cancel_run,
    set_background_max_concurrency,
    tool,
)
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.agent import AgentEvent, RunCancelledEvent, RunContentEvent, RunOutputEvent
from kern_async.run.base import CancelledBy, RunMetrics, Work
from kern_async.run.cancel import get_active_runs
from kern_async.run.message import Message
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


remembering = Agent(
    name="Writer",
    model=OpenAIResponses(id="m"),
    db=SqliteDb("runs.db", store_timeout=1.5, lease_seconds=10),
    store_timeout=0.5,
    add_history_to_context=True,
    num_history_runs=3,
    trim_history=lambda messages: messages[-10:],
)
remembering_team = Team(
    members=[remembering], db=InMemoryDb(), add_team_history_to_members=True, trim_history=2_000
)


async def runs_that_go_on(output: RunOutput) -> None:
    assert_type(await agent.acontinue_run(output, input="Go on."), RunOutput)
    assert_type(await remembering_team.acontinue_run(run_id="r", session_id="s"), TeamRunOutput)
    assert_type(agent.continue_run(run_id="r", timeout=1.5), RunOutput)
    assert_type(agent.acontinue_run(run_id="r", stream=True), RunStream[AgentEvent, RunOutput])
    assert_type(team.continue_run(run_id="r", stream=True), SyncRunStream[TeamEvent, TeamRunOutput])
    async for item in agent.acontinue_run(run_id="r", stream=True, yield_run_output=True):
        assert_type(item, AgentEvent | RunOutput)
    assert_type(output.stored, bool | None)
    assert_type(output.store_error, str | None)


async def runs_that_nobody_waits_for() -> None:
    begun = assert_type(await remembering.arun("x", background=True), RunOutput)
    async for event in remembering.run_events(begun.run_id, after=7):
        assert_type(event.event_index, int)
    for event in remembering.run_events(begun.run_id):
        assert_type(event.run_id, str)
    assert_type(await remembering.aget_run_output(begun.run_id), RunOutput | TeamRunOutput | None)
    assert_type(await remembering.acancel_run(begun.run_id, reason="enough", wait=True), bool)
    set_background_max_concurrency(4)


async def sessions() -> None:
    session = assert_type(await remembering.aget_session("s"), Session | None)
    if session is not None:
        assert_type(session.runs, list[RunOutput | TeamRunOutput])
        assert_type(session.get_run("r"), RunOutput | TeamRunOutput | None)
        assert_type(session.get_messages(last_n_runs=2), list[Message])
    assert_type(remembering.list_sessions(user_id="u", limit=10), list[SessionSummary])
    assert_type(await remembering.afork_session("s"), str | None)
    data = assert_type(remembering.export_session("s"), dict[str, Any] | None)
    assert_type(await remembering_team.aimport_session(data or {}, "t"), str)
    assert_type(remembering.delete_session("s"), bool)


async def mistakes_are_seen() -> None:
    Agent(model=OpenAIResponses(id="m"), instruction="typo")  # pyright: ignore[reportCallIssue]
    Team()  # pyright: ignore[reportCallIssue]
    await agent.arun("x", sesion_id="typo")  # pyright: ignore[reportCallIssue]
    await agent.arun("x", stream=True)  # pyright: ignore[reportGeneralTypeIssues]
    await agent.arun(3)  # pyright: ignore[reportArgumentType]
    Agent(model=OpenAIResponses(id="m"), db="runs.db")  # pyright: ignore[reportArgumentType]
    await agent.acontinue_run(run="typo")  # pyright: ignore[reportCallIssue]
