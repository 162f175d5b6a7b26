"""Ways to cancel a run: what each still lets finish, and that no further request is made (SPEC §4)."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest
from pydantic import BaseModel

from kern_async import Agent, RunContext, RunStatus, TeamMode, acancel_run, cancel_run, tool
from kern_async.exceptions import ConfigurationError, InputCheckError
from kern_async.run.cancel import get_active_runs
from kern_async.testing import Cut, End, Gate, Hang, Status, Step, Text, ToolCall, Usage

from ..agent.crew import Crew, delegate
from .stage import KINDS, RUN, Held, Kind, Stage, answers, by_name, is_cancelled, still_live

GRACEFUL = ("after_tools", "after_turn")


class Ending(BaseModel):
    """An argument that cancels the run when it is looked at."""

    mode: Any

    def model_post_init(self, _context: Any) -> None:
        assert cancel_run(RUN, mode=self.mode)


def half(gate: Gate, first: str = "one ", second: str = "two", *more: Step) -> list[Step]:
    """An answer that comes to its second half when the gate is opened."""
    return [Usage(100, 7), Text([first]), gate, Text([second]), *more]


# after_tools


@pytest.mark.parametrize("kind", KINDS)
async def test_after_tools_lets_the_running_tool_finish_and_asks_nothing_more(
    stage: Stage, kind: Kind
) -> None:
    held = Held(kind=kind)
    agent = stage.crew.agent("Solo", [Usage(100, 7), Text("So: "), ToolCall("held")], tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode="after_tools", reason="enough")
        await still_live()
        assert cancel_run(RUN, mode="after_tools")
        assert not held.context.cancelled
        held.context.raise_if_cancelled()
        held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output, reason="enough")
    assert held.ended == ["done"]
    assert answers(output) == ["done"]
    assert [(t.result, t.tool_call_error) for t in output.tools] == [("done", False)]
    assert output.content == "So: "
    assert output.interrupted == []
    assert output.abandoned == []
    assert len(stage.crew.requests()) == 1
    metrics = output.metrics
    assert (metrics.input_tokens, metrics.output_tokens, metrics.estimated) == (100, 7, False)


async def test_after_tools_cuts_an_answer_at_once_when_no_tool_runs(read_stage: Stage) -> None:
    stage = read_stage
    agent = stage.crew.agent("Solo", half(Gate()))

    async def act() -> None:
        await stage.heard("one ")
        assert cancel_run(RUN, mode="after_tools")

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.content == "one "
    assert [work.kind for work in output.interrupted] == ["model"]
    assert output.metrics.estimated
    assert stage.crew.requests()[0].outcome == "disconnected"


async def test_after_tools_cuts_an_answer_that_follows_finished_tools(stage: Stage) -> None:
    held = Held()
    held.released.set()
    agent = stage.crew.agent("Solo", ToolCall("held"), half(Gate()), tools=[held.tool])

    async def act() -> None:
        await stage.answering("Solo")
        assert cancel_run(RUN, mode="after_tools")

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert answers(output) == ["done"]
    assert len(stage.crew.requests()) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_call_that_has_not_begun_begins_only_if_its_turn_may_finish(
    read_stage: Stage, mode: Any
) -> None:
    """The first call's arguments cancel the run while they are looked at, before the second call begins."""
    stage = read_stage

    called: list[str] = []

    async def first(ending: Ending) -> str:
        await anyio.wait_all_tasks_blocked()
        called.append("first")
        return "one"

    async def second() -> str:
        await anyio.lowlevel.checkpoint()
        called.append("second")
        return "two"

    calls = [ToolCall("first", {"ending": {"mode": mode}}), ToolCall("second")]
    agent = stage.crew.agent("Solo", calls, tools=[first, second])
    output = await stage.run(agent, anyio.lowlevel.checkpoint)
    assert is_cancelled(output)
    assert len(stage.crew.requests()) == 1
    if mode == "after_tools":
        assert answers(output) == ["one", "cancelled"]
        assert called == ["first"]
        assert [e.tool.tool_name for e in stage.kinds("ToolCallStarted")] == ["first"]
    else:
        assert answers(output) == ["one", "two"]
        assert sorted(called) == ["first", "second"]
    assert [tool.tool_call_error for tool in output.tools] == [False, mode == "after_tools"]


