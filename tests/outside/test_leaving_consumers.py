"""A consumer that leaves ends its run, as `cancelled_by=consumer`, and whatever it raises stays as it is."""

from __future__ import annotations

import gc
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from kern_async.run.base import RunStatus
from kern_async.testing import Forever, Hang, Text, ToolCall

if TYPE_CHECKING:
    from outside.conftest import Stage

Check = Callable[[], None]


async def until_text(stage: Stage, events: Any) -> None:
    """Read up to the first text, and keep the run."""
    async for event in events:
        if event.event == "RunContent":
            stage.keep()
            return


async def raised_by(consume: Callable[[], Awaitable[object]]) -> Exception | None:
    try:
        await consume()
    except Exception as exc:
        return exc
    return None


async def rest(events: Any) -> list[str]:
    return [event.event async for event in events if event.event != "RunContent"]


async def test_a_break_out_of_an_unnamed_stream_ends_the_run(stage: Stage, same_cancels: Check) -> None:
    async for event in stage.team().arun("go", stream=True, run_id=stage.RUN):
        if event.event == "RunContent":
            stage.keep()
            break
    await stage.ended("consumer")
    same_cancels()


async def test_a_return_out_of_an_unnamed_stream_ends_the_run(stage: Stage) -> None:
    async def seek() -> str:
        async for event in stage.team().arun("go", stream=True, run_id=stage.RUN):
            if event.event == "RunContent":
                stage.keep()
                return event.content
        raise AssertionError

    assert await seek()
    await stage.ended("consumer")


async def test_a_break_out_of_a_named_stream_leaves_the_run_to_who_holds_it(stage: Stage) -> None:
    events = stage.team().arun("go", stream=True, run_id=stage.RUN)
    await until_text(stage, events)
    assert not stage.run.cancelling
    assert (await anext(events)).event in {"RunStarted", "RunContent"}
    assert not stage.run.cancelling
    await events.aclose()
    await stage.ended("consumer")


async def test_an_unread_named_stream_is_held_by_the_gate(stage: Stage) -> None:
    stage.provider.default = Forever(interval=0.0001)
    events = stage.agent().arun("go", stream=True, run_id=stage.RUN)
    await until_text(stage, events)
    with anyio.fail_after(10):
        while not stage.run.log.full:  # noqa: ASYNC110 - being full has no event
            await anyio.sleep(0.001)
    held = len(stage.run.log.events)
    await anyio.sleep(0.05)
    assert len(stage.run.log.events) == held
    with anyio.fail_after(2):
        await events.aclose()
    await stage.ended("consumer")


async def test_a_break_inside_its_block_ends_the_run(stage: Stage, same_cancels: Check) -> None:
    async with stage.team().arun("go", stream=True, run_id=stage.RUN) as events:
        await until_text(stage, events)
    assert stage.run.ended
    same_cancels()
    await stage.ended("consumer")
    assert events.output is stage.run.output
    assert await rest(events) == []


async def test_a_block_left_unread_ends_the_run(stage: Stage) -> None:
    async with stage.team().arun("go", stream=True, run_id=stage.RUN):
        await stage.streaming()
    await stage.ended("consumer")


@pytest.mark.parametrize("leave", ["break", "raise"])
async def test_contextlibs_aclosing_closes_a_stream(stage: Stage, leave: str) -> None:
    error = ValueError("mine")

    async def consume() -> None:
        async with aclosing(stage.team().arun("go", stream=True, run_id=stage.RUN)) as events:
            await until_text(stage, events)
            if leave == "raise":
                raise error

    assert await raised_by(consume) is (error if leave == "raise" else None)
    assert stage.run.ended
    await stage.ended("consumer")


