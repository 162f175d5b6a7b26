"""Who sees a run's end finds it in the database: at that very moment, from another thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from kern_async import Team, tool
from kern_async.db.base import FindRun
from kern_async.db.database import BaseDb
from kern_async.testing.scripted import call

from ..db.stores import ScriptedDb
from .parts import TERMINAL, agent, cancel_when_all_said, delegate, forever, model, read, read_stream

ENDS = (*TERMINAL, "RunPaused")


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


class Witness:
    """Looks into the database from a thread of its own, at each end that a reader sees."""

    def __init__(self, db: BaseDb) -> None:
        self.db = db
        self.seen: list[tuple[str, str | None]] = []
        self.wrong: list[str] = []

    def __call__(self, event: Any, _stream: Any = None) -> None:
        if event.event.removeprefix("Team") not in ENDS:
            return
        thread = threading.Thread(target=self._look, args=(event,))
        thread.start()
        thread.join()

    def _look(self, event: Any) -> None:
        ticket = self.db.writer.ask(FindRun(run_id=event.run_id))
        assert ticket.wait_in_thread(5)
        row = ticket.result
        self.seen.append((event.event, row and row.status))
        if row is None or row.status != event.status.value or event.stored is not True:
            self.wrong.append(f"{event.event} of {event.run_id}: {row}")


def slow(script: Any, seconds: float = 0.02) -> None:
    async def wait(_: Any) -> None:
        await anyio.sleep(seconds)

    script.on_apply = wait


@pytest.fixture
def slow_db() -> Any:
    db = ScriptedDb()
    slow(db.script)
    yield db
    db.close()


def nested(db: BaseDb, *last: Any) -> Team:
    deep = Team([agent("One", "First.")], name="Deep", model=model(delegate("one"), "Deep says."))
    two = agent("Two", *last, tools=[pay])
    return Team([deep, two], name="Top", model=model([delegate("deep"), delegate("two")], "Top says."), db=db)


@pytest.mark.parametrize("ending", ["completed", "failed", "paused"])
async def test_each_end_of_a_tree_is_stored_when_a_reader_sees_it(slow_db: ScriptedDb, ending: str) -> None:
    turn: Any = {
        "completed": "Second one.",
        "failed": ["Second", ValueError("broken")],
        "paused": call("pay", amount=1),
    }[ending]
    witness = Witness(slow_db)
    top = nested(slow_db, turn)
    _, output = await read(top, on=witness)
    assert not witness.wrong
    assert len(witness.seen) == 4
    if ending == "paused":
        await top.acancel_run(output.run_id)


async def test_each_end_of_a_cut_tree_is_stored_when_a_reader_sees_it(slow_db: ScriptedDb) -> None:
    witness = Witness(slow_db)
    cancel = cancel_when_all_said("First.", "Second")

    def on(event: Any, stream: Any) -> None:
        witness(event)
        cancel(event, stream)

    _, output = await read(nested(slow_db, ["Second", forever]), on=on)
    assert output.is_cancelled
    assert not witness.wrong
    assert len(witness.seen) == 4


async def test_the_ends_of_members_that_had_not_gone_on_yet_are_stored_when_a_reader_sees_them(
    slow_db: ScriptedDb,
) -> None:
    deep = Team([agent("One", ["Fir", forever])], name="Deep", model=model(delegate("one")))
    top = Team([deep], name="Top", model=model(delegate("deep")), db=slow_db)
    _, output = await read(top, on=cancel_when_all_said("Fir"))
    witness = Witness(slow_db)

    def on(event: Any, stream: Any) -> None:
        witness(event)
        if event.event == "TeamRunContinued":
            stream.cancel()

    stream = top.acontinue_run(run_id=output.run_id, stream=True, stream_events=True)
    await read_stream(stream, on=on)
    assert not witness.wrong
    assert [name for name, _ in witness.seen] == ["RunCancelled", "TeamRunCancelled", "TeamRunCancelled"]


async def test_each_end_that_a_live_follower_sees_is_stored(slow_db: ScriptedDb) -> None:
    witness = Witness(slow_db)
    top = nested(slow_db, "Second one.")
    async with top.arun("Go.", stream=True) as stream:
        async for _ in stream:
            break
        async for event in top.run_events(stream.run_id):
            witness(event)
    assert not witness.wrong
    assert len(witness.seen) == 4


async def test_an_awaited_output_is_stored_when_it_is_returned(slow_db: ScriptedDb) -> None:
    output = await nested(slow_db, "Second one.").arun("Go.")
    ticket = slow_db.writer.ask(FindRun(run_id=output.run_id))
    await ticket.wait(5)
    assert ticket.result.status == "COMPLETED"


def test_an_output_of_a_thread_is_stored_when_it_is_returned(slow_db: ScriptedDb) -> None:
    output = nested(slow_db, "Second one.").run("Go.")
    assert output.stored
    got = nested(slow_db).get_run_output(output.run_id)
    assert got is not None
    assert got.to_dict() == output.to_dict()


async def test_a_cancel_from_outside_goes_on_after_the_end_is_stored(slow_db: ScriptedDb) -> None:
    scope = anyio.CancelScope()

    async def cut(_: Any) -> None:
        scope.cancel()
        await anyio.sleep_forever()

    solo = agent("Solo", ["The lo", cut], db=slow_db)
    with scope:
        await solo.arun("Go.", run_id="r")
    assert scope.cancelled_caught
    seen: Sequence[Any] = [row for batch in slow_db.script.batches for row in batch]
    assert any(getattr(row, "status", None) == "CANCELLED" for row in seen)