async def test_after_tools_on_a_team_cuts_answers_and_lets_tools_finish(stage: Stage) -> None:
    held = Held()
    talker = stage.crew.agent("Talker", half(Gate()))
    worker = stage.crew.agent("Worker", [Usage(50, 5), ToolCall("held")], tools=[held.tool])
    team = stage.crew.team([Usage(100, 7), delegate("talker"), delegate("worker")], members=[talker, worker])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.answering("Talker")
        assert cancel_run(RUN, mode="after_tools", reason="enough")
        await stage.until(lambda: stage.crew.requests("Talker")[0].outcome == "disconnected")
        await still_live()
        assert not held.context.cancelled
        held.released.set()

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert is_cancelled(output, reason="enough")
    assert is_cancelled(outputs["Talker"], by="parent")
    assert is_cancelled(outputs["Worker"], by="parent")
    assert answers(outputs["Worker"]) == ["done"]
    assert not outputs["Worker"].metrics.estimated
    assert outputs["Worker"].interrupted == []
    assert held.ended == ["done"]
    assert sorted(r.model for r in stage.crew.provider.requests) == ["Leader", "Talker", "Worker"]
    assert [tool.tool_call_error for tool in output.tools] == [True, True]


async def test_after_tools_reaches_through_nested_teams(stage: Stage) -> None:
    held = Held(kind="sync")
    deep = stage.crew.agent("Deep", ToolCall("held"), tools=[held.tool])
    talker = stage.crew.agent("Talker", half(Gate()))
    inner = stage.crew.team([delegate("deep"), delegate("talker")], members=[deep, talker], name="Inner")
    team = stage.crew.team(delegate("inner"), members=[inner])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.answering("Talker")
        assert cancel_run(RUN, mode="after_tools")
        await stage.until(lambda: stage.crew.requests("Talker")[0].outcome == "disconnected")
        await still_live()
        held.released.set()

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert {name: each.status for name, each in outputs.items()} == dict.fromkeys(
        ("Leader", "Inner", "Deep", "Talker"), RunStatus.cancelled
    )
    assert answers(outputs["Deep"]) == ["done"]
    assert len(stage.crew.provider.requests) == 4


# after_turn


async def test_after_turn_lets_the_answer_come_to_its_end(any_crew: Crew) -> None:
    for streamed in (True, False):
        stage, gate = Stage(any_crew, streamed), Gate()
        agent = any_crew.agent("Solo", half(gate))

        async def act(stage: Stage = stage, gate: Gate = gate) -> None:
            await stage.answering("Solo")
            assert cancel_run(RUN, mode="after_turn", reason="enough")
            await still_live()
            gate.open()

        output = await stage.run(agent, act)
        assert is_cancelled(output, reason="enough")
        assert output.content == "one two"
        assert output.messages[-1].content == "one two"
        assert output.interrupted == []
        metrics = output.metrics
        assert (metrics.input_tokens, metrics.output_tokens, metrics.estimated) == (100, 7, False)
        assert any_crew.requests()[-1].outcome == "completed"


@pytest.mark.parametrize("kind", KINDS)
async def test_after_turn_lets_the_tools_that_the_answer_calls_run(stage: Stage, kind: Kind) -> None:
    held, gate = Held(kind=kind), Gate()
    held.released.set()
    agent = stage.crew.agent("Solo", [*half(gate), ToolCall("held"), ToolCall("held")], tools=[held.tool])

    async def act() -> None:
        await stage.answering("Solo")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.content == "one two"
    assert answers(output) == ["done", "done"]
    assert held.ended == ["done", "done"]
    assert len(stage.crew.requests()) == 1
    assert (output.metrics.total_tokens, output.metrics.estimated) == (107, False)


async def test_after_turn_while_tools_run_lets_them_finish(stage: Stage) -> None:
    one, two = Held("one"), Held("two", kind="sync")
    agent = stage.crew.agent("Solo", [ToolCall("one"), ToolCall("two")], tools=[one.tool, two.tool])

    async def act() -> None:
        await stage.until(lambda: one.begun.is_set() and two.begun.is_set())
        assert cancel_run(RUN, mode="after_turn")
        await still_live()
        assert not one.context.cancelled
        assert not two.context.cancelled
        two.released.set()
        await still_live()
        one.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert answers(output) == ["done", "done"]
    assert len(stage.crew.requests()) == 1


