"""A cancel at any instant of a team that pauses and goes on leaves a whole, valid and truthful run."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async import Agent, RunStatus, Team, cancel_run, tool
from kern_async.run.cancel import get_active_runs
from kern_async.testing.scripted import ScriptedModel, call

from ..engine.invariants import check_messages
from .attempts import check_attempts


@tool(requires_confirmation=True)
async def pay(amount: int) -> str:
    """Pay."""
    await anyio.lowlevel.checkpoint()
    return f"paid {amount}"


async def look() -> str:
    """Look."""
    await anyio.lowlevel.checkpoint()
    return "nothing"


def a_team() -> Team:
    def ask(*members: str) -> list[Any]:
        return [
            "I ask. ",
            *(call("delegate_task_to_member", member_id=member, task="go") for member in members),
        ]

    def payer(name: str) -> Agent:
        turns = [["Let me ", call("pay", amount=1), call("look")], ["It ", "is ", "paid"]]
        return Agent(name=name, model=ScriptedModel(name, turns), tools=[pay, look])

    inner = Team(
        [payer("deep")], name="inner", model=ScriptedModel("inner", [ask("deep"), ["inner ", "done"]])
    )
    model = ScriptedModel("outer", [[*ask("one", "inner"), call("pay", amount=2)], ["All ", "done."]])
    return Team([payer("one"), inner], name="outer", model=model, tools=[pay])


async def after(steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()


def outputs(output: Any) -> list[Any]:
    return [output, *(deep for member in getattr(output, "member_responses", ()) for deep in outputs(member))]


@settings(max_examples=60)
@given(
    steps=st.integers(0, 120),
    attempt=st.integers(0, 2),
    confirmed=st.lists(st.booleans(), min_size=3, max_size=3),
    mode=st.sampled_from(["now", "after_tools", "after_turn"]),
)
async def test_a_cancel_at_any_step_of_any_attempt(  # noqa: C901 - attempts, and a cancel beside one of them
    steps: int, attempt: int, confirmed: list[bool], mode: Any
) -> None:
    team = a_team()
    seen: list[Any] = []
    answers: list[bool] = []
    stream: Any = team.arun("go", stream=True, stream_events=True, run_id="any")
    last: Any = None

    async def cancel() -> None:
        await after(steps)
        answers.append(cancel_run("any", mode=mode))

    for number in range(3):
        async with anyio.create_task_group() as group:
            if number == attempt:
                group.start_soon(cancel)
            seen += [event async for event in stream]
        last = stream.output
        assert last is not None
        if "any" not in get_active_runs():
            break
        if number == 0:
            for word, requirement in zip(confirmed, last.active_requirements, strict=False):
                if word:
                    requirement.confirm()
        else:
            for requirement in last.active_requirements:
                requirement.reject()
        stream = team.acontinue_run(run_id="any", stream=True, stream_events=True)
    else:
        cancel_run("any")
    if last.status is RunStatus.paused:  # cancelled after that: the last attempt is the cancel's own
        assert answers == [True] or cancel_run("any") is False
    else:
        check_attempts(seen)
        assert (answers == [True]) == (last.status is RunStatus.cancelled)
        for output in outputs(last):
            check_messages(output.messages)
    assert not get_active_runs()
