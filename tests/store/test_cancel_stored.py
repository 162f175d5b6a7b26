"""`acancel_run` of an agent or team with a database: runs that no process works on end too."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team, acancel_run, tool
from kern_async.db.base import Fence, PutRun, RunKey, SessionSeed
from kern_async.db.database import BaseDb
from kern_async.engine import registry
from kern_async.testing.scripted import call

from .parts import (
    agent,
    cancel_at,
    check_stored_as_seen,
    delegate,
    forever,
    model,
    new_process,
    read,
    rows,
    tree,
    until,
)


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


async def paused_solo(db: BaseDb, **options: Any) -> tuple[Agent, Any]:
    solo = agent("Solo", ["I pay. ", call("pay", amount=3)], "Paid.", db=db, tools=[pay], **options)
    output = await solo.arun("Go.", session_id="s")
    assert output.is_paused
    return solo, output


async def paused_team(db: BaseDb) -> tuple[Team, Any]:
    def payer(name: str) -> Agent:
        return agent(name, ["I pay. ", call("pay", amount=3)], tools=[pay])

    team = Team(
        [payer("One"), payer("Two"), agent("Three", "Third.")],
        name="T",
        model=model([delegate("one"), delegate("two"), delegate("three")], "All."),
        db=db,
        store_events=True,
    )
    output = await team.arun("Go.", session_id="s")
    assert output.is_paused
    return team, output


async def test_a_stored_paused_run_ends_once(db: BaseDb) -> None:
    solo, output = await paused_solo(db, store_events=True)
    new_process()
    assert await solo.acancel_run(output.run_id, reason="no", wait=True)
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert (got.status, got.cancelled_by, got.reason, got.cancellation_stage, got.content) == (
        RunStatus.cancelled, "request", "no", "PAUSED", "I pay. ",
    )  # fmt: skip
    assert got.messages[-1].content == "cancelled"
    before = rows(db)
    assert await solo.acancel_run(output.run_id) is False
    assert rows(db) == before
    events = [event async for event in solo.run_events(output.run_id)]
    assert [event.event for event in events][-2:] == ["RunPaused", "RunCancelled"]
    assert [event.event_index for event in events] == list(range(len(events)))


async def test_of_many_at_once_one_is_told_true_at_least_and_there_is_one_end(db: BaseDb) -> None:
    solo, output = await paused_solo(db, store_events=True)
    new_process()
    answers: list[bool] = []

    async def cancel() -> None:
        answers.append(await solo.acancel_run(output.run_id))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(cancel)
    assert answers.count(True) == 1
    events = [event.event async for event in solo.run_events(output.run_id)]
    assert events.count("RunCancelled") == 1


async def test_a_stored_paused_team_ends_leaves_first(db: BaseDb) -> None:
    team, output = await paused_team(db)
    new_process()
    assert await team.acancel_run(output.run_id)
    got = await team.aget_run_output(output.run_id)
    assert got is not None
    assert sorted((each.status.value, each.cancelled_by or "") for each in tree(got)) == [
        ("CANCELLED", "parent"), ("CANCELLED", "parent"), ("CANCELLED", "request"), ("COMPLETED", ""),
    ]  # fmt: skip
    events = [event async for event in team.run_events(output.run_id)]
    assert [event.event for event in events][-3:] == ["RunCancelled", "RunCancelled", "TeamRunCancelled"]
    assert [event.event_index for event in events] == list(range(len(events)))


async def test_a_member_of_a_stored_paused_team_ends_alone(db: BaseDb) -> None:
    team, output = await paused_team(db)
    waiting = [each for each in tree(output)[1:] if each.is_paused]
    new_process()
    assert await team.acancel_run(waiting[0].run_id, reason="not this one")
    assert await team.acancel_run(waiting[0].run_id) is False
    got = await team.aget_run_output(output.run_id)
    assert got is not None
    assert got.is_paused
    statuses = {each.run_id: each.status for each in tree(got)}
    assert statuses[waiting[0].run_id] is RunStatus.cancelled
    assert statuses[waiting[1].run_id] is RunStatus.paused
    new_process()
    one, two, _ = team.members
    two_or_one = one if waiting[1].content and getattr(waiting[1], "agent_id", "") == "one" else two
    two_or_one.model = model("Paid.")
    team.model = model("All.")
    got = await team.aget_run_output(output.run_id)
    assert got is not None
    (left,) = [each for each in got.requirements or () if each.member_run_id == waiting[1].run_id]
    left.confirm()
    again = await team.acontinue_run(run_id=output.run_id, requirements=[left])
    assert (again.status, again.content) == (RunStatus.completed, "All."), again.error
    told = [m.content or "" for m in again.messages if m.role == "tool"]
    assert sorted("not this one" in text for text in told) == [False, False, True]
    events = [event async for event in team.run_events(output.run_id)]
    assert [event.event_index for event in events] == list(range(len(events)))
    await check_stored_as_seen(team, again)


async def test_the_end_of_a_member_that_rests_in_this_process_is_stored_with_its_event(db: BaseDb) -> None:
    team, output = await paused_team(db)
    waiting = [each for each in tree(output)[1:] if each.is_paused]
    assert await team.acancel_run(waiting[0].run_id)
    await db.writer.flushed().wait(5)
    got = await team.aget_run_output(waiting[0].run_id)
    assert got is not None
    assert got.status is RunStatus.cancelled
    new_process()
    events = [event async for event in team.run_events(output.run_id)]
    assert [event.event_index for event in events] == list(range(len(events)))
    assert (events[-1].event, events[-1].run_id) == ("RunCancelled", waiting[0].run_id)


async def test_a_stored_pending_run_ends(db: BaseDb) -> None:
    key = RunKey(run_id="r", root_run_id="r", parent_run_id=None, session_id="s", user_id=None, kind="agent",
                 entity_id="solo", created_at=0)  # fmt: skip
    put = PutRun(
        fence=Fence(root_run_id="r", owner=db.writer.owner, attempt=0),
        key=key,
        session=SessionSeed(session_id="s", user_id=None, kind="agent", entity_id="solo"),
        status="PENDING",
        new=True,
    )
    await db.writer.post(lambda: [put]).wait(5)
    solo = agent("Solo", "Never.", db=db)
    assert await solo.acancel_run("r", reason="no")
    got = await solo.aget_run_output("r")
    assert got is not None
    assert (got.status, got.cancellation_stage, got.reason) == (RunStatus.cancelled, "PENDING", "no")
    assert await solo.acancel_run("r") is False


async def test_nothing_happens_to_runs_that_have_ended_or_are_unknown(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", ["The lo", forever], ["Half", ValueError("broken")], db=db)
    outputs = [await solo.arun("Go."), (await read(solo, on=cancel_at("The lo")))[1], await solo.arun("Go.")]
    for fresh in (False, True):
        if fresh:
            new_process()
        before = rows(db)
        for run_id in (*(output.run_id for output in outputs), "nope"):
            assert await solo.acancel_run(run_id) is False
            assert solo.cancel_run(run_id) is False
        assert rows(db) == before


async def test_only_an_instance_with_the_database_looks_into_it(db: BaseDb) -> None:
    solo, output = await paused_solo(db)
    new_process()
    before = rows(db)
    assert solo.cancel_run(output.run_id) is False
    assert await acancel_run(output.run_id) is False
    assert await Agent.acancel_run(output.run_id) is False
    assert await agent("Solo").acancel_run(output.run_id) is False
    assert rows(db) == before
    assert await solo.acancel_run(output.run_id)


async def test_a_run_that_was_cancelled_at_rest_goes_on_like_any_other(db: BaseDb) -> None:
    solo, output = await paused_solo(db)
    new_process()
    await solo.acancel_run(output.run_id)
    again = await solo.acontinue_run(run_id=output.run_id)
    assert (again.status, again.content) == (RunStatus.completed, "I pay. Paid.")
    assert [m.content for m in again.messages if m.role == "tool"] == ["cancelled"]


@pytest.mark.parametrize("mode", ["now", "after_tools", "after_turn"])
async def test_a_paused_run_of_this_process_is_stored_as_cancelled(db: BaseDb, mode: Any) -> None:
    solo, output = await paused_solo(db)
    assert await solo.acancel_run(output.run_id, mode=mode, wait=True)
    await db.writer.flushed().wait(5)
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert (got.status, got.cancellation_stage) == (RunStatus.cancelled, "PAUSED")


@pytest.mark.parametrize("background", [False, True])
async def test_a_run_that_is_cancelled_at_any_step_of_its_admission_ends_so_and_stays_so(
    db: BaseDb, background: bool
) -> None:
    await agent("Solo", "First.", db=db).arun("Go.", session_id="s")  # the database is open
    for steps in range(40):
        solo = agent("Solo", [forever], db=db)
        given = f"run-{steps}"
        left: list[Any] = []

        async def start(solo: Agent = solo, given: str = given, left: list[Any] = left) -> None:
            left.append(await solo.arun("Go.", run_id=given, session_id="s", background=background))

        async with anyio.create_task_group() as group:
            group.start_soon(start)
            while registry.find(given) is None:
                await anyio.lowlevel.checkpoint()
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            assert await solo.acancel_run(given, wait=True)
        allowed = {RunStatus.cancelled, RunStatus.pending} if background else {RunStatus.cancelled}
        assert left[0].status in allowed
        await until(lambda given=given: registry.find(given) is None)
        stored = await solo.aget_run_output(given)
        assert stored is not None
        assert stored.status is RunStatus.cancelled