async def test_after_turn_lets_whole_members_finish(stage: Stage) -> None:
    held, gate = Held(), Gate()
    worker = stage.crew.agent("Worker", ToolCall("held"), [Usage(10, 1), Text("Found.")], tools=[held.tool])
    talker = stage.crew.agent("Talker", half(gate))
    inner = stage.crew.team(delegate("talker"), Text("Inner says so."), members=[talker], name="Inner")
    team = stage.crew.team([delegate("worker"), delegate("inner")], members=[worker, inner])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.answering("Talker")
        assert cancel_run(RUN, mode="after_turn")
        await still_live()
        held.released.set()
        gate.open()

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert is_cancelled(output)
    for name, content in (("Worker", "Found."), ("Talker", "one two"), ("Inner", "Inner says so.")):
        assert (outputs[name].status, outputs[name].content) == (RunStatus.completed, content)
    assert answers(output) == ["Found.", "Inner says so."]
    assert [r.model for r in stage.crew.provider.requests].count("Leader") == 1
    assert not output.metrics.estimated


async def test_members_that_the_last_answer_calls_for_still_begin(stage: Stage) -> None:
    gate = Gate()
    team = stage.crew.team(
        [*half(gate), delegate("worker")], members=[stage.crew.agent("Worker", Text("Found."))]
    )

    async def act() -> None:
        await stage.answering("Leader")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    output = await stage.run(team, act)
    assert is_cancelled(output)
    assert output.content == "one two"
    assert output.member_responses[0].status is RunStatus.completed
    assert answers(output) == ["Found."]
    assert len(stage.crew.requests("Leader")) == 1


async def test_after_turn_lets_the_chosen_member_give_its_whole_answer(crew: Crew) -> None:
    stage, gate = Stage(crew, streamed=False), Gate()
    talker = stage.crew.agent("Talker", half(gate))
    team = stage.crew.team(delegate("talker"), members=[talker], mode=TeamMode.route)

    async def act() -> None:
        await stage.answering("Talker")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    output = await stage.run(team, act)
    assert is_cancelled(output)
    assert output.content == "one two"
    assert output.member_responses[0].status is RunStatus.completed


async def test_after_turn_in_a_broadcast_lets_the_members_finish(stage: Stage) -> None:
    gates = [Gate(), Gate()]
    members = [stage.crew.agent(f"M{n}", half(gate)) for n, gate in enumerate(gates)]
    team = stage.crew.team(members=members, mode=TeamMode.broadcast)

    async def act() -> None:
        await stage.answering("M0", "M1")
        assert cancel_run(RUN, mode="after_turn")
        await still_live()
        for gate in gates:
            gate.open()

    output = await stage.run(team, act)
    assert is_cancelled(output)
    assert [m.status for m in output.member_responses] == [RunStatus.completed] * 2
    assert stage.crew.requests("Leader") == []


async def test_after_turn_ends_a_task_list_too(stage: Stage) -> None:
    gate = Gate()
    team = stage.crew.team(
        half(gate), members=[stage.crew.agent("Worker")], mode=TeamMode.tasks, max_iterations=5
    )

    async def act() -> None:
        await stage.answering("Leader")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    output = await stage.run(team, act)
    assert is_cancelled(output)
    assert len(stage.crew.requests("Leader")) == 1


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_member_may_be_stopped_gently_and_its_leader_goes_on(read_stage: Stage, mode: Any) -> None:
    stage, held = read_stage, Held()
    worker = stage.crew.agent("Worker", [Text("Let me see. "), ToolCall("held")], tools=[held.tool])
    team = stage.crew.team(delegate("worker"), Text("All told."), members=[worker])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(stage.run_of("Worker"), mode=mode, reason="enough")
        await still_live(stage.run_of("Worker"))
        held.released.set()

    output = await stage.run(team, act)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    member = output.member_responses[0]
    assert is_cancelled(member, reason="enough")
    assert answers(member) == ["done"]
    (told,) = stage.crew.told("Leader")
    assert told == "Member Worker was cancelled (enough). Its answer so far: Let me see. "


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_graceful_end_is_one_even_where_a_tool_ends_the_loop(stage: Stage, mode: Any) -> None:
    held = Held()
    finish = tool(stop_after_tool_call=True, name="held")(held.tool.entrypoint)
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[finish])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode=mode)
        held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.content == "done"


