"""A database that fails or hangs costs a run its row, for no longer than `store_timeout`, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

import anyio
import pytest
import structlog

from kern_async import RunStatus, Team, tool
from kern_async.db.base import ClaimRun, PutRun
from kern_async.engine import registry
from kern_async.exceptions import StoreError
from kern_async.testing.scripted import call

from ..db.conftest import quick
from ..db.stores import ScriptedDb, is_beat, nothing
from .parts import agent, cancel_when_all_said, check_stored_as_seen, delegate, forever, model, read, tree

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

STORE_TIMEOUT = 0.3


@pytest.fixture
def db() -> Generator[ScriptedDb]:
    db = ScriptedDb(store_timeout=STORE_TIMEOUT)
    yield db
    db.close()


@pytest.fixture
def logged() -> Generator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries
    structlog.reset_defaults()  # capturing has configured it, which other tests must not see


async def hang(writes: Any) -> None:
    if not is_beat(writes):
        await anyio.sleep_forever()


async def fail(writes: Any) -> None:
    if not is_beat(writes):
        raise OSError("disk full")


async def hang_at_ends(writes: Any) -> None:
    if any(isinstance(write, PutRun) and write.status not in ("RUNNING", "PENDING") for write in writes):
        await anyio.sleep_forever()


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@pytest.mark.parametrize("trouble", [hang, fail, hang_at_ends])
async def test_a_run_is_whole_without_its_row(db: ScriptedDb, logged: list[Any], trouble: Any) -> None:
    solo = agent("Solo", "Done.", db=db)
    solo.model = model("Done.", repeat=True)
    db.script.on_apply = trouble
    began = time.monotonic()
    events, output = await read(solo, session_id="s")
    assert time.monotonic() - began < 3 * STORE_TIMEOUT + 0.5
    assert (output.status, output.content) == (RunStatus.completed, "Done.")
    assert output.stored is False
    assert output.store_error
    if trouble is fail:
        assert "disk full" in output.store_error
    assert (events[-1].stored, events[-1].store_error) == (False, output.store_error)
    *_, entry = [each for each in logged if each["event"] == "run.store_failed"]
    assert (entry["run_id"], entry["session_id"], entry["error"]) == (output.run_id, "s", output.store_error)
    assert "Done." not in str(logged)

    async def nothing(_: Any) -> None:
        pass

    db.script.on_apply = nothing
    with anyio.fail_after(5):
        while not (again := await solo.arun("Go.", session_id="s")).stored:  # noqa: ASYNC110 - each is a run
            await anyio.sleep(0.01)
    await check_stored_as_seen(solo, again)


async def test_a_run_that_pauses_without_its_row_can_be_continued_in_its_process(db: ScriptedDb) -> None:
    solo = agent("Solo", call("pay", amount=3), "Paid.", db=db, tools=[pay])
    db.script.on_apply = fail
    output = await solo.arun("Go.")
    assert output.is_paused
    assert output.stored is False

    async def nothing(_: Any) -> None:
        pass

    db.script.on_apply = nothing
    with anyio.fail_after(5):
        while db.writer.trouble or db.writer.stalled():  # noqa: ASYNC110 - another thread's
            await anyio.sleep(0.01)
    output.active_requirements[0].confirm()
    done = await solo.acontinue_run(output)
    assert (done.status, done.content) == (RunStatus.completed, "Paid.")


async def test_a_cut_tree_of_three_levels_waits_for_a_hanging_database_once(db: ScriptedDb) -> None:
    deep = Team([agent("One", ["Fir", forever]), agent("Two", ["Second", forever])], name="Deep",
                model=model([delegate("one"), delegate("two")]))  # fmt: skip
    top = Team([deep, agent("Three", ["Third", forever])], name="Top",
               model=model([delegate("deep"), delegate("three")]), db=db)  # fmt: skip
    at: list[float] = []
    cancel = cancel_when_all_said("Fir", "Second", "Third")

    def on(event: Any, stream: Any) -> None:
        if event.event == "RunContent":
            db.script.on_apply = hang_at_ends
            at[:] = [time.monotonic()]
        cancel(event, stream)

    _, output = await read(top, on=on)
    took = time.monotonic() - at[0]
    assert output.is_cancelled
    assert {each.content for each in tree(output)} == {None, "Fir", "Second", "Third"}
    assert [each.stored for each in tree(output)] == [False] * 5
    assert STORE_TIMEOUT * 0.8 < took < STORE_TIMEOUT * 2 + 0.2, took


async def test_members_that_end_well_wait_for_a_hanging_database_side_by_side(db: ScriptedDb) -> None:
    members = [agent(f"M{n}", f"Word {n}.") for n in range(8)]
    team = Team(members, name="T", model=model([delegate(f"m{n}") for n in range(8)], "All."), db=db)
    db.script.on_apply = hang_at_ends
    began = time.monotonic()
    output = await team.arun("Go.")
    assert (output.status, output.content) == (RunStatus.completed, "All.")
    assert all(each.stored is False for each in tree(output))
    assert time.monotonic() - began < 3 * STORE_TIMEOUT + 0.5


async def test_a_deadline_of_a_caller_gets_through_a_hanging_database(db: ScriptedDb) -> None:
    solo = agent("Solo", ["The lo", forever], db=db)
    db.script.on_apply = hang
    began = time.monotonic()
    with anyio.move_on_after(0.1) as scope:
        await solo.arun("Go.")
    assert scope.cancelled_caught
    assert time.monotonic() - began < 0.1 + STORE_TIMEOUT + 0.5


async def test_the_own_time_of_an_agent_counts(db: ScriptedDb) -> None:
    solo = agent("Solo", "Done.", db=db, store_timeout=0.05)
    db.script.on_apply = hang
    began = time.monotonic()
    output = await solo.arun("Go.")
    assert output.stored is False
    assert time.monotonic() - began < STORE_TIMEOUT


async def test_a_run_of_a_database_that_cannot_be_read_runs_without_its_past(db: ScriptedDb) -> None:
    solo = agent("Solo", "Done.", db=db, add_history_to_context=True)

    async def fail_reads(_: Any) -> None:
        raise OSError("cannot read")

    db.script.on_read = fail_reads
    output = await solo.arun("Go.", session_id="s", session_state={"n": 1})
    assert output.status is RunStatus.completed
    assert output.stored is True
    assert "'s' could not be read" in (output.store_error or "")


def test_threads_get_their_output_of_a_hanging_database(db: ScriptedDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    db.script.on_apply = hang
    began = time.monotonic()
    output = solo.run("Go.")
    assert (output.status, output.stored) == (RunStatus.completed, False)
    assert time.monotonic() - began < 3 * STORE_TIMEOUT + 0.5


async def test_a_late_row_is_written_when_the_database_is_well_again(db: ScriptedDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    with db.script.held():
        output = await solo.arun("Go.", session_id="s")
        assert output.stored is False
    with anyio.fail_after(5):
        while (got := await solo.aget_run_output(output.run_id)) is None:  # noqa: ASYNC110 - another thread's
            await anyio.sleep(0.01)
    assert got.status is RunStatus.completed
    assert got.content == "Done."


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_an_end_whose_wait_a_second_cancel_cuts_does_not_blame_the_database(
    db: ScriptedDb, logged: list[Any]
) -> None:
    began, ending = anyio.Event(), anyio.Event()

    async def begin(_: Any) -> None:
        began.set()
        await anyio.sleep_forever()

    async def hang_at_the_end(writes: Any) -> None:
        if any(isinstance(write, PutRun) and write.status == "CANCELLED" for write in writes):
            loop.call_soon_threadsafe(ending.set)
            await anyio.sleep_forever()

    loop = asyncio.get_running_loop()
    db.script.on_apply = hang_at_the_end
    solo = agent("Solo", [begin], db=db)
    task = loop.create_task(solo.arun("Go.", session_id="s"))
    with anyio.fail_after(5):
        await began.wait()
        task.cancel()
        await ending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    *_, entry = [each for each in logged if each["event"] == "run.store_failed"]
    assert "further cancel" in entry["error"]


@pytest.mark.parametrize("answer", ["claimed", "theirs"])
async def test_a_cancel_of_a_stored_run_is_not_true_before_the_database_says_so(
    db: ScriptedDb, answer: str
) -> None:
    solo = agent("Solo", call("pay", amount=1), "Paid.", tools=[pay], db=db)
    output = await solo.arun("Go.", session_id="s")
    assert output.is_paused
    registry.forget_all()

    async def hang_at_claims(writes: Any) -> None:
        if any(isinstance(write, ClaimRun) for write in writes):
            if answer == "theirs":  # another process was the first
                db.script.tables.runs[output.run_id].attempt += 1
            await anyio.sleep_forever()

    db.script.on_apply = hang_at_claims
    with pytest.raises(StoreError, match="may still be cancelled"):
        await solo.acancel_run(output.run_id)
    db.script.on_apply = nothing
    with anyio.fail_after(10):
        while db.writer.stalled():  # noqa: ASYNC110 - of another thread
            await anyio.sleep(0.01)
    left = await solo.aget_run_output(output.run_id)
    assert left is not None
    assert left.is_cancelled is (answer == "claimed")
