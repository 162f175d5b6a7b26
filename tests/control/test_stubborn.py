"""Code that swallows every cancel holds its run no longer than the grace, and burns no core meanwhile (P5, P6)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kern_async import Agent, RunContext, RunStatus, Team, abandoned, cancel_run, cancel_tool_call
from kern_async.testing.scripted import ScriptedModel, call

from ..engine.invariants import check_messages
from .stage import RUN, answers

STUBBORN = 30
"""Seconds that it goes on."""


class Refusing:
    """Goes on for `STUBBORN` seconds, or until it is released, whatever comes."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.over = anyio.Event()
        self.released = anyio.Event()

    async def _go_on(self) -> None:
        self.begun.set()
        until = anyio.current_time() + STUBBORN
        while not self.released.is_set() and (left := until - anyio.current_time()) > 0:
            try:
                # The shield is for trio, where a scope that was cancelled never lets anybody wait again.
                with anyio.CancelScope(shield=True), anyio.move_on_after(left):
                    await self.released.wait()
            except anyio.get_cancelled_exc_class():
                continue

    async def tool(self, context: RunContext) -> str:
        """Refuse to stop."""
        await self._go_on()
        context.report("late report")
        context.session_state["late"] = True
        self.over.set()
        return "late result"

    async def generates(self, context: RunContext) -> AsyncGenerator[str, None]:
        """Refuse to stop."""
        yield "early "
        try:
            await self._go_on()
            yield "late result"
        finally:
            self.over.set()

    async def hook(self, run_context: RunContext) -> None:
        await self._go_on()
        run_context.report("late report")
        run_context.session_state["late"] = True
        self.over.set()


def an_agent(refusing: Refusing, where: str, **options: Any) -> Agent:
    name = "generates" if where == "generates" else "tool"
    turns: list[Any] = [[call(name).model_copy(update={"id": "call-7"})], ["I see."]]
    hooks: dict[str, Any] = {where: [refusing.hook]} if where.endswith("hooks") else {}
    if where.endswith("hooks"):
        turns = [["said"]]
    return Agent(
        name="a",
        model=ScriptedModel("m", turns),
        tools=[refusing.tool, refusing.generates],
        **hooks,
        **options,
    )


async def nothing_is_abandoned() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    assert abandoned() == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("where", ["tool", "generates", "pre_hooks", "post_hooks"])
@pytest.mark.parametrize("grace", [0.0, 1.0, 5.0])
async def test_the_run_ends_when_the_grace_does(where: str, grace: float) -> None:
    refusing, took = Refusing(), list[float]()
    agent = an_agent(refusing, where, cancel_grace=grace)
    async with agent.arun("go", stream=True, stream_events=True, run_id=RUN) as events:
        await refusing.begun.wait()
        began = anyio.current_time()
        assert cancel_run(RUN)
        seen: list[Any] = [event async for event in events]
        took.append(anyio.current_time() - began)
    output = events.output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert grace <= took[0] <= grace + 0.05
    (work,) = output.abandoned
    name, kind = ("hook", "hook") if where.endswith("hooks") else (where, "tool")
    assert (work.kind, work.name, work.run_id) == (kind, name, RUN)
    assert abandoned() == [work]
    check_messages(output.messages)
    before = output.to_json()
    await refusing.over.wait()
    await nothing_is_abandoned()
    assert output.to_json() == before
    assert "late" not in before
    assert not any("late" in event.to_json() for event in seen)
    assert [event async for event in events] == []


@pytest.mark.virtual_time
async def test_the_grace_counts_once_however_many_refuse() -> None:
    refusing = [Refusing() for _ in range(4)]
    members = [an_agent(each, "tool", cancel_grace=20) for each in refusing]
    for number, member in enumerate(members):
        member.name = member.id = f"m{number}"
    team = Team(name="t", model=ScriptedModel("t", []), members=members, mode="broadcast", cancel_grace=2.0)
    async with team.arun("go", stream=True, run_id=RUN) as events:
        for each in refusing:
            await each.begun.wait()
        began = anyio.current_time()
        assert cancel_run(RUN)
        async for _ in events:
            pass
        assert 2 <= anyio.current_time() - began <= 2.1
    assert events.output is not None
    assert len(events.output.abandoned) == 4
    for each in refusing:
        await each.over.wait()
    await nothing_is_abandoned()


@pytest.mark.virtual_time
async def test_one_call_that_refuses_holds_its_run_no_longer_either() -> None:
    refusing = Refusing()
    agent = an_agent(refusing, "tool", cancel_grace=2.0)
    async with agent.arun("go", stream=True, stream_events=True, run_id=RUN) as events:
        await refusing.begun.wait()
        began = anyio.current_time()
        assert cancel_tool_call(RUN, "call-7")
        seen: list[Any] = [event async for event in events]
        assert 2 <= anyio.current_time() - began <= 2.1
    output: Any = events.output
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert answers(output) == ["cancelled"]
    assert [work.tool_call_id for work in abandoned()] == ["call-7"]
    await refusing.over.wait()
    await nothing_is_abandoned()
    assert not any("late" in event.to_json() for event in seen)
    assert "late" not in output.to_json()


@pytest.mark.virtual_time
@pytest.mark.parametrize("mode", ["after_tools", "after_turn"])
async def test_a_graceful_cancel_waits_for_it_and_an_urgent_one_bounds_the_wait(mode: Any) -> None:
    refusing = Refusing()
    agent = an_agent(refusing, "tool", cancel_grace=2.0)
    async with agent.arun("go", stream=True, run_id=RUN) as events:
        await refusing.begun.wait()
        assert cancel_run(RUN, mode=mode)
        await anyio.sleep(10)
        assert events.output is None
        began = anyio.current_time()
        assert cancel_run(RUN)
        async for _ in events:
            pass
        assert 2 <= anyio.current_time() - began <= 2.1
    await refusing.over.wait()
    await nothing_is_abandoned()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["tool", "generates", "pre_hooks", "one call", "broadcast"])
async def test_waiting_for_it_burns_no_core(where: str) -> None:
    """A cancel that is delivered again and again spins: 45 % of a core and more."""
    refusing = [Refusing(), Refusing()] if where == "broadcast" else [Refusing()]
    agents = [an_agent(each, where if where in ("generates", "pre_hooks") else "tool") for each in refusing]
    runner: Agent | Team = agents[0]
    if where == "broadcast":
        for number, member in enumerate(agents):
            member.name = member.id = f"m{number}"
        runner = Team(name="t", model=ScriptedModel("t", []), members=agents, mode="broadcast")
    runner.cancel_grace = 1.0
    async with runner.arun("go", stream=True, run_id=RUN) as events:
        for each in refusing:
            await each.begun.wait()
        cpu, began = time.process_time(), time.monotonic()
        assert cancel_tool_call(RUN, "call-7") if where == "one call" else cancel_run(RUN)
        async for _ in events:
            pass
    burned, took = time.process_time() - cpu, time.monotonic() - began
    assert 1 <= took < 2
    assert burned < 0.2 * took, f"{burned:.2f} s of CPU time in {took:.2f} s"
    # Nor does it spin afterwards, when nobody waits for it any more.
    cpu = time.process_time()
    await anyio.sleep(0.3)
    assert time.process_time() - cpu < 0.06
    for each in refusing:
        each.released.set()
        await each.over.wait()
    await nothing_is_abandoned()