async def test_a_run_inside_of_a_running_tool_is_part_of_it(stage: Stage) -> None:
    """`after_tools` lets it finish as it lets the tool finish."""
    gate = Gate()
    inner = stage.crew.agent("Inner", half(gate))

    async def ask() -> str:
        return str((await inner.arun("Go.")).content)

    agent = stage.crew.agent("Solo", ToolCall("ask"), tools=[ask])

    async def act() -> None:
        await stage.answering("Inner")
        assert cancel_run(RUN, mode="after_tools")
        await still_live()
        gate.open()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert answers(output) == ["one two"]


# Several cancels


async def test_a_later_cancel_may_make_it_sooner(read_stage: Stage) -> None:
    stage, held = read_stage, Held()
    talker = stage.crew.agent("Talker", half(Gate()))
    worker = stage.crew.agent("Worker", ToolCall("held"), tools=[held.tool])
    team = stage.crew.team([delegate("talker"), delegate("worker")], members=[talker, worker])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.heard("one ")
        assert cancel_run(RUN, mode="after_turn", reason="first")
        await still_live()
        assert stage.crew.requests("Talker")[0].outcome is None
        assert cancel_run(RUN, mode="after_tools", reason="second")
        await stage.until(lambda: stage.crew.requests("Talker")[0].outcome == "disconnected")
        await still_live()
        assert not held.context.cancelled
        assert cancel_run(RUN, mode="now", reason="third")
        assert held.context.cancelled

    output = await stage.run(team, act)
    assert is_cancelled(output, reason="first")
    assert held.ended == ["cut"]
    assert answers(by_name(output)["Worker"]) == ["cancelled"]
    assert by_name(output)["Talker"].content == "one "


async def test_a_later_cancel_never_makes_it_later(stage: Stage) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode="after_tools")
        await still_live()
        assert cancel_run(RUN, mode="after_turn")
        await still_live()
        assert cancel_run(RUN)
        assert cancel_run(RUN, mode="after_tools")
        assert cancel_run(RUN, mode="after_turn")
        assert held.context.cancelled

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert held.ended == ["cut"]


async def test_after_turn_then_after_tools_cuts_the_answer(stage: Stage) -> None:
    agent = stage.crew.agent("Solo", half(Gate()))

    async def act() -> None:
        await stage.answering("Solo")
        assert cancel_run(RUN, mode="after_turn")
        await still_live()
        assert cancel_run(RUN, mode="after_tools")

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert stage.crew.requests()[0].outcome == "disconnected"


async def test_one_members_tool_may_be_cut_while_anothers_finishes(read_stage: Stage) -> None:
    stage = read_stage
    helds = {name: Held() for name in ("A", "B")}
    members = [stage.crew.agent(name, ToolCall("held"), tools=[held.tool]) for name, held in helds.items()]
    team = stage.crew.team([delegate("a"), delegate("b")], members=members)

    async def act() -> None:
        for held in helds.values():
            await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode="after_tools", reason="root")
        await still_live()
        assert cancel_run(stage.run_of("A"), reason="member")
        await stage.until(lambda: helds["A"].ended == ["cut"])
        await still_live()
        assert not helds["B"].context.cancelled
        helds["B"].released.set()

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert is_cancelled(output, reason="root")
    assert answers(outputs["A"]) == ["cancelled"]
    assert answers(outputs["B"]) == ["done"]


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_the_first_claim_stays_when_a_deadline_comes_later(stage: Stage, mode: Any) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode=mode, reason="enough")

    output = await stage.run(agent, act, timeout=1)
    assert is_cancelled(output, reason="enough")
    assert held.ended == ["cut"]
    assert answers(output) == ["cancelled"]


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_reader_that_leaves_does_not_wait_for_a_graceful_end(crew: Crew, mode: Any) -> None:
    stage, held = Stage(crew), Held()
    agent = crew.agent("Solo", ToolCall("held"), tools=[held.tool])
    stream = agent.arun("Go.", stream=True, stream_events=True, run_id=RUN)
    with anyio.fail_after(10):
        async with stream as events:
            async for event in events:
                if event.event == "ToolCallStarted":
                    await stage.until(held.begun.is_set)
                    assert stream.cancel(mode=mode, reason="enough")
                    await still_live()
                    break
    assert is_cancelled(stream.output, reason="enough")
    assert held.ended == ["cut"]
    await stage.check(stream.output)


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_cancel_from_outside_does_not_wait_for_a_graceful_end(crew: Crew, mode: Any) -> None:
    stage, held = Stage(crew), Held()
    agent = crew.agent("Solo", ToolCall("held"), tools=[held.tool], store_events=True)
    with anyio.fail_after(10), anyio.CancelScope() as scope:
        async with agent.arun("Go.", stream=True, run_id=RUN) as events:
            await stage.until(held.begun.is_set)
            assert events.cancel(mode=mode, reason="enough")
            await still_live()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert is_cancelled(events.output, reason="enough")
    assert held.ended == ["cut"]


