"""One tool call is ended while its run goes on (SPEC §4)."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kern_async import (
    Agent,
    RunContext,
    RunStatus,
    Team,
    TeamMode,
    abandoned,
    acancel_tool_call,
    cancel_run,
    cancel_tool_call,
    tool,
)
from kern_async.testing import Gate, Text, ToolCall, Usage
from kern_async.testing.scripted import ScriptedModel, call
from kern_async.tools.threads import limit_threads, run_in_thread, thread_usage

from ..agent.crew import Crew, delegate
from ..engine.invariants import check_messages
from .racing import racing
from .stage import KINDS, RUN, Held, Kind, Stage, answers, by_name, is_cancelled, still_live
from .stubborn import GRACE, SOON, Stubborn

CALL = "call-7"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_call_ends_the_model_is_told_and_the_run_goes_on(any_crew: Crew, kind: Kind) -> None:
    stage, held = Stage(any_crew), Held(kind=kind)
    agent = any_crew.agent("Solo", ToolCall("held", id=CALL), Text("I see."), tools=[held.tool])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_tool_call(RUN, CALL)
        assert held.context.cancelled

    output = await stage.run(agent, act)
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert any_crew.told() == ["cancelled"]
    assert answers(output) == ["cancelled"]
    (execution,) = output.tools
    assert (execution.tool_call_id, execution.result, execution.tool_call_error) == (CALL, "cancelled", True)
    (failed,) = stage.kinds("ToolCallError")
    assert (failed.error, failed.tool.tool_call_id) == ("cancelled", CALL)
    assert not stage.kinds("ToolCallCompleted")
    assert not output.metrics.estimated
    held.released.set()
    await stage.until(lambda: not abandoned() and bool(held.ended))
    assert held.ended == ["cut" if kind.startswith("async") else "done"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_calls_beside_it_go_on(stage: Stage, kind: Kind) -> None:
    cut, *others = (Held("cut", kind), Held("one"), Held("two", "sync"))
    calls = [ToolCall("one"), ToolCall("cut", id=CALL), ToolCall("two")]
    agent = stage.crew.agent("Solo", calls, Text("I see."), tools=[each.tool for each in (cut, *others)])

    async def act() -> None:
        for each in (cut, *others):
            await stage.until(each.begun.is_set)
        assert cancel_tool_call(RUN, CALL)
        await still_live()
        assert cut.context.cancelled
        for each in others:
            assert not each.context.cancelled
            each.released.set()

    output = await stage.run(agent, act)
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert stage.crew.told() == ["done", "cancelled", "done"]
    assert [each.ended for each in others] == [["done"], ["done"]]
    cut.released.set()
    await stage.until(lambda: not abandoned() and bool(cut.ended))


@pytest.mark.parametrize("way", ["task", "thread", "async", "instance", "itself", "sibling"])
async def test_it_may_be_ended_from_anywhere(stage: Stage, way: str) -> None:
    held, said = Held(), list[bool]()

    async def own(context: RunContext) -> str:
        assert context.tool_call_id is not None
        said.append(cancel_tool_call(context.run_id, context.tool_call_id))
        return "a result that nobody wants any more"

    async def other(context: RunContext) -> str:
        await stage.until(held.begun.is_set)
        said.append(cancel_tool_call(context.run_id, CALL))
        return "done"

    calls = [ToolCall("own", id=CALL)] if way == "itself" else [ToolCall("held", id=CALL)]
    calls += [ToolCall("other")] if way == "sibling" else []
    agent = stage.crew.agent("Solo", calls, Text("I see."), tools=[held.tool, own, other])

    async def act() -> None:
        if way in ("itself", "sibling"):
            return
        await stage.until(held.begun.is_set)
        match way:
            case "task":
                said.append(cancel_tool_call(RUN, CALL))
            case "async":
                said.append(await acancel_tool_call(RUN, CALL))
            case "instance":
                said.append(await agent.acancel_tool_call(RUN, CALL))
                assert Team.cancel_tool_call(RUN, CALL)
            case _:
                said.append(await anyio.to_thread.run_sync(cancel_tool_call, RUN, CALL))

    output = await stage.run(agent, act)
    assert said == [True]
    assert output.status is RunStatus.completed
    assert answers(output)[0] == "cancelled"


async def test_it_is_true_while_the_call_ends_and_false_afterwards(read_stage: Stage) -> None:
    stage, gate, stubborn = read_stage, Gate(), Stubborn()
    agent = stage.crew.agent(
        "Solo",
        ToolCall("tool", id=CALL),
        [Text(["one "]), gate, Text("two")],
        tools=[stubborn.tool],
        cancel_grace=GRACE,
    )

    async def act() -> None:
        await stubborn.begun.wait()
        assert cancel_tool_call(RUN, CALL)
        await still_live()
        assert cancel_tool_call(RUN, CALL), "it is ending"
        await stage.heard("one ")
        assert not cancel_tool_call(RUN, CALL), "it has ended"
        gate.open()

    output = await stage.run(agent, act)
    assert output.status is RunStatus.completed
    assert not cancel_tool_call(RUN, CALL), "its run has ended"
    await stubborn.release()


async def test_what_is_no_call_under_way_is_not_cancelled(read_stage: Stage) -> None:
    stage, held, quick = read_stage, Held(), Held("quick")
    quick.released.set()
    worker = stage.crew.agent("Worker", ToolCall("held", id=CALL), Text("Found."), tools=[held.tool])
    other = stage.crew.agent("Other", [ToolCall("quick", id="quick-1")], Text("Fine."), tools=[quick.tool])
    team = stage.crew.team(
        [delegate("worker"), delegate("other")], Text("All told."), members=[worker, other]
    )

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.heard("Fine.")
        for run_id, call_id in (
            ("unknown", CALL),
            (RUN, "unknown"),
            (RUN, ""),
            (RUN, "quick-1"),
            (stage.run_of("Other"), CALL),
            (stage.run_of("Worker"), "quick-1"),
        ):
            assert not cancel_tool_call(run_id, call_id), (run_id, call_id)
        assert not held.context.cancelled
        held.released.set()

    output = await stage.run(team, act)
    assert answers(output) == ["Found.", "Fine."]


@pytest.mark.parametrize("whose", ["root", "inner", "own"])
async def test_a_call_of_a_member_at_depth_three_is_found(read_stage: Stage, whose: str) -> None:
    stage, held = read_stage, Held()
    deep = stage.crew.agent("Deep", ToolCall("held", id=CALL), Text("Deep says so."), tools=[held.tool])
    inner = stage.crew.team(delegate("deep"), Text("Inner says so."), members=[deep], name="Inner")
    team = stage.crew.team(delegate("inner"), Text("All told."), members=[inner])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        run_id = {"root": RUN, "inner": stage.run_of("Inner"), "own": stage.run_of("Deep")}[whose]
        assert cancel_tool_call(run_id, CALL)

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert {each.status for each in outputs.values()} == {RunStatus.completed}
    assert answers(outputs["Deep"]) == ["cancelled"]
    assert answers(output) == ["Inner says so."]
    assert held.ended == ["cut"]


async def test_a_call_that_delegates_ends_its_members_run(read_stage: Stage) -> None:
    stage, held, gate = read_stage, Held(), Gate()
    worker = stage.crew.agent("Worker", [Text("Let me see. "), ToolCall("held")], tools=[held.tool])
    talker = stage.crew.agent("Talker", [Text(["one "]), gate, Text("two")])
    asked = delegate("worker")
    calls = [ToolCall(asked.name, asked.arguments, id=CALL), delegate("talker")]
    team = stage.crew.team(calls, Text("All told."), members=[worker, talker])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        await stage.heard("one ")
        assert cancel_tool_call(RUN, CALL)
        await stage.until(lambda: held.ended == ["cut"])
        gate.open()

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    assert outputs["Worker"].status is RunStatus.cancelled
    assert outputs["Worker"].cancelled_by == "request"
    assert answers(outputs["Worker"]) == ["cancelled"]
    assert (outputs["Talker"].status, outputs["Talker"].content) == (RunStatus.completed, "one two")
    told = stage.crew.told("Leader")
    assert "cancelled" in told[0]
    assert "Let me see." in told[0]
    assert told[1] == "one two"
    assert [t.tool_call_error for t in output.tools] == [True, False]


async def test_the_leader_chooses_anew_when_the_chosen_members_call_was_ended(crew: Crew) -> None:
    stage, gate = Stage(crew, streamed=False), Gate()
    talker = crew.agent("Talker", [Text(["one "]), gate])
    asked = delegate("talker")
    team = crew.team(
        ToolCall(asked.name, asked.arguments, id=CALL),
        delegate("other"),
        members=[talker, crew.agent("Other", Text("Here."))],
        mode=TeamMode.route,
    )

    async def act() -> None:
        await stage.answering("Talker")
        assert cancel_tool_call(RUN, CALL)

    output = await stage.run(team, act)
    assert output.status is RunStatus.completed
    assert output.content is not None
    assert output.content.endswith("Here.")
    assert [m.status for m in output.member_responses] == [RunStatus.cancelled, RunStatus.completed]
    gate.open()


async def test_a_call_for_several_members_ends_them_all(read_stage: Stage) -> None:
    stage = read_stage
    members = [stage.crew.agent(name, [Text([f"{name} "]), Gate()]) for name in ("A", "B")]
    team = stage.crew.team(
        [ToolCall("create_task", {"title": n, "assignee": n.lower()}) for n in ("A", "B")],
        ToolCall("execute_tasks_parallel", {"task_ids": ["1", "2"]}, id=CALL),
        ToolCall("mark_all_complete", {"summary": "Enough."}),
        Text("All told."),
        members=members,
        mode=TeamMode.tasks,
    )

    async def act() -> None:
        await stage.heard("A ")
        await stage.heard("B ")
        assert cancel_tool_call(RUN, CALL)

    output = await stage.run(team, act)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    assert [m.status for m in output.member_responses] == [RunStatus.cancelled] * 2
    assert stage.crew.told("Leader", 2)[-1].count("cancelled") >= 2


async def test_a_call_that_waits_for_a_thread_never_begins(read_stage: Stage) -> None:
    stage, held, busy = read_stage, Held(kind="sync"), threading.Event()
    agent = stage.crew.agent("Solo", ToolCall("held", id=CALL), Text("I see."), tools=[held.tool])
    limit_threads(max_threads=1)

    async def act() -> None:
        await stage.until(lambda: thread_usage() == (1, 1, 0))
        assert cancel_tool_call(RUN, CALL)
        await stage.until(lambda: thread_usage() == (1, 0, 0))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_in_thread(lambda: busy.wait(10), name="busy"))
            await stage.until(lambda: thread_usage().running == 1)
            output = await stage.run(agent, act)
            busy.set()
    finally:
        busy.set()
        limit_threads(max_threads=40)
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    assert answers(output) == ["cancelled"]
    assert not held.contexts
    assert abandoned() == []


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stubborn_call_is_left_after_the_grace_and_goes_nowhere(read_stage: Stage, kind: str) -> None:
    stage, gate = read_stage, Gate()
    stubborn = Stubborn()
    agent = stage.crew.agent(
        "Solo",
        ToolCall("tool", id=CALL),
        [Text(["one "]), gate, Text("two")],
        tools=[stubborn.tool if kind == "async" else stubborn.sync_tool],
        cancel_grace=GRACE,
    )
    took: list[float] = []

    async def act() -> None:
        await stage.until(stubborn.started.is_set)
        began = anyio.current_time()
        assert cancel_tool_call(RUN, CALL)
        await stage.heard("one ")
        took.append(anyio.current_time() - began)
        (work,) = abandoned()
        assert (work.name, work.run_id, work.tool_call_id) == ("tool", RUN, CALL)
        assert work.kind == ("tool" if kind == "async" else "thread")
        await stubborn.release()
        await still_live()
        gate.open()

    output = await stage.run(agent, act)
    assert (output.status, output.content) == (RunStatus.completed, "one two")
    if kind == "async":
        assert GRACE <= took[0] < SOON
    else:
        assert took[0] < SOON
    assert answers(output) == ["cancelled"]
    assert output.tools[0].result == "cancelled"
    assert not any("late" in event.to_json() for event in stage.events)
    assert "late" not in output.to_json()
    assert abandoned() == []


async def test_a_run_that_is_cancelled_while_a_call_ends_keeps_the_bound(stage: Stage) -> None:
    stubborn = Stubborn()
    agent = stage.crew.agent("Solo", ToolCall("tool", id=CALL), tools=[stubborn.tool], cancel_grace=GRACE)

    async def act() -> None:
        await stage.until(stubborn.started.is_set)
        assert cancel_tool_call(RUN, CALL)
        await still_live()
        assert cancel_run(RUN, reason="enough")

    output = await stage.run(agent, act)
    assert is_cancelled(output, reason="enough")
    assert output.settled_at - output.requested_at < SOON
    assert [work.name for work in output.abandoned] == ["tool"]
    assert answers(output) == ["cancelled"]
    assert len(stage.crew.requests()) == 1
    await stubborn.release()


@pytest.mark.parametrize("mode", ["after_tools", "after_turn"])
async def test_a_gracefully_ending_run_waits_only_for_the_calls_that_are_left(
    stage: Stage, mode: Any
) -> None:
    one, two = Held("one"), Held("two")
    agent = stage.crew.agent("Solo", [ToolCall("one", id=CALL), ToolCall("two")], tools=[one.tool, two.tool])

    async def act() -> None:
        await stage.until(lambda: one.begun.is_set() and two.begun.is_set())
        assert cancel_run(RUN, mode=mode)
        await still_live()
        assert cancel_tool_call(RUN, CALL)
        await still_live()
        two.released.set()

    output = await stage.run(agent, act)
    assert is_cancelled(output)
    assert answers(output) == ["cancelled", "done"]
    assert len(stage.crew.requests()) == 1


async def test_a_stopping_tool_that_was_cut_does_not_end_the_loop(stage: Stage) -> None:
    held = Held()
    finish = tool(stop_after_tool_call=True, name="held")(held.tool.entrypoint)
    agent = stage.crew.agent("Solo", ToolCall("held", id=CALL), Text("I see."), tools=[finish])

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_tool_call(RUN, CALL)

    output = await stage.run(agent, act)
    assert (output.status, output.content) == (RunStatus.completed, "I see.")


async def test_the_tokens_of_the_run_are_all_counted(stage: Stage) -> None:
    held = Held()
    agent = stage.crew.agent(
        "Solo", [Usage(10, 3), ToolCall("held", id=CALL)], [Usage(20, 4), Text("I see.")], tools=[held.tool]
    )

    async def act() -> None:
        await stage.until(held.begun.is_set)
        assert cancel_tool_call(RUN, CALL)

    output = await stage.run(agent, act)
    assert (output.metrics.total_tokens, output.metrics.estimated) == (37, False)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
@pytest.mark.parametrize("first", ["task", "call"])
@pytest.mark.parametrize("parallel", [False, True])
async def test_a_native_cancel_at_the_same_moment_goes_on_as_itself(
    crew: Crew, first: str, parallel: bool
) -> None:
    stage, held, other = Stage(crew, streamed=False), Held(), Held("other")
    calls = [ToolCall("held", id=CALL), *([ToolCall("other")] if parallel else [])]
    agent = crew.agent("Solo", calls, tools=[held.tool, other.tool])
    from kern_async.engine import registry

    with anyio.fail_after(10):
        task = asyncio.create_task(agent.arun("Go.", run_id=RUN))
        await stage.until(held.begun.is_set)
        run = registry.find(RUN)
        assert run is not None
        if first == "task":
            task.cancel()
            cancel_tool_call(RUN, CALL)
        else:
            assert cancel_tool_call(RUN, CALL)
            task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    output: Any = run.output
    assert is_cancelled(output, by="caller")
    assert answers(output)[0] == "cancelled"
    await stage.check(output)
    assert len(crew.requests()) == 1


@pytest.mark.parametrize("first", ["scope", "call"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_scope_that_is_cancelled_at_the_same_moment_stays_cancelled(
    crew: Crew, first: str, streamed: bool
) -> None:
    stage, held = Stage(crew), Held()
    agent = crew.agent("Solo", ToolCall("held", id=CALL), tools=[held.tool])
    from kern_async.engine import registry

    runs: list[Any] = []
    with anyio.fail_after(10), anyio.CancelScope() as scope:

        async def both() -> None:
            await stage.until(held.begun.is_set)
            runs.append(registry.find(RUN))
            if first == "scope":
                scope.cancel()
                cancel_tool_call(RUN, CALL)
            else:
                assert cancel_tool_call(RUN, CALL)
                scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(both)
            if streamed:
                async with agent.arun("Go.", stream=True, run_id=RUN) as events:
                    async for _ in events:
                        pass
            else:
                await agent.arun("Go.", run_id=RUN)
    assert scope.cancelled_caught
    output = runs[0].output
    assert is_cancelled(output, by="caller")
    assert answers(output) == ["cancelled"]
    await stage.check(output)
    assert len(crew.requests()) == 1


@pytest.mark.parametrize("depth", [2, 3])
async def test_a_members_run_id_ends_just_that_member(read_stage: Stage, depth: int) -> None:
    stage, helds = read_stage, (Held("held"), Held("other"))
    deep = stage.crew.agent("Deep", [Text("Let me see. "), ToolCall("held")], tools=[helds[0].tool])
    other = stage.crew.agent("Other", ToolCall("other"), Text("Fine."), tools=[helds[1].tool])
    inner = stage.crew.team(
        [delegate("deep"), delegate("other")], Text("Inner says so."), members=[deep, other], name="Inner"
    )
    team = stage.crew.team(delegate("inner"), Text("All told."), members=[inner])

    async def act() -> None:
        for held in helds:
            await stage.until(held.begun.is_set)
        assert cancel_run(stage.run_of("Inner" if depth == 2 else "Deep"), reason="enough")
        if depth == 3:
            await stage.until(lambda: helds[0].ended == ["cut"])
            await still_live()
            helds[1].released.set()

    output = await stage.run(team, act)
    outputs = by_name(output)
    assert (output.status, output.content) == (RunStatus.completed, "All told.")
    if depth == 3:
        assert is_cancelled(outputs["Deep"], reason="enough")
        assert (outputs["Inner"].status, outputs["Inner"].content) == (RunStatus.completed, "Inner says so.")
        assert stage.crew.told("Inner") == [
            "Member Deep was cancelled (enough). Its answer so far: Let me see. ",
            "Fine.",
        ]
    else:
        assert is_cancelled(outputs["Inner"], reason="enough")
        assert is_cancelled(outputs["Deep"], by="parent")
        assert is_cancelled(outputs["Other"], by="parent")
        assert stage.crew.told("Leader") == ["Member Inner was cancelled (enough)."]
    assert {event.run_id for event in stage.kinds("RunCancelled")} == {
        each.run_id for each in outputs.values() if each.status is RunStatus.cancelled
    }


@pytest.mark.parametrize("what", ["async", "sync", "delegation"])
async def test_cancels_that_race_the_end_of_the_call_are_answered_truly(what: str) -> None:
    races, seen = 300, Counter[tuple[bool, str]]()
    with racing(lambda run_id: cancel_tool_call(run_id, CALL)) as racer:

        async def acall() -> str:
            racer.go()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            return "done"

        def scall() -> str:
            racer.go()
            return "done"

        async def start(_request: object) -> None:
            racer.go()

        asked: Any = call("delegate_task_to_member", member_id="member", task="do")
        name = asked.name if what == "delegation" else "tool"
        asked = asked.model_copy(update={"id": CALL, "name": name})
        asked = asked if what == "delegation" else asked.model_copy(update={"arguments": "{}"})
        model = ScriptedModel("racer", [[asked], ["I see."]], repeat=True)
        runner: Agent | Team
        if what == "delegation":
            member = Agent(name="member", model=ScriptedModel("member", [[start, "do", "ne"]], repeat=True))
            runner = Team(name="racer", model=model, members=[member])
        else:
            one = tool(name="tool")(acall if what == "async" else scall)
            runner = Agent(name="racer", model=model, tools=[one])
        for number in range(races):
            racer.aim(f"race-{number}")
            output: Any = await runner.arun("go", run_id=f"race-{number}")
            (told,) = answers(output)
            answer = await racer.answer(late=told == "done")
            seen[answer, told] += 1
            assert answer == (told != "done"), f"race {number}: {answer}, {told}"
            assert answer == output.tools[0].tool_call_error
            assert output.status is RunStatus.completed
            check_messages(output.messages)
    assert sum(count for (answer, _), count in seen.items() if answer) > races / 50, seen
    assert sum(count for (answer, _), count in seen.items() if not answer) > races / 50, seen
    while abandoned():  # noqa: ASYNC110 - nobody is told when a straggler is struck off
        await anyio.sleep(0.001)


def test_it_ends_a_call_of_a_sync_run(crew: Crew) -> None:
    held = Held(kind="sync")
    agent = crew.agent("Solo", ToolCall("held", id=CALL), Text("I see."), tools=[held.tool])
    said: list[bool] = []

    def cancel() -> None:
        held.begun.wait(10)
        said.append(agent.cancel_tool_call(RUN, CALL))

    thread = threading.Thread(target=cancel)
    thread.start()
    output = agent.run("Go.", run_id=RUN)
    thread.join()
    assert said == [True]
    assert (output.status, output.content) == (RunStatus.completed, "I see.")
    held.released.set()
    crew.provider.wait_until(lambda: not abandoned())
