"""The events of an agent's run: which, in which order, and what each says."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import RunContext, RunEvent, tool
from kern_async.run.base import RunStatus
from kern_async.testing import Reasoning, Status, Text, ToolCall

from .crew import Crew, events_of, names


def look() -> str:
    """Look."""
    return "rain"


async def test_the_order_without_tools(any_crew: Crew) -> None:
    events = await events_of(any_crew.agent("Solo", Text("It rains.")))
    assert names(events) == [
        "RunStarted",
        "ModelRequestStarted",
        "RunContent",
        "ModelRequestCompleted",
        "RunContentCompleted",
        "RunCompleted",
    ]
    assert [event.event_index for event in events] == list(range(len(events)))


async def test_the_order_with_a_tool(any_crew: Crew) -> None:
    events = await events_of(any_crew.agent("Solo", ToolCall("look"), Text("It rains."), tools=[look]))
    assert names(events) == [
        "RunStarted",
        "ModelRequestStarted",
        "ModelRequestCompleted",
        "ToolCallStarted",
        "ToolCallCompleted",
        "ModelRequestStarted",
        "RunContent",
        "ModelRequestCompleted",
        "RunContentCompleted",
        "RunCompleted",
    ]
    started, completed = events[3:5]
    assert (started.tool.tool_name, started.tool.result) == ("look", None), "an event does not change later"
    assert (completed.tool.result, completed.content) == ("rain", "rain")
    assert started.tool.tool_call_id == completed.tool.tool_call_id


async def test_a_plain_stream_is_start_content_and_end(crew: Crew) -> None:
    agent = crew.agent("Solo", [Reasoning("Hm."), ToolCall("look")], Text("It rains."), tools=[look])
    events = await events_of(agent, stream_events=False)
    assert names(events) == ["RunStarted", "RunContent", "RunCompleted"]
    indexes = [event.event_index for event in events]
    assert indexes == sorted(set(indexes))
    assert indexes[0] == 0


async def test_the_run_has_started_before_the_model_is_asked(crew: Crew) -> None:
    async with crew.agent().arun("Go.", stream=True) as events:
        assert (await anext(events)).event == RunEvent.run_started
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(events)


async def test_every_event_says_whose_it_is(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("look"), tools=[look], id="the-agent")
    events = await events_of(agent, run_id="the-run", session_id="the-session")
    for event in events:
        assert (event.run_id, event.session_id, event.parent_run_id) == ("the-run", "the-session", None)
        assert (event.agent_id, event.agent_name) == ("the-agent", "Solo")
        assert isinstance(event.created_at, int)
        assert isinstance(event.event, str)
    ends = [event for event in events if hasattr(event, "status") or hasattr(event, "metrics")]
    assert ends == [events[-1]]
    assert (events[0].model, events[0].model_provider) == ("Solo", "OpenAI")


@pytest.mark.parametrize("stream_events", [False, True])
async def test_the_output_is_the_last_item_where_it_is_asked_for(crew: Crew, stream_events: bool) -> None:
    agent = crew.agent("Solo", Text("It rains."))
    *_, end, output = await events_of(agent, stream_events=stream_events, yield_run_output=True)
    assert (output.event, output.status) == ("RunCompleted", RunStatus.completed)
    assert (end.event, end.status, end.content, end.metrics) == (
        output.event,
        output.status,
        output.content,
        output.metrics,
    )


async def test_the_seeds_loop_reads_every_item(crew: Crew) -> None:
    chunks = await events_of(crew.agent(), stream_events=False, yield_run_output=True)
    seen = [(chunk.event, getattr(chunk, "status", None)) for chunk in chunks]
    assert seen[-2:] == [("RunCompleted", RunStatus.completed)] * 2


async def test_a_stream_has_its_output_after_the_end(crew: Crew) -> None:
    stream = crew.agent("Solo", Text("It rains.")).arun("Go.", stream=True, run_id="the-run")
    assert (stream.run_id, stream.output) == ("the-run", None)
    async with stream:
        async for _ in stream:
            pass
    assert stream.output is not None
    assert stream.output.content == "It rains."


async def test_streamed_and_awaited_runs_leave_the_same(any_crew: Crew) -> None:
    any_crew.provider.default = Text("It rains.")
    agent = any_crew.agent()
    awaited = await agent.arun("Go.")
    streamed = (await events_of(agent, yield_run_output=True))[-1]
    assert all(request.stream for request in any_crew.requests()), "awaited runs stream from the provider too"
    fields = set(type(awaited).model_fields) - {"run_id", "session_id", "created_at", "messages", "metrics"}
    for field in fields:
        assert getattr(awaited, field) == getattr(streamed, field), field
    assert [m.content for m in awaited.messages] == [m.content for m in streamed.messages]


async def test_reasoning_is_streamed_beside_the_answer(crew: Crew) -> None:
    events = await events_of(crew.agent("Solo", [Reasoning("Let me think."), Text("It rains.")]))
    assert names(events)[2:6] == [
        "ReasoningStarted",
        "ReasoningContentDelta",
        "ReasoningCompleted",
        "RunContent",
    ]
    deltas = [event.reasoning_content for event in events if event.event == "ReasoningContentDelta"]
    completed = next(event for event in events if event.event == "ReasoningCompleted")
    assert "".join(deltas) == completed.reasoning_content == "Let me think."
    assert events[-1].content == "It rains."


async def test_an_output_keeps_the_reasoning(crew: Crew) -> None:
    output = await crew.agent("Solo", [Reasoning("Let me think."), Text("It rains.")]).arun("Go.")
    assert (output.reasoning_content, output.content) == ("Let me think.", "It rains.")
    assert output.messages[-1].reasoning_content == "Let me think."


def report(context: RunContext) -> str:
    """Report progress."""
    for percent in (10, 90):
        context.report({"percent": percent})
    return "done"


async def areport(context: RunContext) -> str:
    """Report progress."""
    for percent in (10, 90):
        context.report({"percent": percent})
        await anyio.lowlevel.checkpoint()
    return "done"


@pytest.mark.parametrize("function", [report, areport], ids=["sync", "async"])
@pytest.mark.parametrize("last", [False, True], ids=["goes on", "stops"])
async def test_a_tools_progress_is_streamed_while_it_works(crew: Crew, function: Any, last: bool) -> None:
    reporting = tool(stop_after_tool_call=last)(function)
    agent = crew.agent("Solo", ToolCall(function.__name__, id="call-7"), tools=[reporting])
    events = await events_of(agent)
    customs = [event for event in events if event.event == RunEvent.custom_event]
    assert [event.content for event in customs] == [{"percent": 10}, {"percent": 90}]
    assert {event.tool_call_id for event in customs} == {"call-7"}
    assert {event.agent_id for event in customs} == {"solo"}
    assert names(events)[3:6] == ["ToolCallStarted", "CustomEvent", "ToolCallCompleted"]


async def test_a_failed_run_ends_with_its_error(crew: Crew) -> None:
    events = await events_of(crew.agent("Solo", Status(400, "no such model")), stream_events=False)
    assert names(events) == ["RunStarted", "RunError"]
    end = events[-1]
    assert (end.status, end.error_type, end.content) == (RunStatus.error, "ModelStatusError", None)
    assert "no such model" in end.error


async def test_an_output_lists_its_events_where_that_is_wanted(crew: Crew) -> None:
    agent = crew.agent("Solo", Text("It rains."), store_events=True, events_to_skip=[RunEvent.run_content])
    output = await agent.arun("Go.")
    assert output.events is not None
    assert [event.event for event in output.events] == [
        "RunStarted",
        "ModelRequestStarted",
        "ModelRequestCompleted",
        "RunContentCompleted",
        "RunCompleted",
    ]
    assert (await crew.agent().arun("Go.")).events is None
