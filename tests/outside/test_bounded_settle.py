"""Code that will not stop holds its run no longer than the grace, and what it does later goes nowhere."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kern_async import RunContext, abandoned, cancel_run
from kern_async.agent.runnable import Runnable
from kern_async.run.base import RunStatus
from kern_async.team import Team
from kern_async.testing import Text, ToolCall

if TYPE_CHECKING:
    from outside.conftest import Stage

GRACE = 0.2
SOON = GRACE + 0.5
"""Seconds after which a settled run is late, on a busy machine too."""


class Stubborn:
    """Awaits until the test releases it, whoever cancels it: `times` times, or however often."""

    def __init__(self, times: int | None = None) -> None:
        self.begun = anyio.Event()
        self.released = anyio.Event()
        self.over = anyio.Event()
        self.swallowed = 0
        self._times = times

    async def wait(self) -> None:
        self.begun.set()
        patience = time.monotonic() + 8  # a test that fails does not release it
        try:
            while not self.released.is_set() and time.monotonic() < patience:
                try:
                    with anyio.move_on_after(8):
                        await self.released.wait()
                except anyio.get_cancelled_exc_class():
                    self.swallowed += 1
                    if self._times is not None and self.swallowed > self._times:
                        raise
        finally:
            self.over.set()

    async def tool(self, context: RunContext) -> str:
        """Refuse to stop."""
        await self.wait()
        context.report("late report")
        return "late result"

    async def hook(self, run_context: RunContext) -> None:
        await self.wait()
        run_context.report("late report")
        run_context.session_state["late"] = True

    async def release(self) -> None:
        self.released.set()
        with anyio.fail_after(5):
            await self.over.wait()
            while abandoned():  # noqa: ASYNC110 - nobody is told when a straggler is struck off
                await anyio.sleep(0.001)


def latency(output: Any) -> float:
    return output.settled_at - output.requested_at


async def cancelled_run(stage: Stage, agent: Runnable[Any, Any], *begun: anyio.Event) -> Any:
    """The output of a run of `agent` that is cancelled when all its stubborn parts have begun."""

    async def cancel() -> None:
        for each in begun:
            await each.wait()
        stage.keep()
        assert cancel_run(stage.RUN) is True

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        return await agent.arun("go", run_id=stage.RUN)


async def nothing_came_after(stage: Stage, count: int) -> None:
    """Whatever a straggler posted to this loop has arrived; the log is as it was."""
    await anyio.wait_all_tasks_blocked()
    run = stage.run
    assert len(run.log.events) == count
    assert "late" not in run.log.events[-1].to_json()
    stage.check("request")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_that_swallows_every_cancel_is_left_after_the_grace(
    stage: Stage, streamed: bool
) -> None:
    stubborn = Stubborn()
    stage.provider.reply(ToolCall("tool", id="call-7"))
    agent = stage.agent(tools=[stubborn.tool], cancel_grace=GRACE)
    if streamed:
        async with agent.arun("go", stream=True, run_id=stage.RUN) as events:
            await stubborn.begun.wait()
            stage.keep()
            assert events.cancel() is True
            async for _ in events:
                pass
        output = events.output
        assert output is not None
    else:
        output = await cancelled_run(stage, agent, stubborn.begun)
    assert GRACE <= latency(output) < SOON
    assert not stubborn.over.is_set()
    (work,) = output.abandoned
    assert (work.kind, work.name, work.run_id, work.tool_call_id) == ("tool", "tool", stage.RUN, "call-7")
    assert abandoned() == [work]
    assert [(work.kind, work.name) for work in output.interrupted] == [("tool", "tool")]
    assert [(tool.tool_call_id, tool.result) for tool in output.tools] == [("call-7", "cancelled")]
    await stage.ended("request")
    count = len(stage.run.log.events)
    await stubborn.release()
    await nothing_came_after(stage, count)
    assert [tool.result for tool in output.tools] == ["cancelled"]
    assert "late" not in output.to_json()
    assert len(stage.provider.requests) == 1


async def test_a_tool_that_swallows_one_cancel_is_cancelled_again_and_not_left(stage: Stage) -> None:
    stubborn = Stubborn(times=1)
    stage.provider.reply(ToolCall("tool"))
    output = await cancelled_run(stage, stage.agent(tools=[stubborn.tool], cancel_grace=2.0), stubborn.begun)
    assert stubborn.over.is_set()
    assert stubborn.swallowed == 2
    assert latency(output) < 2
    assert output.abandoned == []
    assert abandoned() == []
    await stage.ended("request")


async def test_what_a_tool_awaits_in_its_own_clean_up_has_half_of_the_grace(stage: Stage) -> None:
    begun, cleaned = anyio.Event(), anyio.Event()

    async def tool() -> None:
        """Roll back when cancelled."""
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)  # four times as long as a second cancel might be thought to wait
            cleaned.set()

    stage.provider.reply(ToolCall("tool"))
    output = await cancelled_run(stage, stage.agent(tools=[tool], cancel_grace=2.0), begun)
    assert cleaned.is_set()
    assert output.abandoned == []
    await stage.ended("request")


@pytest.mark.parametrize("when", ["pre_hooks", "post_hooks"])
async def test_a_hook_that_swallows_every_cancel_is_left_after_the_grace(stage: Stage, when: str) -> None:
    stubborn = Stubborn()
    stage.provider.default = Text("said")
    hooks: dict[str, Any] = {when: [stubborn.hook]}
    agent = stage.agent(cancel_grace=GRACE, **hooks)
    output = await cancelled_run(stage, agent, stubborn.begun)
    assert GRACE <= latency(output) < SOON
    (work,) = output.abandoned
    assert (work.kind, work.name, work.run_id, work.tool_call_id) == ("hook", "hook", stage.RUN, None)
    assert abandoned() == [work]
    assert output.content == ("said" if when == "post_hooks" else None)
    count = len(stage.run.log.events)
    await stubborn.release()
    await nothing_came_after(stage, count)
    assert output.session_state == {}


async def test_a_hook_that_swallows_one_cancel_is_cancelled_again_and_not_left(stage: Stage) -> None:
    stubborn = Stubborn(times=1)
    output = await cancelled_run(
        stage, stage.agent(pre_hooks=[stubborn.hook], cancel_grace=2.0), stubborn.begun
    )
    assert stubborn.over.is_set()
    assert latency(output) < 2
    assert output.abandoned == []
    assert stage.provider.requests == []
    await stage.ended("request")


async def test_a_stubborn_tool_delays_a_cancel_from_outside_no_longer_than_the_grace(stage: Stage) -> None:
    stubborn = Stubborn()
    stage.provider.reply(ToolCall("tool"))
    began: list[float] = []
    with anyio.move_on_after(30) as scope:
        async with anyio.create_task_group() as group:

            async def outside() -> None:
                await stubborn.begun.wait()
                stage.keep()
                began.append(time.monotonic())
                scope.cancel()

            group.start_soon(outside)
            await stage.agent(tools=[stubborn.tool], cancel_grace=GRACE).arun("go", run_id=stage.RUN)
    assert GRACE <= time.monotonic() - began[0] < SOON
    await stubborn.release()
    await stage.ended("caller")
    assert stage.run.output is not None
    assert [work.name for work in stage.run.output.abandoned] == ["tool"]


async def test_a_cancel_from_outside_is_claimed_when_it_is_felt_not_when_all_has_settled(
    stage: Stage,
) -> None:
    stubborn = Stubborn(times=1)
    told: list[bool] = []

    async def tool(context: RunContext) -> None:
        """Look what the context says while the cut is felt."""
        try:
            await stubborn.wait()
        finally:
            told.append(context.cancelled)
            told.append(cancel_run(stage.RUN, reason="too late to be the reason"))

    stage.provider.reply(ToolCall("tool"))
    with anyio.move_on_after(30) as scope:
        async with anyio.create_task_group() as group:

            async def outside() -> None:
                await stubborn.begun.wait()
                stage.keep()
                scope.cancel()

            group.start_soon(outside)
            await stage.agent(tools=[tool]).arun("go", run_id=stage.RUN)
    assert told == [True, True]
    await stage.ended("caller")
    assert stage.run.output is not None
    assert stage.run.output.reason is None


async def test_the_grace_is_the_roots_and_counts_once_for_the_whole_tree(stage: Stage) -> None:
    stubborn = [Stubborn(), Stubborn()]
    members = [
        stage.agent(f"Member {n}", tools=[each.tool], cancel_grace=2.0) for n, each in enumerate(stubborn)
    ]
    inner = Team(name="Inner", model=stage.model, members=members, mode="broadcast", cancel_grace=2.0)
    outer = Team(name="Outer", model=stage.model, members=[inner], mode="broadcast", cancel_grace=GRACE)
    stage.provider.reply(ToolCall("tool"), times=2)
    output = await cancelled_run(stage, outer, *(each.begun for each in stubborn))
    assert GRACE <= latency(output) < SOON
    below = stage.run.children[0].children
    assert {work.run_id for work in output.abandoned} == {run.id for run in below}
    for run in below:
        assert run.output is not None
        assert [work.run_id for work in run.output.abandoned] == [run.id]
    await stage.ended("request")
    for each in stubborn:
        each.released.set()
    for each in stubborn:
        await each.release()


@pytest.mark.parametrize("place", ["tool", "hook"])
async def test_a_thread_is_left_at_once_and_listed_until_it_ends(stage: Stage, place: str) -> None:
    begun, released = threading.Event(), threading.Event()
    contexts: list[RunContext] = []

    def wait(context: RunContext) -> str:
        contexts.append(context)
        begun.set()
        assert released.wait(30)
        context.report("late report")
        return "late result"

    def tool(context: RunContext) -> str:
        """Sleep."""
        return wait(context)

    def hook(run_context: RunContext) -> None:
        wait(run_context)

    stage.provider.reply(ToolCall("tool", id="call-7"))
    options: dict[str, Any] = {"tools": [tool]} if place == "tool" else {"pre_hooks": [hook]}
    agent = stage.agent(cancel_grace=2.0, **options)
    async with agent.arun("go", stream=True, run_id=stage.RUN) as events:
        await stage.provider.await_until(begun.is_set)
        stage.keep()
        assert events.cancel() is True
        async for _ in events:
            pass
    output = events.output
    assert output is not None
    assert latency(output) < 2
    assert contexts[0].cancelled
    (work,) = output.abandoned
    call = "call-7" if place == "tool" else None
    assert (work.kind, work.name, work.run_id, work.tool_call_id) == ("thread", place, stage.RUN, call)
    assert abandoned() == [work]
    await stage.ended("request")
    count = len(stage.run.log.events)
    released.set()
    await stage.provider.await_until(lambda: not abandoned())
    await nothing_came_after(stage, count)
    assert "late" not in output.to_json()


def test_close_of_a_sync_stream_waits_no_longer_than_the_grace(stage: Stage) -> None:
    begun, released, over = threading.Event(), threading.Event(), threading.Event()

    async def tool() -> str:
        """Refuse to stop."""
        begun.set()
        while not released.is_set():
            try:
                await anyio.sleep(0.01)
            except anyio.get_cancelled_exc_class():
                continue
        over.set()
        return "late result"

    stage.provider.reply(ToolCall("tool"))
    events = stage.agent(tools=[tool], cancel_grace=GRACE).run("go", stream=True, run_id=stage.RUN)
    next(events)
    stage.keep()
    assert begun.wait(10)
    events.close()
    assert not over.is_set()
    output = events.output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert latency(output) < SOON
    assert [work.name for work in output.abandoned] == ["tool"]
    released.set()
    assert over.wait(10)
    stage.settled("consumer")