# Errors, pauses, hooks and back-off


@pytest.mark.parametrize("patience", ["none", "retries", "max_retries"])
@pytest.mark.parametrize(
    "fault", [End("failed"), Cut(), Status(400), Status(500)], ids=["failed", "cut", "400", "500"]
)
async def test_an_error_in_what_still_runs_ends_cancelled_with_the_error(
    stage: Stage, fault: Any, patience: str
) -> None:
    gate = Gate()
    before = [] if isinstance(fault, Status) else [Text(["one "])]
    options: dict[str, Any] = {"retries": 3, "delay_between_retries": 0} if patience == "retries" else {}
    if patience == "max_retries":
        options = {"model": stage.crew.model("Solo", max_retries=3)}
    agent = stage.crew.agent("Solo", [*before, gate, fault], **options)

    async def act() -> None:
        await stage.until(lambda: bool(stage.crew.requests()))
        await still_live()
        assert cancel_run(RUN, mode="after_turn", reason="enough")
        await still_live()
        gate.open()

    output = await stage.run(agent, act)
    assert is_cancelled(output, reason="enough")
    assert output.error
    assert output.error_type
    assert output.content == ("one " if before else None)
    assert len(stage.crew.requests()) == 1, "trying again is a further request"


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_tool_hook_that_stops_the_run_does_not_make_it_an_error(stage: Stage, mode: Any) -> None:
    held = Held()

    async def check(context: RunContext) -> str:
        await held.tool.entrypoint(context)
        raise InputCheckError("refused")

    agent = stage.crew.agent("Solo", ToolCall("check"), tools=[check])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode=mode)
        held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert (output.error, output.error_type) == ("refused", "InputCheckError")
    assert output.tools[0].result == "refused"


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_tools_failure_is_its_answer(stage: Stage, mode: Any) -> None:
    held = Held()

    async def fail(context: RunContext) -> str:
        await held.tool.entrypoint(context)
        raise ValueError("the well is dry")

    agent = stage.crew.agent("Solo", ToolCall("fail"), tools=[fail])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode=mode)
        held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.error is None
    assert answers(output) == ["the well is dry"]


async def test_a_pause_in_what_still_runs_ends_cancelled(stage: Stage) -> None:
    gate, called = Gate(), []

    @tool(requires_confirmation=True)
    def dangerous() -> str:
        called.append("dangerous")
        return "boom"

    def safe() -> str:
        return "safe"

    agent = stage.crew.agent(
        "Solo", [*half(gate), ToolCall("dangerous"), ToolCall("safe")], tools=[dangerous, safe]
    )

    async def act() -> None:
        await stage.answering("Solo")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert not called
    assert answers(output) == ["safe", "cancelled"] or answers(output) == ["cancelled", "safe"]
    assert not output.requirements


async def test_a_members_pause_in_what_still_runs_ends_both_cancelled(stage: Stage) -> None:
    gate = Gate()

    @tool(requires_confirmation=True)
    def dangerous() -> str:
        return "boom"

    worker = stage.crew.agent("Worker", [*half(gate), ToolCall("dangerous")], tools=[dangerous])
    team = stage.crew.team(delegate("worker"), members=[worker])

    async def act() -> None:
        await stage.answering("Worker")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    stage.streamed = False  # the member's paused event comes before its end
    output = await stage.run(team, act)
    assert is_cancelled(output)
    assert is_cancelled(output.member_responses[0], by="parent")
    assert answers(output) == ["cancelled"]
    assert answers(output.member_responses[0]) == ["cancelled"]


