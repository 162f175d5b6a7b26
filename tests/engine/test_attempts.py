"""Instants of a pause that no schedule hits often: a cancel or a continuation between two steps of it."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team, acancel_run, cancel_run, tool
from kern_async.engine import registry
from kern_async.engine.execute import execute
from kern_async.engine.log import EventLog
from kern_async.engine.owner import Owner
from kern_async.engine.registry import find, register
from kern_async.engine.run import Run
from kern_async.run.base import RunInput
from kern_async.run.cancel import get_active_runs
from kern_async.run.context import RunContext
from kern_async.testing.scripted import ScriptedModel, call


def a_run() -> Run:
    run = Run(
        owner=Owner("agent", "solo", "Solo"),
        id="the-run",
        session_id="s",
        user_id=None,
        input=RunInput(input_content="go"),
        context=RunContext(run_id="the-run", session_id="s"),
        cancel_grace=1,
    )
    register(run)
    return run


def names(run: Run) -> list[str]:
    return [event.event for event in run.log.events]


async def test_a_cancel_that_comes_while_the_run_is_pausing_ends_it_after_the_pause() -> None:
    run = a_run()

    async def body(run: Run) -> None:
        run.claim(RunStatus.paused)
        assert cancel_run("the-run", reason="just in time")

    await execute(run, body, outside="caller")
    await anyio.wait_all_tasks_blocked()
    assert names(run) == ["RunStarted", "RunPaused", "RunCancelled"]
    assert run.ended
    assert run.output is not None
    assert (run.output.reason, run.output.cancellation_stage) == ("just in time", "PAUSED")
    assert not cancel_run("the-run")


async def test_a_pause_after_a_cancel_is_none() -> None:
    run = a_run()

    async def body(run: Run) -> None:
        assert cancel_run("the-run")
        assert run.claim(RunStatus.paused).status is RunStatus.cancelled

    await execute(run, body, outside="caller")
    assert names(run) == ["RunStarted", "RunCancelled"]


@tool(requires_confirmation=True)
async def ask() -> str:
    """Ask."""
    return "ok"


def an_agent() -> Agent:
    return Agent(name="Solo", model=ScriptedModel("solo", [call("ask"), "done"]), tools=[ask])


def interfere(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Have a thread act once, at the last instant before the paused event is in the log."""
    append = EventLog.append
    acted: list[Any] = []

    def late(self: EventLog, event: Any, **options: Any) -> None:
        if event.event == "RunPaused" and not acted:
            acted.append(event)
            thread = threading.Thread(target=act)
            thread.start()
            thread.join(5)
        append(self, event, **options)

    monkeypatch.setattr(EventLog, "append", late)


async def test_nobody_ends_a_run_before_its_pause_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool] = []
    interfere(monkeypatch, lambda: answers.append(cancel_run("the-run")))
    async with an_agent().arun("go", stream=True, run_id="the-run") as events:
        run = find("the-run")
        assert run is not None
        seen = [event.event async for event in events]
    assert seen == ["RunStarted", "RunPaused"]
    with anyio.fail_after(5):
        await run.wait_ended()
    assert answers == [True]
    assert names(run)[-2:] == ["RunPaused", "RunCancelled"]
    assert not get_active_runs()


async def test_a_member_that_is_cancelled_while_its_team_begins_again_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member = an_agent()
    leader = ScriptedModel("lead", [call("delegate_task_to_member", member_id="solo", task="go"), "done"])
    team = Team([member], name="Team", model=leader)
    output = await team.arun("go")
    waiting = output.active_requirements[0].member_run_id
    assert waiting is not None
    release = registry.release
    answers: list[bool] = []

    def late(run: Run) -> None:
        release(run)
        if run.parent is None and not answers:
            answers.append(cancel_run(waiting))

    monkeypatch.setattr(registry, "release", late)
    async with team.acontinue_run(output, stream=True, stream_events=True) as events:
        seen = [(event.event, event.run_id == waiting) async for event in events]
    assert answers == [True]
    assert seen[:2] == [("TeamRunContinued", False), ("RunCancelled", True)]
    assert ("RunContinued", True) not in seen
    assert seen[-1][0] == "TeamRunCompleted"


async def test_a_continuation_waits_until_the_pause_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    outputs: list[Any] = []

    def go_on() -> None:
        # It begins on its own loop, and cannot come to its end before this thread has gone.
        reader = agent.continue_run(run_id="the-run", stream=True)
        reader.__enter__()
        outputs.append(reader)

    interfere(monkeypatch, go_on)
    output = await agent.arun("go", run_id="the-run")
    assert output.is_paused
    reader = outputs[0]
    rest = await anyio.to_thread.run_sync(lambda: [event.event for event in reader])
    assert rest[0] == "RunContinued"
    assert rest[-1] == "RunPaused", "nobody has said a word"
    assert await acancel_run("the-run", wait=True)
