"""Runs that nobody waits for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import anyio
import pytest

from kern_async import RunStatus
from kern_async.db.base import FindRun
from kern_async.db.database import BaseDb
from kern_async.engine import registry
from kern_async.engine.background import MOST, set_background_max_concurrency
from kern_async.exceptions import ConfigurationError, RunIdInUse
from kern_async.testing.scripted import call

from .parts import agent, asked, forever, model, new_process, until


@pytest.fixture
def one_at_a_time() -> Generator[None]:
    set_background_max_concurrency(1)
    yield
    set_background_max_concurrency(MOST)


async def ended(who: Any, run_id: str) -> Any:
    with anyio.fail_after(5):
        async for event in who.run_events(run_id):
            last = event
    return last


class Held:
    """A model's step that waits until it is let go, and says that it was come to."""

    def __init__(self) -> None:
        self.inside, self.go_on = anyio.Event(), anyio.Event()

    async def __call__(self, _: Any) -> None:
        self.inside.set()
        await self.go_on.wait()


async def test_it_is_pending_at_once_and_stored_so(db: BaseDb) -> None:
    held = Held()
    solo = agent("Solo", ["The lo", held, "ng answer."], db=db)
    output = await solo.arun("Go.", background=True, session_id="s")
    assert (output.status, output.stored, output.content) == (RunStatus.pending, True, None)
    ticket = db.writer.ask(FindRun(run_id=output.run_id))
    await ticket.wait(5)
    assert ticket.result is not None
    await held.inside.wait()
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert (got.status, got.content) == (RunStatus.running, "The lo")
    held.go_on.set()
    end = await ended(solo, output.run_id)
    assert (end.event, end.content, end.stored) == ("RunCompleted", "The long answer.", True)
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert (got.status, got.content) == (RunStatus.completed, "The long answer.")


async def test_its_events_are_read_live_from_the_first(db: BaseDb) -> None:
    held = Held()
    solo = agent("Solo", ["The ", held, "end."], db=db, store_events=True)
    output = await solo.arun("Go.", background=True)
    names: list[str] = []
    with anyio.fail_after(5):
        async for event in solo.run_events(output.run_id):
            names.append(event.event)
            if event.event == "RunContent":
                held.go_on.set()
    assert names[0] == "RunStarted"
    assert names[-1] == "RunCompleted"
    again = [event.event async for event in solo.run_events(output.run_id)]
    assert again == names


async def test_it_lives_on_when_the_task_that_started_it_is_cancelled(db: BaseDb) -> None:
    held = Held()
    solo = agent("Solo", [held, "Done."], db=db)
    outputs: list[Any] = []

    async def start() -> None:
        outputs.append(await solo.arun("Go.", background=True))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await held.inside.wait()
        group.cancel_scope.cancel()
    held.go_on.set()
    assert (await ended(solo, outputs[0].run_id)).event == "RunCompleted"


async def test_it_lives_on_when_the_run_whose_tool_started_it_is_cancelled(db: BaseDb) -> None:
    held = Held()
    below = agent("Below", [held, "Done."], db=db)
    ids: list[str] = []

    async def start() -> str:
        """Start."""
        ids.append((await below.arun("Go.", background=True)).run_id)
        await anyio.sleep_forever()
        return "never"

    above = agent("Above", [call("start")], db=db, tools=[start])
    async with above.arun("Go.", stream=True, stream_events=True) as stream:
        async for event in stream:
            if event.event == "ToolCallStarted":
                await held.inside.wait()
                stream.cancel()
    assert stream.output is not None
    assert stream.output.is_cancelled
    held.go_on.set()
    assert (await ended(below, ids[0])).event == "RunCompleted"


@pytest.mark.usefixtures("one_at_a_time")
async def test_so_many_work_at_once_the_others_wait_in_order(db: BaseDb) -> None:
    helds = [Held() for _ in range(4)]
    agents = [agent(f"A{n}", [held, "Done."], db=db) for n, held in enumerate(helds)]
    ids = [(await each.arun("Go.", background=True)).run_id for each in agents]
    for n, held in enumerate(helds):
        with anyio.fail_after(5):
            await held.inside.wait()
        statuses = [(await agents[k].aget_run_output(ids[k])).status.value for k in range(n, 4)]  # type: ignore[union-attr] - stored
        assert statuses == ["RUNNING", *["PENDING"] * (3 - n)]
        assert not any(later.inside.is_set() for later in helds[n + 1 :])
        held.go_on.set()
        assert (await ended(agents[n], ids[n])).event == "RunCompleted"


