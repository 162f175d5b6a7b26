"""Hooks round a team's tool calls: a delegation is one, and its member stays in the run's own tree."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import RunContext, RunStatus, cancel_run
from kern_async.exceptions import InputCheckError
from kern_async.testing import Stall, Text

from ..agent.crew import Crew, delegate, events_of
from ..engine.invariants import check_log, check_messages
from ..hitl.attempts import check_attempts
from ..hitl.test_teams import payer


def sync_hook(function_name: str, function_call: Any, arguments: dict[str, Any], team: Any) -> str:
    assert function_name == "delegate_task_to_member"
    return f"{team.name}({function_call(**{**arguments, 'task': 'Changed.'})})"


async def async_hook(function_name: str, function_call: Any, arguments: dict[str, Any], team: Any) -> str:
    assert function_name == "delegate_task_to_member"
    return f"{team.name}({await function_call(**{**arguments, 'task': 'Changed.'})})"


HOOKS = pytest.mark.parametrize("hook", [sync_hook, async_hook], ids=["sync", "async"])


@HOOKS
async def test_a_delegation_goes_through_the_team_s_hooks(crew: Crew, hook: Any) -> None:
    team = crew.team(
        [delegate("one"), delegate("two")],
        Text("Done."),
        members=[crew.agent("One", Text("First.")), crew.agent("Two", Text("Second."))],
        tool_hooks=[hook],
    )
    events = await events_of(team)
    check_log(events)
    assert events[-1].event == "TeamRunCompleted"
    assert sorted(crew.told("Leader")) == ["Leader(First.)", "Leader(Second.)"]
    assert [r.last_text for name in ("One", "Two") for r in crew.requests(name)] == ["Changed."] * 2


@HOOKS
async def test_a_member_pauses_and_goes_on_through_the_hooks(crew: Crew, hook: Any) -> None:
    team = crew.team(delegate("payer"), Text("Done."), members=[payer(crew)], tool_hooks=[hook])
    first = await events_of(team, run_id="the-run")
    assert first[-1].event == "TeamRunPaused"
    first[-1].requirements[0].confirm()
    async with team.acontinue_run(
        run_id="the-run", requirements=first[-1].requirements, stream=True, stream_events=True
    ) as stream:
        second = [event async for event in stream]
    check_attempts([*first, *second])
    assert crew.told("Leader") == ["Leader(I pay. Paid.)"]
    assert len(crew.requests("Payer")) == 2


@HOOKS
async def test_a_cancel_reaches_the_member_inside_the_hooks(crew: Crew, hook: Any) -> None:
    team = crew.team(
        delegate("slow"), members=[crew.agent("Slow", [Text("Slow "), Stall()])], tool_hooks=[hook]
    )
    events: list[Any] = []
    async with team.arun("Go.", stream=True, stream_events=True, run_id="the-run") as stream:
        async for event in stream:
            events.append(event)
            if event.event == "RunContent":
                assert cancel_run("the-run")
    check_log(events)
    assert [(e.event, e.cancelled_by) for e in events if "Cancelled" in e.event] == [
        ("RunCancelled", "parent"),
        ("TeamRunCancelled", "request"),
    ]
    assert events[-1].abandoned == []


async def test_a_hook_that_gives_a_delegation_up_ends_the_member_and_not_the_team(crew: Crew) -> None:
    async def impatient(function_call: Any, arguments: dict[str, Any]) -> str:
        with anyio.move_on_after(0.1):
            return await function_call(**arguments)
        return "too slow"

    team = crew.team(
        delegate("slow"),
        Text("Done without."),
        members=[crew.agent("Slow", [Text("Slow "), Stall()])],
        tool_hooks=[impatient],
    )
    events = await events_of(team)
    check_log(events)
    (end,) = [e for e in events if e.event == "RunCancelled"]
    assert (end.cancelled_by, end.reason) == ("parent", "its tool call was cancelled")
    assert events[-1].event == "TeamRunCompleted"
    assert crew.told("Leader") == ["too slow"]


@HOOKS
async def test_a_check_in_a_hook_ends_the_run_with_its_error(crew: Crew, hook: Any) -> None:
    def guard(arguments: dict[str, Any], run_context: RunContext) -> None:
        raise InputCheckError(f"{arguments['member_id']} is not to be asked")

    team = crew.team(
        [delegate("one"), delegate("one")],
        members=[crew.agent("One", Text("First."))],
        tool_hooks=[hook, guard],
    )
    events = await events_of(team, run_id="the-run")
    check_log(events)
    assert events[-1].event == "TeamRunError"
    assert events[-1].error_type == "InputCheckError"
    output = await crew.agent("Other", Text("ok")).arun("Go.")
    assert output.status is RunStatus.completed
    check_messages(output.messages)
