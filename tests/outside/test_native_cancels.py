"""A cancel from outside ends the run and goes on as itself, untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import pytest

from kern_async import abandoned, cancel_run
from kern_async.testing import Hang, ToolCall

if TYPE_CHECKING:
    from outside.conftest import Stage, Way

    from kern_async.engine.run import Run

ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
Check = Callable[[], None]


async def test_fail_after_ends_the_run_and_times_out(stage: Stage, way: Way, same_cancels: Check) -> None:
    async with anyio.create_task_group() as group:
        with pytest.raises(TimeoutError) as caught:
            with anyio.fail_after(30) as scope:
                group.start_soon(
                    stage.when_streaming, lambda: setattr(scope, "deadline", anyio.current_time())
                )
                await way(stage)
        assert type(caught.value) is TimeoutError
    same_cancels()
    await stage.ended("caller")


async def test_move_on_after_ends_the_run_and_moves_on(stage: Stage, way: Way, same_cancels: Check) -> None:
    async with anyio.create_task_group() as group:
        with anyio.move_on_after(30) as scope:
            group.start_soon(stage.when_streaming, lambda: setattr(scope, "deadline", anyio.current_time()))
            await way(stage)
        assert scope.cancelled_caught
    same_cancels()
    await stage.ended("caller")


@ASYNCIO
async def test_asyncio_timeout_ends_the_run_and_times_out(
    stage: Stage, way: Way, same_cancels: Check
) -> None:
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as group:
        timeout = asyncio.timeout(30)
        with pytest.raises(TimeoutError) as caught:
            async with timeout:
                group.start_soon(stage.when_streaming, lambda: timeout.reschedule(loop.time()))
                await way(stage)
        assert type(caught.value) is TimeoutError
        assert timeout.expired()
    same_cancels()
    await stage.ended("caller")


@ASYNCIO
async def test_wait_for_one_event_ends_the_run_when_it_times_out(stage: Stage, same_cancels: Check) -> None:
    events = stage.agent().arun("go", stream=True, run_id=stage.RUN)
    stage.keep()
    stage.provider.default = Hang()
    assert (await anext(events)).event == "RunStarted"
    await stage.provider.await_for_request()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(events), 0.01)
    same_cancels()
    await stage.ended("caller")
    assert [event.event async for event in events] == ["RunCancelled"]


async def cancelled_by(
    stage: Stage, way: Way, cancel: Callable[[asyncio.Task[None]], object]
) -> tuple[asyncio.CancelledError, int]:
    """Cancel a task that runs in this way; the exception that came out in it, and its `cancelling()` then."""
    seen: list[tuple[asyncio.CancelledError, int]] = []

    async def main() -> None:
        try:
            await way(stage)
        except asyncio.CancelledError as exc:
            seen.append((exc, task.cancelling()))
            raise

    task = asyncio.create_task(main())
    await stage.streaming()
    cancel(task)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert len(seen) == 1
    return seen[0]


@ASYNCIO
async def test_a_cancelled_task_ends_its_run(stage: Stage, way: Way) -> None:
    exc, count = await cancelled_by(stage, way, lambda task: task.cancel("mine"))
    assert type(exc) is asyncio.CancelledError
    assert exc.args == ("mine",)
    assert count == 1
    await stage.ended("caller")


@ASYNCIO
async def test_a_task_cancelled_twice_at_once_ends_its_run(stage: Stage, way: Way) -> None:
    exc, count = await cancelled_by(stage, way, lambda task: (task.cancel(), task.cancel()))
    assert type(exc) is asyncio.CancelledError
    assert count == 2
    await stage.ended("caller")


@ASYNCIO
@pytest.mark.parametrize("native_first", [True, False])
async def test_a_native_cancel_beside_cancel_run_gets_through(
    stage: Stage, way: Way, native_first: bool
) -> None:
    def cancel(task: asyncio.Task[None]) -> None:
        if native_first:
            task.cancel()
        assert cancel_run(stage.RUN) is True
        if not native_first:
            task.cancel()

    exc, count = await cancelled_by(stage, way, cancel)
    assert type(exc) is asyncio.CancelledError
    assert count == 1
    await stage.ended("request")


async def test_cancel_run_leaves_the_awaiting_task_alone(stage: Stage, same_cancels: Check) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(stage.when_streaming, lambda: cancel_run(stage.RUN))
        output = await stage.team().arun("go", run_id=stage.RUN)
        assert output.is_cancelled
        same_cancels()
        await anyio.lowlevel.checkpoint()
    await stage.ended("request")


async def test_a_failing_sibling_ends_the_run(stage: Stage, way: Way, same_cancels: Check) -> None:
    error = ValueError("sibling")
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as group:
            group.start_soon(way, stage)
            await stage.streaming()
            raise error
    assert caught.value.exceptions == (error,)
    same_cancels()
    await stage.ended("caller")


@ASYNCIO
async def test_a_failing_sibling_in_asyncios_task_group_ends_the_run(
    stage: Stage, way: Way, same_cancels: Check
) -> None:
    error = ValueError("sibling")
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(way(stage)))
            await stage.streaming()
            raise error
    assert caught.value.exceptions == (error,)
    assert [task.cancelled() for task in tasks] == [True]
    same_cancels()
    await stage.ended("caller")


async def test_a_cancel_reaches_the_run_that_an_async_tool_awaits(stage: Stage, same_cancels: Check) -> None:
    inner = stage.agent("Inner")

    async def ask() -> str:
        """Ask the other agent."""
        return str((await inner.arun("inner question", run_id="inner")).content)

    stage.provider.reply(ToolCall("ask"))
    kept: list[Run] = []
    with anyio.move_on_after(30) as scope:
        async with anyio.create_task_group() as group:

            async def outside() -> None:
                await stage.streaming(1)
                kept.append(stage.keep("inner"))
                stage.keep()
                scope.cancel()

            group.start_soon(outside)
            await stage.agent(tools=[ask]).arun("go", run_id=stage.RUN)
    assert scope.cancelled_caught
    same_cancels()
    (inside,) = kept
    assert inside.ended
    await stage.ended("caller", inside)
    await stage.ended("caller")
    assert inside.output is not None
    assert stage.run.output is not None
    assert inside.output.settled_at is not None
    assert stage.run.output.settled_at is not None
    assert inside.output.settled_at <= stage.run.output.settled_at
    assert [work.name for work in stage.run.output.interrupted] == ["ask"]


class Slow:
    """A tool that goes on after a cancel until the test lets it end."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.cancelled = anyio.Event()
        self.let_end = anyio.Event()

    async def slow(self) -> None:
        """Take long."""
        self.begun.set()
        while not self.let_end.is_set():
            try:
                await self.let_end.wait()
            except anyio.get_cancelled_exc_class():
                self.cancelled.set()


