"""Process tools and commands of a run that is cancelled, from the outside: by process id."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import kern_async
from kern_async import Agent, RunContext, RunStatus, Team
from kern_async.run.base import CustomEvent
from kern_async.testing.scripted import ScriptedModel, call
from kern_async.tools import tool
from kern_async.tools.processes import idle_workers

CANCEL_GRACE = 1.0


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


@tool(isolation="process")
def endless(context: RunContext) -> int:
    """Compute for ever, in C code."""
    context.report(str(os.getpid()))
    return sum(itertools.repeat(0))


@tool(isolation="process")
def deaf(context: RunContext) -> None:
    """Ignore TERM, with two children that do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children = [subprocess.Popen(["sleep", "60"]).pid for _ in range(2)]
    context.report(" ".join(map(str, [os.getpid(), *children])))
    while True:
        time.sleep(60)


async def shell(context: RunContext) -> str:
    """Run a shell with two children."""
    return (await context.run_process("sleep 60 & a=$!; sleep 61 & echo $$ $a $!; wait")).stdout


async def deaf_shell(context: RunContext) -> str:
    """Run a shell with two children, all of which ignore TERM."""
    command = "trap '' TERM; (while :; do sleep 60; done) & a=$!; (while :; do sleep 60; done) & echo $$ $a $!; wait"
    return (await context.run_process(command)).stdout


@tool(isolation="process")
def square(number: int) -> int:
    """The square of a number."""
    if number < 0:
        os._exit(9)
    return number * number


def agent(*turns: Any, tools: list[Any], **options: Any) -> Agent:
    return Agent(
        name="Agent", model=ScriptedModel("model", turns), tools=tools, cancel_grace=CANCEL_GRACE, **options
    )


TOOLS = {
    "endless": (endless, False),
    "deaf": (deaf, True),
    "shell": (shell, False),
    "deaf_shell": (deaf_shell, True),
}


@pytest.mark.parametrize("name", TOOLS)
async def test_a_cancel_leaves_no_process(name: str) -> None:
    function, refuses = TOOLS[name]
    pids: list[int] = []
    began = 0.0
    async with agent(call(name), tools=[function]).arun("Go.", stream=True, stream_events=True) as events:
        async for event in events:
            if isinstance(event, CustomEvent):
                pids = [int(pid) for pid in str(event.content).split()]
                assert all(runs(pid) for pid in pids)
                began = time.monotonic()
                assert kern_async.cancel_run(events.run_id)
    took = time.monotonic() - began
    assert pids
    assert not any(runs(pid) for pid in pids)
    assert (took >= CANCEL_GRACE / 2) is refuses
    assert took < CANCEL_GRACE
    output = events.output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert output.abandoned == []
    assert [work.name for work in output.interrupted or []] == [name]
    assert kern_async.abandoned() == []


@pytest.mark.parametrize("name", TOOLS)
async def test_a_callers_timeout_leaves_no_process(name: str) -> None:
    function, _ = TOOLS[name]
    pids: list[int] = []

    async def main(scope: anyio.CancelScope) -> None:
        async for event in agent(call(name), tools=[function]).arun("Go.", stream=True, stream_events=True):
            if isinstance(event, CustomEvent):
                pids.extend(int(pid) for pid in str(event.content).split())
                scope.cancel()

    with anyio.CancelScope() as scope:
        await main(scope)
    with anyio.fail_after(CANCEL_GRACE + 1):
        while any(runs(pid) for pid in pids):
            await anyio.lowlevel.checkpoint()
    assert pids


async def test_a_runs_deadline_leaves_no_process() -> None:
    assert await square.bind({"number": 2}, RunContext(run_id="r", session_id="s")).call() == 4
    assert idle_workers(), "so that the tool begins at once"
    pids: list[int] = []
    async with agent(call("endless"), tools=[endless]).arun(
        "Go.", stream=True, stream_events=True, timeout=2
    ) as events:
        async for event in events:
            if isinstance(event, CustomEvent):
                pids = [int(str(event.content))]
    assert events.output is not None
    assert events.output.cancelled_by == "deadline"
    assert not runs(pids[0])


async def test_a_model_gets_what_a_process_tool_gives() -> None:
    output = await agent([call("square", number=12), call("square", number=5)], "Done.", tools=[square]).arun(
        "Go."
    )
    assert {execution.result for execution in output.tools or []} == {"144", "25"}
    assert output.content == "Done."


async def test_a_worker_that_dies_is_the_models_to_deal_with() -> None:
    output = await agent(call("square", number=-1), call("square", number=3), "Done.", tools=[square]).arun(
        "Go."
    )
    first, second = output.tools or []
    assert first.tool_call_error
    assert first.result == "square: its worker process ended with exit code 9 while it ran"
    assert second.result == "9"
    assert output.status is RunStatus.completed


async def test_a_team_ends_the_processes_of_all_its_members() -> None:
    members = [
        Agent(name=f"Member {name}", model=ScriptedModel(name, [call(name)]), tools=[TOOLS[name][0]])
        for name in TOOLS
    ]
    team = Team(
        name="Team",
        model=ScriptedModel("leader", ["Never."]),
        members=members,
        mode="broadcast",
        cancel_grace=CANCEL_GRACE,
    )
    pids: list[int] = []
    reports = 0
    began = 0.0
    async with team.arun("Go.", stream=True, stream_events=True) as events:
        async for event in events:
            if isinstance(event, CustomEvent):
                pids += [int(pid) for pid in str(event.content).split()]
                reports += 1
                if reports == len(TOOLS):
                    began = time.monotonic()
                    events.cancel()
    assert time.monotonic() - began < CANCEL_GRACE + 0.5
    assert len(pids) == 10
    assert not any(runs(pid) for pid in pids)
    assert events.output is not None
    assert events.output.abandoned == []


@pytest.mark.parametrize("name", TOOLS)
def test_a_sync_run_leaves_no_process(name: str) -> None:
    pids: list[int] = []
    with agent(call(name), tools=[TOOLS[name][0]]).run("Go.", stream=True, stream_events=True) as events:
        for event in events:
            if isinstance(event, CustomEvent):
                pids = [int(pid) for pid in str(event.content).split()]
                break
    assert pids
    assert not any(runs(pid) for pid in pids)


async def test_a_straggler_starts_no_process(tmp_path: Path) -> None:
    begun = anyio.Event()
    refused: list[BaseException] = []

    async def stubborn(context: RunContext) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await context.run_process(["touch", str(tmp_path / "file")])
                except kern_async.exceptions.RunCancelled as error:
                    refused.append(error)

    async with (
        agent(call("stubborn"), tools=[stubborn]).arun("Go.", stream=True) as events,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_read, events)
        await begun.wait()
        events.cancel()
    assert refused
    assert not (tmp_path / "file").exists()


async def _read(events: Any) -> None:
    async for _ in events:
        pass
