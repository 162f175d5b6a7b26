"""The event log: nothing is lost to a reader, nobody is held but by the run's own reader (D4, I8)."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.to_thread

from kern_async import Agent, RunStatus
from kern_async.engine.log import GATE_LIMIT, EventLog
from kern_async.run.base import BaseEvent
from kern_async.testing.scripted import ScriptedModel


def event(number: int) -> BaseEvent:
    return BaseEvent(event="RunContent", run_id="r", session_id="s", event_index=number, content=str(number))


async def test_a_cursor_loses_no_event_to_a_cancelled_wait() -> None:
    log = EventLog()
    cursor = log.cursor(gate=False, brief=False)
    got: list[Any] = []
    for number in range(50):
        with anyio.move_on_after(0):
            await cursor.wait()
        log.append(event(number))
        if number % 3 == 0:
            while (item := cursor.take()) is not None:
                got.append(item.event_index)
    while (item := cursor.take()) is not None:
        got.append(item.event_index)
    assert got == list(range(50))


async def test_readers_in_tasks_and_threads_all_get_everything_in_order() -> None:  # noqa: C901 - two readers
    log = EventLog()
    got: dict[str, list[int]] = {"task": [], "thread": []}

    def read_in_thread() -> None:
        cursor = log.cursor(gate=False, brief=False)
        while not cursor.exhausted:
            while (item := cursor.take()) is not None:
                got["thread"].append(item.event_index)
            if not cursor.exhausted:
                cursor.wait_in_thread()

    async def read() -> None:
        cursor = log.cursor(gate=False, brief=False)
        while not cursor.exhausted:
            while (item := cursor.take()) is not None:
                got["task"].append(item.event_index)
            if not cursor.exhausted:
                await cursor.wait()

    thread = threading.Thread(target=read_in_thread)
    thread.start()
    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for number in range(500):
            log.append(event(number))
            if number % 7 == 0:
                await anyio.lowlevel.checkpoint()
        log.close()
    await anyio.to_thread.run_sync(thread.join)
    assert got == {"task": list(range(500)), "thread": list(range(500))}


async def test_a_slow_reader_holds_its_run_back_and_a_cancel_ends_the_held_run() -> None:
    held = anyio.Event()

    async def too_much(_request: Any) -> None:
        held.set()

    words = [f"{n} " for n in range(2 * GATE_LIMIT)]
    model = ScriptedModel("chatty", [[*words[:GATE_LIMIT], too_much, *words[GATE_LIMIT:]]])
    stream = Agent(name="a", model=model).arun("go", stream=True)
    async with stream:
        first = await anext(stream)
        assert first.event == "RunStarted"
        await anyio.wait_all_tasks_blocked()
        assert not held.is_set(), "the run went on although nobody read"
        assert stream.cancel()
        events = [item async for item in stream]
    assert events[-1].event == "RunCancelled"
    assert sum(item.event == "RunContent" for item in events) < GATE_LIMIT
    assert stream.output is not None
    assert stream.output.status is RunStatus.cancelled


async def test_a_reader_that_catches_up_lets_its_run_go_on() -> None:
    words = [f"{n} " for n in range(3 * GATE_LIMIT)]
    agent = Agent(name="a", model=ScriptedModel("chatty", [words]))
    async with agent.arun("go", stream=True) as stream:
        said = [item.content async for item in stream if item.event == "RunContent"]
    assert said == words


def test_the_sync_reader_holds_its_run_back_too() -> None:
    words = [f"{n} " for n in range(3 * GATE_LIMIT)]
    model = ScriptedModel("chatty", [words])
    with Agent(name="a", model=model).run("go", stream=True) as stream:
        said = [item.content for item in stream if item.event == "RunContent"]
    assert said == words


async def test_an_awaited_run_is_held_back_by_nobody() -> None:
    words = [f"{n} " for n in range(3 * GATE_LIMIT)]
    output = await Agent(name="a", model=ScriptedModel("chatty", [words])).arun("go")
    assert output.content == "".join(words)