@pytest.mark.parametrize("mode", GRACEFUL)
@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("when", ["pre_hooks", "post_hooks"])
async def test_during_hooks_a_graceful_cancel_is_at_once(
    stage: Stage, mode: Any, kind: Kind, when: str
) -> None:
    held = Held(kind=kind)
    entry = held.tool.entrypoint

    async def hook(run_context: RunContext) -> None:
        await entry(run_context)

    def sync_hook(run_context: RunContext) -> None:
        entry(run_context)

    hooks: dict[str, Any] = {when: [hook if kind == "async" else sync_hook]}
    agent = stage.crew.agent("Solo", Text("Hello."), **hooks)

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_run(RUN, mode=mode)

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.content == ("Hello." if when == "post_hooks" else None)
    assert len(stage.crew.requests()) == (1 if when == "post_hooks" else 0)
    assert [work.kind for work in output.interrupted] == ["hook"]
    held.released.set()
    await stage.until(lambda: bool(held.ended))


@pytest.mark.parametrize("mode", GRACEFUL)
@pytest.mark.parametrize("whose", ["run", "model"])
async def test_during_a_back_off_a_graceful_cancel_is_at_once(
    read_stage: Stage, mode: Any, whose: str
) -> None:
    stage = read_stage
    options: dict[str, Any] = (
        {"retries": 1, "delay_between_retries": 3600}
        if whose == "run"
        else {"model": stage.crew.model("Solo", max_retries=1, retry_delay=3600)}
    )
    agent = stage.crew.agent("Solo", Status(500), **options)

    async def act() -> None:
        await stage.until(lambda: bool(stage.kinds("ModelRequestCompleted")))
        await still_live()
        assert cancel_run(RUN, mode=mode)

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert [work.kind for work in output.interrupted] == ["backoff"]
    assert len(stage.crew.requests()) == 1


# Where a cancel comes from and when


@pytest.mark.parametrize("mode", ["now", *GRACEFUL])
async def test_a_pending_stream_ends_in_any_mode(crew: Crew, mode: Any) -> None:
    stream = crew.agent().arun("Go.", stream=True, stream_events=True, run_id=RUN)
    assert stream.cancel(mode=mode, reason="early")
    assert stream.output is not None
    assert not cancel_run(RUN), "it was settled then and there"
    assert [event.event async for event in stream] == ["RunStarted", "RunCancelled"]
    assert is_cancelled(stream.output, reason="early")
    assert stream.output.cancellation_stage == "PENDING"
    assert crew.provider.requests == []