@pytest.mark.parametrize("kind", ["agent", "team"])
async def test_aclose_from_another_task_gives_the_waiting_reader_the_terminal_event(
    stage: Stage, kind: str
) -> None:
    stage.provider.default = Hang()
    who: Any = stage.agent() if kind == "agent" else stage.team()
    events = who.arun("go", stream=True, run_id=stage.RUN)
    seen: list[str] = []

    async def read() -> None:
        seen.extend(await rest(events))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await stage.provider.await_for_request(1 if kind == "agent" else 2)
        stage.keep()
        await anyio.wait_all_tasks_blocked()
        await events.aclose()
        assert stage.run.ended
    assert seen == (
        ["RunStarted", "RunCancelled"]
        if kind == "agent"
        else ["TeamRunStarted", *["RunStarted"] * 2, *["RunCancelled"] * 2, "TeamRunCancelled"]
    )
    await stage.ended("consumer")


async def test_aclose_may_be_called_again_and_at_once_from_several_tasks(stage: Stage) -> None:
    events = stage.team().arun("go", stream=True, run_id=stage.RUN)
    await until_text(stage, events)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(events.aclose)
    await events.aclose()
    await stage.ended("consumer")
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_aclose_after_the_end_leaves_the_end(stage: Stage) -> None:
    stage.provider.default = Text("all said")
    events = stage.agent().arun("go", stream=True, run_id=stage.RUN)
    assert await rest(events) == ["RunStarted", "RunCompleted"]
    await events.aclose()
    assert events.output is not None
    assert events.output.status is RunStatus.completed


async def test_aclose_before_the_start_ends_a_pending_run_without_a_request(stage: Stage) -> None:
    events = stage.agent().arun("go", stream=True, run_id=stage.RUN)
    run = stage.run
    await events.aclose()
    await stage.ended("consumer", run)
    assert run.output is not None
    assert run.output.cancellation_stage == "PENDING"
    assert stage.provider.requests == []


async def test_athrow_ends_the_run_and_raises_what_it_was_given(stage: Stage, same_cancels: Check) -> None:
    events = stage.team().arun("go", stream=True, run_id=stage.RUN)
    await until_text(stage, events)
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        await events.athrow(error)
    assert caught.value is error
    assert stage.run.ended
    same_cancels()
    await stage.ended("consumer")


async def test_a_dropped_stream_ends_its_run(stage: Stage) -> None:
    events = stage.team().arun("go", stream=True, run_id=stage.RUN)
    await until_text(stage, events)
    del events
    gc.collect()
    await stage.ended("consumer")


async def test_a_stream_in_a_garbage_cycle_ends_its_run_when_it_is_collected(stage: Stage) -> None:
    gc.disable()
    try:
        cycle: dict[str, Any] = {"events": stage.team().arun("go", stream=True, run_id=stage.RUN)}
        cycle["self"] = cycle
        await until_text(stage, cycle["events"])
        del cycle
        assert not stage.run.cancelling
        await anyio.to_thread.run_sync(gc.collect)
    finally:
        gc.enable()
    await stage.ended("consumer")


