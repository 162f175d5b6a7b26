"""How long a tool's call may take, and how often it is made again (SPEC §6)."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kern_async import Agent, RunContext, RunStatus, abandoned, cancel_run, cancel_tool_call, tool
from kern_async.exceptions import InputCheckError
from kern_async.testing import Text, ToolCall
from kern_async.testing.scripted import ScriptedModel, call

from .stage import KINDS, RUN, Held, Kind, Stage, answers, is_cancelled, still_live
from .stubborn import GRACE, Stubborn

idle = anyio.lowlevel.checkpoint
SHORT = 0.05
"""Seconds, of which a test waits a few."""
CALL = "call-7"


def timed(held: Held, timeout: float = SHORT, **options: Any) -> Any:
    return tool(name=held.name, timeout=timeout, **options)(held.tool.entrypoint)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_takes_too_long_is_cut_and_the_model_is_told(stage: Stage, kind: Kind) -> None:
    held = Held(kind=kind)
    agent = stage.crew.agent("Solo", ToolCall("held"), Text("I see."), tools=[timed(held)])
    output = await stage.run(agent, idle)
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert stage.crew.told() == ["held timed out after 0.05 s"]
    (execution,) = output.tools
    assert (execution.result, execution.tool_call_error) == ("held timed out after 0.05 s", True)
    assert held.context.cancelled, "a thread may look whether anybody still wants its result"
    assert [work.kind for work in abandoned()] == ([] if kind.startswith("async") else ["thread"])
    held.released.set()
    await stage.until(lambda: bool(held.ended) and not abandoned())
    assert held.ended == ["cut" if kind.startswith("async") else "done"]


async def test_the_calls_beside_it_take_their_time(stage: Stage) -> None:
    slow, other = Held("slow"), Held("other")

    async def act() -> None:
        await stage.until(lambda: slow.ended == ["cut"])
        await still_live()
        assert not other.context.cancelled
        other.released.set()

    agent = stage.crew.agent(
        "Solo", [ToolCall("slow"), ToolCall("other")], Text("I see."), tools=[timed(slow), other.tool]
    )
    output = await stage.run(agent, act)
    assert output.status is RunStatus.completed
    assert stage.crew.told() == ["slow timed out after 0.05 s", "done"]


async def test_a_call_that_is_in_time_is_left_alone(stage: Stage) -> None:
    helds = [Held(name=kind.replace(" ", "_"), kind=kind) for kind in KINDS]
    for held in helds:
        held.released.set()
    calls = [ToolCall(held.name) for held in helds]
    agent = stage.crew.agent("Solo", calls, tools=[timed(held, 30) for held in helds])
    output = await stage.run(agent, idle)
    assert answers(output) == ["done"] * 4
    assert abandoned() == []


@pytest.mark.virtual_time
@pytest.mark.parametrize("retries", [0, 2])
async def test_an_hour_is_an_hour_and_each_attempt_has_its_own(retries: int) -> None:
    began: list[float] = []

    @tool(timeout=3600, retries=retries)
    async def sleep() -> None:
        began.append(anyio.current_time())
        await anyio.sleep_forever()

    start = anyio.current_time()
    model = ScriptedModel("m", [[call("sleep")], ["I see."]])
    output = await Agent(name="a", model=model, tools=[sleep]).arun("go")
    assert output.status is RunStatus.completed
    assert [at - start for at in began] == pytest.approx([3600 * n for n in range(retries + 1)], abs=1)
    assert anyio.current_time() - start == pytest.approx(3600 * (retries + 1), abs=1)
    assert answers(output) == ["sleep timed out after 3600 s"]


async def test_a_tools_own_timeouts_are_its_own(stage: Stage) -> None:
    @tool(timeout=30)
    async def own() -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()
        return "never"

    agent = stage.crew.agent("Solo", ToolCall("own"), tools=[own])
    output = await stage.run(agent, idle)
    assert "timed out after 30" not in answers(output)[0]
    assert output.tools[0].tool_call_error
    assert output.status is RunStatus.completed


async def test_a_stubborn_call_is_left_after_its_time_and_the_grace(stage: Stage) -> None:
    stubborn, took = Stubborn(), list[float]()
    slow = tool(timeout=SHORT)(stubborn.tool)
    agent = stage.crew.agent("Solo", ToolCall("tool"), Text("I see."), tools=[slow], cancel_grace=GRACE)

    async def act() -> None:
        await stage.until(stubborn.started.is_set)
        began = anyio.current_time()
        await stage.until(lambda: len(stage.crew.requests()) == 2)
        took.append(anyio.current_time() - began)

    output = await stage.run(agent, act)
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert GRACE <= took[0] < GRACE + SHORT + 0.6
    assert [(work.kind, work.name) for work in abandoned()] == [("tool", "tool")]
    events = len(stage.events)
    await stubborn.release()
    assert answers(output) == ["tool timed out after 0.05 s"]
    assert len(stage.events) == events
    assert "late" not in output.to_json()


@pytest.mark.parametrize("mode", ["after_tools", "after_turn"])
async def test_a_gracefully_ending_run_waits_no_longer_than_the_tool_may_take(
    stage: Stage, mode: Any
) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[timed(held, 0.3, retries=5)])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode=mode)

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert answers(output) == ["held timed out after 0.3 s"]
    assert held.ended == ["cut"], "no attempt begins in a run that ends"


class Flaky:
    """A tool that fails so many times before it succeeds."""

    def __init__(self, failures: int, kind: Kind = "async", error: type[Exception] = ValueError) -> None:
        self.called = 0
        self._failures = failures
        self._kind = kind
        self._error = error

    def tool(self, **options: Any) -> Any:
        def attempt(n: int) -> str:
            self.called += 1
            if self.called <= self._failures:
                raise self._error(f"failure {self.called}")
            return f"{n} at last"

        async def aflaky(n: int) -> str:
            await anyio.lowlevel.checkpoint()
            return attempt(n)

        def flaky(n: int) -> str:
            return attempt(n)

        async def agenerates(n: int) -> Any:
            yield attempt(n)

        def generates(n: int) -> Any:
            yield attempt(n)

        made: Any = {
            "async": aflaky,
            "sync": flaky,
            "async generator": agenerates,
            "generator": generates,
        }[self._kind]
        return tool(name="flaky", **options)(made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("failures", "retries"), [(0, 2), (1, 2), (2, 2), (3, 2), (1, 0)])
async def test_a_call_that_failed_is_made_again_so_often(
    stage: Stage, kind: Kind, failures: int, retries: int
) -> None:
    flaky = Flaky(failures, kind)
    agent = stage.crew.agent(
        "Solo", ToolCall("flaky", {"n": 4}), Text("I see."), tools=[flaky.tool(retries=retries)]
    )
    output = await stage.run(agent, idle)
    assert output.status is RunStatus.completed
    assert flaky.called == min(failures, retries) + 1
    failed = failures > retries
    assert stage.crew.told() == [f"failure {retries + 1}" if failed else "4 at last"]
    assert output.tools[0].tool_call_error is failed
    assert output.metrics.tool_calls == len(output.tools) == 1
    if stage.streamed:
        assert len(stage.kinds("ToolCallStarted")) == 1
        assert len(stage.kinds("ToolCallError")) == failed


@pytest.mark.parametrize("arguments", [{}, {"n": "four"}, {"n": 4, "m": 5}, "{"])
async def test_arguments_that_do_not_fit_are_not_tried_again(stage: Stage, arguments: Any) -> None:
    flaky = Flaky(0)
    agent = stage.crew.agent("Solo", ToolCall("flaky", arguments), tools=[flaky.tool(retries=5)])
    output = await stage.run(agent, idle)
    assert flaky.called == 0
    assert output.tools[0].tool_call_error
    assert output.status is RunStatus.completed


async def test_a_refusal_is_not_tried_again(stage: Stage) -> None:
    flaky = Flaky(9, error=InputCheckError)
    agent = stage.crew.agent("Solo", ToolCall("flaky", {"n": 4}), tools=[flaky.tool(retries=5)])
    output = await stage.run(agent, idle)
    assert flaky.called == 1
    assert (output.status, output.error_type) == (RunStatus.error, "InputCheckError")


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("what", ["run", "call", "after_tools"])
async def test_a_cancel_ends_the_attempts(stage: Stage, kind: str, what: str) -> None:
    held, called = Held(kind="async" if kind == "async" else "sync"), list[int]()
    entry = held.tool.entrypoint

    async def atry(context: RunContext) -> str:
        called.append(len(called))
        if len(called) > 1:
            await entry(context)
        raise ValueError("not yet")

    def stry(context: RunContext) -> str:
        called.append(len(called))
        if len(called) > 1:
            entry(context)
        raise ValueError("not yet")

    trying = tool(name="trying", retries=5)(atry if kind == "async" else stry)
    agent = stage.crew.agent("Solo", ToolCall("trying", id=CALL), Text("I see."), tools=[trying])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        if what == "call":
            assert cancel_tool_call(RUN, CALL)
        else:
            assert cancel_run(RUN, mode="now" if what == "run" else "after_tools")
        await still_live() if what == "after_tools" else None
        if what == "after_tools":
            held.released.set()

    output = await stage.run(agent, act)
    held.released.set()
    await stage.until(lambda: bool(held.ended) and not abandoned())
    assert len(called) == 2
    assert answers(output) == ["not yet" if what == "after_tools" else "cancelled"]
    if what == "call":
        assert (output.status, output.content) == (RunStatus.completed, "I see.")
    else:
        assert is_cancelled(output)


async def test_a_thread_that_was_left_hears_that_its_attempt_is_over(read_stage: Stage) -> None:
    """Its call goes on with another attempt; what the first one still does goes nowhere."""
    stage, held, contexts = read_stage, Held(kind="sync"), list[RunContext]()
    entry = held.tool.entrypoint
    first_over = Held("unused")

    def twice(context: RunContext) -> str:
        contexts.append(context)
        if len(contexts) == 1:
            entry(context)
            context.report("late report")
            first_over.begun.set()
            return "late result"
        assert first_over.released.wait(10)
        return "in time"

    slow = tool(name="twice", timeout=2, retries=1)(twice)
    agent = stage.crew.agent("Solo", ToolCall("twice"), Text("I see."), tools=[slow])
    told: list[bool] = []

    async def act() -> None:
        await stage.until(lambda: len(contexts) == 2)
        told.extend(context.cancelled for context in contexts)
        held.released.set()
        await stage.until(first_over.begun.is_set)
        await still_live()
        first_over.released.set()

    output = await stage.run(agent, act)
    assert answers(output) == ["in time"]
    assert told == [True, False]
    assert not stage.kinds("CustomEvent")
    await stage.until(lambda: not abandoned())