@pytest.mark.usefixtures("one_at_a_time")
async def test_one_that_waits_is_cancelled_without_a_model_call(db: BaseDb) -> None:
    held = Held()
    first, second, third = (
        agent("A", [held, "Done."], db=db),
        agent("B", "No.", db=db),
        agent("C", "Third.", db=db),
    )
    ids = [(await each.arun("Go.", background=True)).run_id for each in (first, second, third)]
    await held.inside.wait()
    assert await second.acancel_run(ids[1], reason="changed my mind", wait=True)
    got = await second.aget_run_output(ids[1])
    assert got is not None
    assert (got.status, got.cancellation_stage, got.reason) == (
        RunStatus.cancelled,
        "PENDING",
        "changed my mind",
    )
    assert asked(second) == []
    held.go_on.set()
    for who, run_id in ((first, ids[0]), (third, ids[2])):
        assert (await ended(who, run_id)).event == "RunCompleted"
    assert [event.event async for event in second.run_events(ids[1])][-1] == "RunCancelled"


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_greater_number_lets_those_that_wait_begin(db: BaseDb) -> None:
    helds = [Held() for _ in range(3)]
    agents = [agent(f"A{n}", [held, "Done."], db=db) for n, held in enumerate(helds)]
    ids = [(await each.arun("Go.", background=True)).run_id for each in agents]
    await helds[0].inside.wait()
    set_background_max_concurrency(3)
    for held in helds:
        with anyio.fail_after(5):
            await held.inside.wait()
        held.go_on.set()
    for who, run_id in zip(agents, ids, strict=True):
        assert (await ended(who, run_id)).event == "RunCompleted"


@pytest.mark.usefixtures("one_at_a_time")
async def test_a_number_that_falls_and_rises_again_is_what_it_says(db: BaseDb) -> None:
    for number in (3, 1, 3, 1, 2):
        set_background_max_concurrency(number)
    helds = [Held() for _ in range(6)]
    agents = [agent(f"A{n}", [held, "Done."], db=db) for n, held in enumerate(helds)]
    ids = [(await each.arun("Go.", background=True)).run_id for each in agents]
    with anyio.fail_after(5):
        await helds[1].inside.wait()
    statuses = [output.status.value for each, run_id in zip(agents, ids, strict=True)
                if (output := await each.aget_run_output(run_id))]  # fmt: skip
    assert statuses == ["RUNNING"] * 2 + ["PENDING"] * 4
    for who, held, run_id in zip(agents, helds, ids, strict=True):
        held.go_on.set()
        assert (await ended(who, run_id)).event == "RunCompleted"


def test_the_end_of_its_event_loop_ends_it_truthfully(db: BaseDb) -> None:
    set_background_max_concurrency(1)
    solo = agent("Solo", ["The lo", forever], db=db)
    waiting = agent("Waiting", "Never.", db=db)

    async def main() -> list[str]:
        first = await solo.arun("Go.", background=True)
        second = await waiting.arun("Go.", background=True)
        await until(lambda: asked(solo) and (run := registry.find(first.run_id)) and run.text)
        return [first.run_id, second.run_id]

    try:
        first, second = anyio.run(main)
        db.writer.flush(5)
        got, other = solo.get_run_output(first), waiting.get_run_output(second)
        assert got is not None
        assert other is not None
        assert (got.status, got.cancelled_by, got.content) == (RunStatus.cancelled, "shutdown", "The lo")
        assert (other.status, other.cancelled_by) == (RunStatus.cancelled, "shutdown")
        assert asked(waiting) == []
    finally:
        set_background_max_concurrency(MOST)


def test_a_thread_starts_one_too(db: BaseDb) -> None:
    solo = agent("Solo", ["The ", "end."], db=db, store_events=True)
    output = solo.run("Go.", background=True)
    assert output.status is RunStatus.pending
    events = list(solo.run_events(output.run_id))
    assert events[-1].content == "The end."
    got = solo.get_run_output(output.run_id)
    assert got is not None
    assert got.status is RunStatus.completed


async def test_what_cannot_be_one_says_why(db: BaseDb) -> None:
    without: Any = agent("Solo", "Never.")
    with pytest.raises(ConfigurationError, match="needs a database"):
        without.arun("Go.", background=True)
    with pytest.raises(ConfigurationError, match="needs a database"):
        without.run("Go.", background=True)
    solo: Any = agent("Solo", "Done.", db=db)
    with pytest.raises(ConfigurationError, match="run_events"):
        solo.arun("Go.", background=True, stream=True)
    with pytest.raises(ConfigurationError, match="background"):
        solo.arun("Go.", background="yes")
    with pytest.raises(ConfigurationError, match="most background runs"):
        set_background_max_concurrency(0)
    await solo.arun("Go.", run_id="r")
    with pytest.raises(RunIdInUse):
        await solo.arun("Go.", run_id="r", background=True)


async def test_a_run_with_the_id_of_one_that_is_pending_is_refused(db: BaseDb) -> None:
    held = Held()
    solo = agent("Solo", [held, "Done."], db=db)
    output = await solo.arun("Go.", background=True)
    with pytest.raises(RunIdInUse):
        await solo.arun("Go.", run_id=output.run_id)
    held.go_on.set()
    await ended(solo, output.run_id)


async def test_one_that_was_cut_goes_on(db: BaseDb) -> None:
    solo = agent("Solo", ["The lo", forever], db=db)
    output = await solo.arun("Go.", background=True)
    async for event in solo.run_events(output.run_id):
        if event.event == "RunContent":
            assert await solo.acancel_run(output.run_id, wait=True)
    new_process()
    solo.model = model("ng answer.")
    again = await solo.acontinue_run(run_id=output.run_id)
    assert (again.status, again.content) == (RunStatus.completed, "The long answer.")
