"""A cancel at any instant leaves a whole, valid and truthful run (I1-I4)."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async import Agent, RunContext, RunStatus, Team, cancel_run
from kern_async.run.cancel import get_active_runs
from kern_async.testing.scripted import ScriptedModel, call

from .invariants import ENDS, check_log, check_messages


async def look_up(word: str) -> str:
    await anyio.lowlevel.checkpoint()
    return f"{word}: found"


async def note(word: str, context: RunContext) -> str:
    context.session_state[word] = True
    context.report(f"noting {word}")
    await anyio.lowlevel.checkpoint()
    return "noted"


def count(word: str) -> int:
    return len(word)


def a_team() -> Team:
    """Three members in parallel, one of them a team, with tools of both kinds and two turns each."""

    def delegate(*members: str) -> list[Any]:
        return ["I ask. ", *(call("delegate_task_to_member", member_id=m, task="do") for m in members)]

    def member(name: str, *tools: Any) -> Agent:
        model = ScriptedModel(
            name,
            [["Let me ", "see. ", *(call(tool.__name__, word=name) for tool in tools)], ["It ", "is ", name]],
        )
        return Agent(name=name, model=model, tools=tools)

    inner = Team(
        name="inner",
        members=[member("deep", look_up)],
        model=ScriptedModel("inner", [delegate("deep"), ["inner ", "done"]]),
    )
    return Team(
        name="outer",
        members=[member("one", look_up, note), member("two", count), inner],
        model=ScriptedModel("outer", [delegate("one", "two", "inner"), ["All ", "done."]]),
    )


async def after(steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()


@settings(max_examples=120)
@given(steps=st.integers(0, 140), target=st.sampled_from(["root", "member"]), data=st.data())
async def test_a_cancel_at_any_step_of_a_team_ends_it_once_and_truthfully(
    steps: int, target: str, data: st.DataObject
) -> None:
    team = a_team()
    events: list[Any] = []
    answered: list[tuple[str, bool]] = []

    async def canceller() -> None:
        await after(steps)
        live = [event.run_id for event in events if event.event in ("RunStarted", "TeamRunStarted")]
        chosen = (
            stream.run_id if target == "root" or not live else live[data.draw(st.integers(0, len(live) - 1))]
        )
        ended = {event.run_id for event in events if event.event in ENDS}
        answer = cancel_run(chosen, reason="enough")
        assert not (answer and chosen in ended), "a run that had ended was cancelled"
        answered.append((chosen, answer))

    async with anyio.create_task_group() as group:
        stream = team.arun("go", stream=True, stream_events=True)
        group.start_soon(canceller)
        async for event in stream:
            events.append(event)  # noqa: PERF401 - the canceller looks at what there is so far

    check_log(events)
    [(chosen, answer)] = answered
    statuses = {event.run_id: event.status for event in events if event.event in ENDS}
    if chosen in statuses:
        # I3: True exactly if the run ends cancelled; members that a cancelled team ends are its own business.
        assert answer == (statuses[chosen] is RunStatus.cancelled)
    output = stream.output
    assert output is not None
    assert output.status is statuses[stream.run_id]
    check_messages(output.messages)
    assert output.messages[0].role in ("system", "user")
    assert "go" in [message.content for message in output.messages]
    for member in output.member_responses:
        check_messages(member.messages)
        assert member.status is statuses[member.run_id]
    assert not get_active_runs()


@settings(max_examples=60)
@given(steps=st.integers(0, 140), twice=st.booleans())
async def test_an_outside_cancel_at_any_step_goes_on_untouched_and_leaves_a_whole_run(
    steps: int, twice: bool
) -> None:
    team = a_team()
    team.store_events = True
    outputs: list[Any] = []
    kept = team.arun("go", stream=True, stream_events=True)

    async def run() -> None:
        async for _ in kept:
            pass
        outputs.append(kept.output)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await after(steps)
            scope.cancel()
    if twice:
        await after(3)
    output = kept.output
    if output is None:  # cancelled before its first step
        assert not kept.cancel() or steps == 0
        await kept.aclose()
        output = kept.output
    assert output is not None
    assert output.events is not None
    rest = [event async for event in kept]
    assert not rest or rest[-1].event in ENDS
    assert output.status in (RunStatus.cancelled, RunStatus.completed)
    if output.status is RunStatus.cancelled and output.cancelled_by != "request":
        assert output.cancelled_by in ("caller", "consumer")
    check_messages(output.messages)
    assert not get_active_runs()


@settings(max_examples=40)
@given(steps=st.integers(0, 140))
async def test_a_native_cancel_at_any_step_of_an_awaited_team_stays_the_task_s_own(steps: int) -> None:
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return  # trio has no native cancel but scopes, as above
    team = a_team()
    task = asyncio.create_task(team.arun("go", run_id="native"))
    await after(steps)
    task.cancel()
    done, _ = await asyncio.wait([task])
    assert done == {task}
    assert not get_active_runs()
    if not task.cancelled():
        assert task.result().status is RunStatus.completed