@pytest.mark.parametrize("mode", ["after_lunch", "", None, "NOW", 1])
async def test_an_unknown_mode_is_refused(crew: Crew, mode: Any) -> None:
    agent = crew.agent()
    stream = agent.arun("Go.", stream=True, run_id=RUN)
    with pytest.raises(ConfigurationError, match="after_turn"):
        stream.cancel(mode=mode)
    with pytest.raises(ConfigurationError, match="after_turn"):
        cancel_run(RUN, mode=mode)
    with pytest.raises(ConfigurationError, match="after_turn"):
        Agent.cancel_run("unknown", mode=mode)
    with pytest.raises(ConfigurationError, match="after_turn"):
        await agent.acancel_run(RUN, mode=mode)
    assert get_active_runs() == {RUN: False}
    assert [event.event async for event in stream][-1] == "RunCompleted"


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_thread_may_cancel_gracefully(stage: Stage, mode: Any) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert await anyio.to_thread.run_sync(lambda: cancel_run(RUN, mode=mode))
        await still_live()
        held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert answers(output) == ["done"]


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_tool_may_end_its_own_run_and_still_say_its_result(
    stage: Stage, mode: Any, kind: str
) -> None:
    said: list[bool] = []

    async def finish(context: RunContext) -> str:
        said.append(await acancel_run(context.run_id, mode=mode, wait=True))
        await anyio.wait_all_tasks_blocked()
        said.append(context.cancelled)
        return "my last word"

    def sync_finish(context: RunContext) -> str:
        said.append(cancel_run(context.run_id, mode=mode))
        said.append(context.cancelled)
        return "my last word"

    own = tool(name="finish")(finish if kind == "async" else sync_finish)
    agent = stage.crew.agent("Solo", ToolCall("finish"), tools=[own])
    output = await stage.run(agent, anyio.lowlevel.checkpoint)
    assert said == [True, False]
    assert is_cancelled(output)
    assert answers(output) == ["my last word"]
    assert len(stage.crew.requests()) == 1


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_a_members_tool_may_end_the_whole_tree_and_still_say_its_result(
    stage: Stage, mode: Any
) -> None:
    async def finish() -> str:
        assert await acancel_run(RUN, mode=mode, wait=True)
        await anyio.wait_all_tasks_blocked()
        return "my last word"

    worker = stage.crew.agent("Worker", ToolCall("finish"), Text("Found."), tools=[finish])
    output = await stage.run(stage.crew.team(delegate("worker"), members=[worker]), anyio.lowlevel.checkpoint)
    assert is_cancelled(output)
    member = output.member_responses[0]
    assert answers(member) == ["my last word"]
    if mode == "after_tools":
        assert is_cancelled(member, by="parent")
        assert len(stage.crew.provider.requests) == 2
    else:
        assert (member.status, member.content) == (RunStatus.completed, "Found.")
        assert len(stage.crew.provider.requests) == 3


@pytest.mark.parametrize("mode", GRACEFUL)
async def test_acancel_run_waits_for_a_graceful_end(stage: Stage, mode: Any) -> None:
    held = Held()
    agent = stage.crew.agent("Solo", ToolCall("held"), tools=[held.tool])
    order: list[str] = []

    async def act() -> None:
        await stage.until(held.begun.is_set)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def wait() -> None:
                    await acancel_run(RUN, mode=mode, wait=True)
                    order.append("never")

                group.start_soon(wait)
                await still_live()
                scope.cancel()
        await still_live()  # whose wait was cancelled does not make it sooner
        assert not held.context.cancelled
        async with anyio.create_task_group() as group:

            async def wait_on() -> None:
                assert await acancel_run(RUN, mode=mode, wait=True)
                assert RUN not in get_active_runs()
                order.append("settled")

            group.start_soon(wait_on)
            await still_live()
            order.append("released")
            held.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert order == ["released", "settled"]
    assert answers(output) == ["done"]


@pytest.mark.parametrize("mode", GRACEFUL)
def test_a_sync_stream_may_be_ended_gracefully(crew: Crew, mode: Any) -> None:
    held = Held()
    agent = crew.agent("Solo", ToolCall("held"), tools=[held.tool])
    with agent.run("Go.", stream=True, stream_events=True, run_id=RUN) as events:
        for event in events:
            if event.event == "ToolCallStarted":
                crew.provider.wait_until(held.begun.is_set)
                assert events.cancel(mode=mode)
                assert not held.context.cancelled
                held.released.set()
    assert is_cancelled(events.output)
    assert answers(events.output) == ["done"]
    assert len(crew.requests()) == 1


async def test_a_graceful_end_is_told_by_a_request_that_never_gets_an_answer_only_later(stage: Stage) -> None:
    """`after_turn` waits for the model as long as the model takes; `now` does not."""
    agent = stage.crew.agent("Solo", Hang())

    async def act() -> None:
        await stage.until(lambda: bool(stage.crew.requests()))
        assert cancel_run(RUN, mode="after_turn")
        await still_live()
        assert cancel_run(RUN)

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.content is None


async def test_post_hooks_and_schemas_are_for_runs_that_complete(stage: Stage) -> None:
    gate, called = Gate(), []

    class Answer(BaseModel):
        n: int

    def hook() -> None:
        called.append("hook")

    agent = stage.crew.agent("Solo", half(gate, '{"n": ', "1}"), output_schema=Answer, post_hooks=[hook])

    async def act() -> None:
        await stage.answering("Solo")
        assert cancel_run(RUN, mode="after_turn")
        gate.open()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert output.content == '{"n": 1}'
    assert not called
