"""MCP tools in runs: an agent's own loop, cancel and events."""

from __future__ import annotations

import sys
import time
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team, cancel_run
from kern_async.testing.scripted import ScriptedModel, call
from kern_async.tools.mcp import MCPTools

from .conftest import OldServer, is_alive


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


async def test_an_agent_s_own_server_is_started_at_its_first_run_and_serves_the_next(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    assert old.facts("pid") == []
    try:
        for number in range(2):
            model = ScriptedModel(turns=[call("echo", x=number), "done"])
            output = await Agent(model=model, tools=[tools]).arun("go")
            assert output.status is RunStatus.completed
            assert [tool.result for tool in output.tools] == [f'{{"x": {number}}}']
            assert "echo" in [spec.name for spec in model.requests[0].tools]
        (pid,) = old.facts("pid")
    finally:
        await tools.close()
    assert not is_alive(pid)


async def test_a_member_s_server_stops_with_the_team(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    member = Agent(name="Member", model=ScriptedModel(turns=[call("hang")]), tools=[tools])
    leader = ScriptedModel(turns=[call("delegate_task_to_member", member_id="member", task="go")])
    team = Team([member], name="Team", model=leader)
    try:
        async with team.arun("go", stream=True) as stream, anyio.create_task_group() as group:

            async def cancel() -> None:
                await old.fact("called")
                assert cancel_run(stream.run_id)

            group.start_soon(cancel)
            async for _ in stream:
                pass
        assert await old.fact("cancelled")
    finally:
        await tools.close()


async def test_a_server_that_cannot_be_had_is_a_warning_and_the_run_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    broken = MCPTools([sys.executable, "-c", "raise SystemExit(3)"], name="broken")
    model = ScriptedModel(turns=[call("add", a=1, b=2), "three"])
    try:
        output = await Agent(model=model, tools=[broken, add]).arun("go")
    finally:
        await broken.close()
    assert output.status is RunStatus.completed
    assert output.content == "three"
    (record,) = [record for record in caplog.records if "tools.unavailable" in record.getMessage()]
    assert "broken" in record.getMessage()


async def test_a_run_is_cancelled_while_its_server_does_not_answer(old: OldServer) -> None:
    silent = MCPTools([sys.executable, "-c", "import sys; sys.stdin.read()"], timeout_seconds=30)
    model = ScriptedModel(turns=["never"])
    agent = Agent(model=model, tools=[silent], cancel_grace=1)
    try:
        async with agent.arun("go", stream=True) as stream:
            await anext(stream)
            began = time.monotonic()
            assert stream.cancel()
            async for _ in stream:
                pass
            assert time.monotonic() - began < 2
        assert stream.output is not None
        assert stream.output.status is RunStatus.cancelled
        assert model.requests == []
    finally:
        await silent.close()


async def test_a_name_that_is_there_twice_ends_the_run_with_an_error(old: OldServer) -> None:
    def echo(x: int) -> int:
        return x

    tools = MCPTools(old.command(), env=old.env)
    try:
        output = await Agent(model=ScriptedModel(turns=["never"]), tools=[tools, echo]).arun("go")
    finally:
        await tools.close()
    assert output.status is RunStatus.error
    assert output.error_type == "ConfigurationError"
    assert "two tools are called 'echo'" in (output.error or "")


def test_without_an_event_loop_too(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    model = ScriptedModel(turns=[call("echo", x=1), "done"])

    async def close(_request: Any) -> None:
        await tools.close()

    output = Agent(model=model, tools=[tools]).run("go")
    assert [tool.result for tool in output.tools] == ['{"x": 1}']
    (pid,) = old.facts("pid")
    Agent(model=ScriptedModel(turns=[[close, "closed"]])).run("go")
    assert not is_alive(pid)