async def test_a_stream_dropped_in_another_thread_ends_its_run(stage: Stage) -> None:
    held = [stage.team().arun("go", stream=True, run_id=stage.RUN)]
    await until_text(stage, held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    await stage.ended("consumer")


def test_a_sync_stream_dropped_in_another_thread_ends_its_run(stage: Stage) -> None:
    held = [stage.team().run("go", stream=True, run_id=stage.RUN)]
    next(e for e in held[0] if e.event == "RunContent")
    run = stage.run
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    stage.settled("consumer", run)


@pytest.mark.parametrize("how", ["unnamed", "named", "block"])
async def test_what_the_consumer_raises_comes_out_unchanged(
    stage: Stage, how: str, same_cancels: Check
) -> None:
    error = ValueError("mine")

    async def unnamed() -> None:
        async for event in stage.team().arun("go", stream=True, run_id=stage.RUN):
            if event.event == "RunContent":
                stage.keep()
                raise error

    async def named() -> None:
        events = stage.team().arun("go", stream=True, run_id=stage.RUN)
        await until_text(stage, events)
        raise error

    async def block() -> None:
        async with stage.team().arun("go", stream=True, run_id=stage.RUN) as events:
            await until_text(stage, events)
            raise error

    assert await raised_by({"unnamed": unnamed, "named": named, "block": block}[how]) is error
    assert error.__context__ is None
    if how == "named":  # its frame, and so the stream, lives as long as the traceback
        assert not stage.run.cancelling
    error.__traceback__ = None
    same_cancels()
    await stage.ended("consumer")


async def test_streams_may_be_interleaved_and_closed_in_any_order(stage: Stage) -> None:
    one = stage.agent().arun("go", stream=True, run_id="one")
    two = stage.agent().arun("go", stream=True, run_id="two")
    await one.__aenter__()
    await two.__aenter__()
    first, second = stage.keep("one"), stage.keep("two")
    for events in (one, two, one, two):
        await anext(events)
    await one.__aexit__(None, None, None)
    await stage.provider.await_until(lambda: stage.provider.open_requests == 1)
    assert first.ended
    assert not second.cancelling
    assert (await anext(two)).event == "RunContent"
    await two.__aexit__(None, None, None)
    await stage.ended("consumer", first)
    await stage.ended("consumer", second)


async def test_a_stream_may_be_entered_and_left_in_different_tasks(stage: Stage) -> None:
    events = stage.team().arun("go", stream=True, run_id=stage.RUN)

    async def leave() -> None:
        await events.__aexit__(None, None, None)

    async with anyio.create_task_group() as group:
        group.start_soon(events.__aenter__)
        await stage.streaming()
    async with anyio.create_task_group() as group:
        group.start_soon(leave)
    await stage.ended("consumer")


async def test_a_tool_may_close_the_stream_of_its_own_run_without_waiting_for_itself(stage: Stage) -> None:
    held: list[Any] = []

    async def leave() -> str:
        """Leave."""
        stage.keep()
        await held[0].aclose()
        await anyio.sleep_forever()
        return "never"

    stage.provider.reply(ToolCall("leave"))
    held.append(stage.agent(tools=[leave], cancel_grace=0.5).arun("go", stream=True, run_id=stage.RUN))
    with anyio.fail_after(2):
        async for _ in held[0]:
            pass
    await stage.ended("consumer")


@pytest.mark.parametrize("how", ["break", "close", "block", "del"])
def test_a_sync_consumer_that_leaves_ends_its_run(stage: Stage, how: str) -> None:
    if how == "break":
        for event in stage.team().run("go", stream=True, run_id=stage.RUN):
            if event.event == "RunContent":
                stage.keep()
                break
    else:
        events = stage.team().run("go", stream=True, run_id=stage.RUN)
        next(e for e in events if e.event == "RunContent")
        stage.keep()
        if how == "close":
            events.close()
            assert stage.run.ended
            assert list(events) == []
            events.close()
        elif how == "block":
            with events:
                pass
            assert stage.run.ended
        del events
    stage.settled("consumer")


def test_what_a_sync_consumer_raises_comes_out_unchanged(stage: Stage) -> None:
    error = ValueError("mine")
    events = stage.team().run("go", stream=True, run_id=stage.RUN)
    with pytest.raises(ValueError, match="mine") as caught, events:
        next(e for e in events if e.event == "RunContent")
        stage.keep()
        raise error
    assert caught.value is error
    stage.settled("consumer")


def test_close_in_another_thread_gives_the_waiting_reader_the_terminal_event(stage: Stage) -> None:
    stage.provider.default = Hang()
    events = stage.team().run("go", stream=True, run_id=stage.RUN)
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(e.event for e in events))
    reader.start()
    stage.provider.wait_for_request(2)
    stage.keep()
    events.close()
    reader.join(5)
    assert seen == ["TeamRunStarted", *["RunStarted"] * 2, *["RunCancelled"] * 2, "TeamRunCancelled"]
    stage.settled("consumer")