@ASYNCIO
async def test_a_second_cancel_of_the_awaiting_task_does_not_wait_for_the_grace(stage: Stage) -> None:
    slow = Slow()
    stage.provider.reply(ToolCall("slow"))
    task = asyncio.create_task(stage.agent(tools=[slow.slow], cancel_grace=30.0).arun("go", run_id=stage.RUN))
    await slow.begun.wait()
    stage.keep()
    task.cancel()
    await slow.cancelled.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
    assert task.cancelling() == 2
    await stage.ended("caller")
    assert stage.run.output is not None
    assert [work.name for work in stage.run.output.abandoned] == ["slow"]
    assert [work.name for work in abandoned()] == ["slow"]
    slow.let_end.set()


@ASYNCIO
async def test_a_second_cancel_of_the_reading_task_leaves_the_rest_to_the_run(stage: Stage) -> None:
    slow = Slow()
    stage.provider.reply(ToolCall("slow"))
    events = stage.agent(tools=[slow.slow], cancel_grace=30.0).arun("go", stream=True, run_id=stage.RUN)

    async def main() -> None:
        async for _ in events:
            pass

    task = asyncio.create_task(main())
    await slow.begun.wait()
    stage.keep()
    task.cancel()
    await slow.cancelled.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
    assert not stage.run.ended
    slow.let_end.set()
    await stage.ended("caller")
    assert [event.event async for event in events] == ["RunCancelled"]
