"""MCP tools in runs: an agent's own loop, cancel and events."""

from __future__ import annotations

import anyio

from kern_async import Agent, RunStatus
from kern_async.testing.scripted import ScriptedModel, call
from kern_async.tools.mcp import MCPTools

from .conftest import OldServer


async def test_a_cancelled_run_leaves_the_call_at_once_and_the_server_is_told(old: OldServer) -> None:
    async with MCPTools(old.command(), env=old.env) as tools:
        model = ScriptedModel(turns=[[call("hang"), call("echo", x=1)]])
        agent = Agent(model=model, tools=list(tools.functions.values()))
        stream = agent.arun("go", stream=True, stream_events=True)
        echoed = anyio.Event()

        async def read() -> None:
            async with stream:
                async for event in stream:
                    if event.event == "ToolCallCompleted":
                        echoed.set()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            called = await old.fact("called")
            await echoed.wait()
            began = anyio.current_time()
            assert agent.cancel_run(stream.run_id)
        assert anyio.current_time() - began < 0.5, "half of the grace would mean that the call had to be cut"
        output = stream.output
        assert output
        assert output.status is RunStatus.cancelled
        assert [work.name for work in output.interrupted or ()] == ["hang"]
        assert not output.abandoned
        results = {tool.tool_name: tool.result for tool in output.tools or ()}
        assert results == {"hang": "cancelled", "echo": '{"x": 1}'}
        assert await old.fact("cancelled") == called
        assert len(old.facts("pid")) == 1


async def test_progress_is_an_event_of_the_run_with_the_calls_id(old: OldServer) -> None:
    async with MCPTools(old.command()) as tools:
        count = call("count")
        model = ScriptedModel(turns=[count, "done"])
        agent = Agent(model=model, tools=list(tools.functions.values()))
        async with agent.arun("go", stream=True, stream_events=True) as stream:
            progress = [event async for event in stream if event.event == "CustomEvent"]
    assert sorted(event.content for event in progress) == ["1/2", "2/2"]
    assert {event.tool_call_id for event in progress} == {count.id}


async def test_a_server_that_dies_is_a_tool_error_and_not_the_end_of_the_run(old: OldServer) -> None:
    async with MCPTools(old.command(), env=old.env) as tools:
        model = ScriptedModel(turns=[call("die"), call("fail"), "I am sorry"])
        output = await Agent(model=model, tools=list(tools.functions.values())).arun("go")
    assert output.status is RunStatus.completed
    assert output.tools
    died, failed = output.tools
    assert "has ended or cut the connection" in (died.result or "")
    assert failed.result == "no such file"
    assert died.tool_call_error
    assert failed.tool_call_error
    assert len(old.facts("pid")) == 2
