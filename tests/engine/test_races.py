"""The answer of a cancel is true, however it races with the run's end (P3, I3, I4)."""

from __future__ import annotations

import queue
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kern_async import Agent, RunStatus, cancel_run
from kern_async.run.base import Ended
from kern_async.testing.scripted import ScriptedModel

RACES = 1000


@pytest.fixture(autouse=True)
def threads_take_turns_quickly() -> Iterator[None]:
    """Without this a thread waits for 5 ms at a time while the event loop is busy: no race at all."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def quick_agent() -> Agent:
    return Agent(name="quick", model=ScriptedModel("quick", [["a ", "b ", "c "]], repeat=True))


async def test_a_thousand_cancels_from_a_thread_racing_the_end_are_answered_truly() -> None:
    agent = quick_agent()
    dice = random.Random(7)
    orders: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
    ready: queue.SimpleQueue[None] = queue.SimpleQueue()
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    started = threading.Event()

    def cancel_at_some_time() -> None:
        while (order := orders.get()) is not None:
            run_id, spins = order
            ready.put(None)
            started.wait()
            for _ in range(spins):
                pass
            answers.put(cancel_run(run_id))

    async def start(_request: object) -> None:
        started.set()

    agent.model = ScriptedModel("racer", [[start, *(f"{n} " for n in range(12))]], repeat=True)
    thread = threading.Thread(target=cancel_at_some_time)
    thread.start()
    seen: Counter[tuple[bool, RunStatus]] = Counter()
    most = 1000
    try:
        for number in range(RACES):
            started.clear()
            orders.put((f"race-{number}", dice.randrange(most)))
            ready.get()
            output = await agent.arun("go", run_id=f"race-{number}")
            answer = await anyio.to_thread.run_sync(answers.get)
            seen[answer, output.status] += 1
            assert answer == (output.status is RunStatus.cancelled), (
                f"race {number}: {answer}, {output.status}"
            )
            # Keep the two ends about equally frequent, whatever the machine's speed.
            most = max(10, most - 10) if output.status is RunStatus.completed else most + 10
    finally:
        orders.put(None)
        thread.join()
    # Without both ends the races would have proved nothing.
    assert seen[True, RunStatus.cancelled] > RACES / 50, seen
    assert seen[False, RunStatus.completed] > RACES / 50, seen


async def test_cancels_from_many_threads_agree_with_each_other_and_with_the_end() -> None:
    agent = quick_agent()
    for number in range(60):
        start = threading.Barrier(4)
        answers: list[bool] = []

        def cancel(run_id: str, start: threading.Barrier = start, answers: list[bool] = answers) -> None:
            start.wait()
            answers.append(cancel_run(run_id))

        threads = [threading.Thread(target=cancel, args=(f"many-{number}",)) for _ in range(4)]
        async with agent.arun("go", stream=True, run_id=f"many-{number}") as stream:
            for thread in threads:
                thread.start()
            events = [event async for event in stream]
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        ends = [event for event in events if isinstance(event, Ended)]
        assert len(ends) == 1
        assert any(answers) == (ends[0].status is RunStatus.cancelled)
        assert not cancel_run(f"many-{number}")


@pytest.mark.parametrize("moment", ["created", "started in this tick"])
async def test_a_cancel_before_the_start_is_honoured_without_a_model_call(moment: str) -> None:
    model = ScriptedModel("never", [["no "]])
    stream = Agent(name="a", model=model).arun("go", stream=True, stream_events=True)
    if moment == "started in this tick":
        await stream.__aenter__()
    assert stream.cancel(reason="early")
    assert not stream.cancel(), "it is settled then and there"
    events: list[Any] = [event async for event in stream]
    assert [event.event for event in events] == ["RunStarted", "RunCancelled"]
    assert events[-1].reason == "early"
    assert events[-1].cancelled_by == "request"
    assert events[-1].cancellation_stage == "PENDING"
    assert not model.requests


async def test_an_unknown_or_ended_id_is_not_cancelled_and_not_poisoned() -> None:
    agent = quick_agent()
    assert not cancel_run("later")
    first = await agent.arun("go", run_id="later")
    assert first.status is RunStatus.completed
    assert not cancel_run("later")
    again = await agent.arun("go", run_id="later")
    assert again.status is RunStatus.completed


async def test_the_first_cancel_s_reason_stays() -> None:
    agent = Agent(name="a", model=ScriptedModel("m", [["x ", lambda _: anyio.sleep_forever()]]))
    async with agent.arun("go", stream=True) as stream:
        async for event in stream:
            if event.event == "RunContent":
                assert stream.cancel(reason="first")
                assert stream.cancel(reason="second")
    assert stream.output is not None
    assert stream.output.reason == "first"
