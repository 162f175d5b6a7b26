"""A paused run can be cancelled, at once and truthfully; who comes first, a cancel or a continuation, has it."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from kern_async import Agent, RunOutput, RunStatus, Team, acancel_run, cancel_run, tool
from kern_async.agent.again import enter_again, find_again
from kern_async.engine.asking import drive_in_thread
from kern_async.engine.registry import find
from kern_async.exceptions import RunIdInUse, RunNotContinuable
from kern_async.run.cancel import get_active_runs
from kern_async.testing import Stall, Text, ToolCall
from kern_async.testing.scripted import ScriptedModel, call

from ..agent.crew import Crew, delegate, events_of, names
from ..engine.invariants import check_messages
from .attempts import check_attempts
from .test_teams import of_three, pay, payer


async def test_a_paused_run_ends_cancelled_at_once(crew: Crew) -> None:
    agent = payer(crew)
    first = await events_of(agent, run_id="the-run")
    stream = agent.acontinue_run(run_id="the-run", stream=True, stream_events=True)
    assert cancel_run("the-run", reason="changed my mind")
    assert not cancel_run("the-run"), "it has ended"
    second: list[Any] = [event async for event in stream]
    assert names(second) == ["RunCancelled"]
    (end,) = second
    assert (end.cancelled_by, end.reason, end.cancellation_stage) == ("request", "changed my mind", "PAUSED")
    assert end.content == "I pay. "
    check_attempts([*first, *second])
    output = stream.output
    assert output is not None
    assert output.status is RunStatus.cancelled
    assert [t.result for t in output.tools] == ["cancelled"]
    check_messages(output.messages)
    assert not get_active_runs()
    assert len(crew.requests("Payer")) == 1


async def test_waiting_for_the_end_of_a_paused_run_is_short(crew: Crew) -> None:
    output = await payer(crew).arun("Go.", run_id="the-run")
    assert output.is_paused
    with anyio.fail_after(1):
        assert await acancel_run("the-run", wait=True, mode="after_turn")
    assert not await acancel_run("the-run", wait=True)


async def test_a_paused_team_ends_with_its_members_first(crew: Crew) -> None:
    team = of_three(crew)
    first = await events_of(team, run_id="the-run")
    stream = team.acontinue_run(run_id="the-run", stream=True, stream_events=True)
    assert cancel_run("the-run")
    second: list[Any] = [event async for event in stream]
    assert [(e.event, e.cancelled_by) for e in second] == [
        ("RunCancelled", "parent"),
        ("TeamRunCancelled", "request"),
    ]
    check_attempts([*first, *second])
    assert stream.output is not None
    assert sorted(m.status for m in stream.output.member_responses) == ["CANCELLED", "COMPLETED", "COMPLETED"]
    check_messages(stream.output.messages)
    answers = [m.content for m in stream.output.messages if m.role == "tool"]
    assert sorted(map(str, answers)) == ["First.", "Second.", "cancelled"]


async def test_a_paused_member_may_be_cancelled_and_its_leader_goes_on(crew: Crew) -> None:
    team = of_three(crew)
    first = await events_of(team, run_id="the-run")
    (requirement,) = first[-1].requirements
    assert cancel_run(requirement.member_run_id, reason="not this one")
    assert not cancel_run(requirement.member_run_id)
    requirement.confirm()  # too late: what is decided of it is passed over
    run = find("the-run")
    assert run is not None
    async with team.acontinue_run(
        run_id="the-run", requirements=[requirement], stream=True, stream_events=True
    ) as stream:
        second: list[Any] = [event async for event in stream]
    check_attempts(run.log.events)
    assert run.log.events[len(first)].event == "RunCancelled", "at once, and before the team goes on"
    assert second[0].event == "TeamRunContinued"
    assert second[-1].event == "TeamRunCompleted"
    assert any("was cancelled (not this one)" in told for told in crew.told("Leader"))
    assert len(crew.requests("Payer")) == 1
    assert stream.output is not None
    assert len(stream.output.tools) == 3
    assert len(stream.output.member_responses) == 3


async def test_a_member_that_paused_may_be_cancelled_while_its_siblings_work(crew: Crew) -> None:
    team = crew.team(
        [delegate("payer"), delegate("slow")],
        Text("Done."),
        members=[payer(crew), crew.agent("Slow", [Text("Slow "), Stall()])],
    )
    seen: list[Any] = []
    async with team.arun("Go.", stream=True, stream_events=True, run_id="the-run") as events:
        async for event in events:
            seen.append(event)
            if event.event == "RunPaused":
                assert cancel_run(event.run_id)
                slow = next(e for e in seen if e.event == "RunStarted" and e.agent_name == "Slow")
                assert cancel_run(slow.run_id)
    check_attempts(seen)
    assert seen[-1].event == "TeamRunCompleted"
    assert [e.event for e in seen].count("RunCancelled") == 2
    assert [e.event for e in seen].count("RunStarted") == 2, "neither is begun once more"
    assert events.output is not None
    assert [t.tool_call_error for t in events.output.tools] == [True, True]
    assert len(crew.requests("Payer")) == 1
    assert any("was cancelled" in told for told in crew.told("Leader"))


async def test_cancelling_the_team_while_a_member_waits_and_others_work_ends_them_all(crew: Crew) -> None:
    team = crew.team(
        [delegate("payer"), delegate("slow")],
        members=[payer(crew), crew.agent("Slow", [Text("Slow "), Stall()])],
    )
    seen: list[Any] = []
    async with team.arun("Go.", stream=True, stream_events=True, run_id="the-run") as events:
        async for event in events:
            seen.append(event)
            if event.event == "RunPaused":
                assert events.cancel()
    check_attempts(seen)
    assert seen[-1].event == "TeamRunCancelled"
    assert [e.event for e in seen].count("RunCancelled") == 2
    assert events.output is not None
    check_messages(events.output.messages)


async def test_a_continued_run_is_cancelled_as_any_other(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("pay", {"amount": 1}), [Text("Then "), Stall()], tools=[pay])
    output = await agent.arun("Go.", run_id="the-run")
    output.active_requirements[0].confirm()
    async with agent.acontinue_run(output, stream=True) as events:
        async for event in events:
            if event.event == "RunContent":
                assert cancel_run("the-run")
    again = events.output
    assert again is not None
    assert (again.status, again.cancellation_stage) == (RunStatus.cancelled, "EXECUTING")
    assert again.content == "Then "
    check_messages(again.messages)


async def test_an_outside_cancel_of_a_continued_run_goes_on_as_itself(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("pay", {"amount": 1}), [Text("Then "), Stall()], tools=[pay])
    output = await agent.arun("Go.", run_id="the-run")
    output.active_requirements[0].confirm()
    with anyio.move_on_after(30) as scope:
        async with anyio.create_task_group() as group:

            async def outside() -> None:
                await crew.provider.await_until(
                    lambda: bool(len(crew.requests()) == 2 and crew.requests()[1].streamed)
                )
                scope.cancel()

            group.start_soon(outside)
            await agent.acontinue_run(output)
    assert scope.cancelled_caught
    assert not get_active_runs()


async def test_a_reader_that_leaves_after_the_pause_does_not_end_the_run(crew: Crew) -> None:
    agent = payer(crew)
    async with agent.arun("Go.", stream=True, run_id="the-run") as events:
        async for event in events:
            if event.event == "RunPaused":
                break
    await events.aclose()
    first = events.output
    assert first is not None
    del events
    gc.collect()
    assert get_active_runs() == {"the-run": False}
    first.active_requirements[0].confirm()
    assert (await agent.acontinue_run(first)).status is RunStatus.completed
    assert first.status is RunStatus.paused, "what the first attempt left stays what it was"
    assert first.metrics.model_requests == 1


async def test_a_reader_that_has_read_nothing_yet_reads_its_own_attempt_only(crew: Crew) -> None:
    agent = payer(crew)
    late = agent.arun("Go.", stream=True, run_id="the-run")
    async with late:
        await crew.provider.await_until(lambda: _rests("the-run"))
        output = late.output
        assert output is not None
        output.active_requirements[0].confirm()
        assert (await agent.acontinue_run(output)).status is RunStatus.completed
        assert names([event async for event in late]) == ["RunStarted", "RunContent", "RunPaused"]
        assert late.output is output


async def test_a_reader_that_leaves_without_having_seen_the_pause_leaves_the_run_paused(crew: Crew) -> None:
    agent = payer(crew)
    async with agent.arun("Go.", stream=True, run_id="the-run"):
        await crew.provider.await_until(lambda: _rests("the-run"))
    dropped: Any = agent.arun("Go.", stream=True, run_id="other")
    del dropped
    gc.collect()
    assert get_active_runs() == {"the-run": False}
    assert cancel_run("the-run")


def _rests(run_id: str) -> bool:
    run = find(run_id)
    return run is not None and run.resting


async def test_a_continuation_that_is_dropped_before_it_began_leaves_the_run_paused(crew: Crew) -> None:
    agent = payer(crew)
    output = await agent.arun("Go.", run_id="the-run")
    stream: Any = agent.acontinue_run(output, stream=True)
    with pytest.raises(RunNotContinuable, match="is being continued"):
        agent.acontinue_run(output, stream=True)
    del stream
    gc.collect()
    stream = agent.acontinue_run(output, stream=True)
    await stream.aclose()
    assert [event async for event in stream] == []
    coroutine = agent.acontinue_run(output)
    coroutine.close()
    assert get_active_runs() == {"the-run": False}
    output.active_requirements[0].confirm()
    assert (await agent.acontinue_run(output)).status is RunStatus.completed


async def test_the_id_of_a_paused_run_is_in_use(crew: Crew) -> None:
    agent = payer(crew)
    await agent.arun("Go.", run_id="the-run")
    with pytest.raises(RunIdInUse):
        agent.arun("Go.", run_id="the-run", stream=True)
    assert cancel_run("the-run")


@pytest.fixture
def threads_take_turns_quickly() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@tool(requires_confirmation=True)
async def quick() -> str:
    """Be quick."""
    return "ok"


def quick_agent(name: str = "quick") -> Agent:
    return Agent(name=name, model=ScriptedModel(name, [call("quick"), "done"], repeat=True), tools=[quick])


def cancel_after(run_id: str, spins: int, ready: threading.Barrier, answers: list[bool]) -> None:
    ready.wait()
    for _ in range(spins):
        pass
    answers.append(cancel_run(run_id))


def go_on(agent: Agent, output: RunOutput, ready: threading.Barrier, got: list[Any]) -> None:
    ready.wait()
    try:
        got.append(agent.continue_run(output).status)
    except RunNotContinuable:
        got.append(None)


def cancel_member(run_id: str, answers: dict[str, bool]) -> None:
    answers[run_id] = cancel_run(run_id)


@pytest.mark.usefixtures("threads_take_turns_quickly")
async def test_a_cancel_that_races_with_a_continuation_is_answered_truly() -> None:
    dice = random.Random(3)
    seen: Counter[tuple[bool, RunStatus]] = Counter()
    for number in range(200):
        agent = quick_agent()
        run_id = f"race-{number}"
        output = await agent.arun("go", run_id=run_id)
        output.active_requirements[0].confirm()
        spins = dice.randrange(4000)
        answers: list[bool] = []
        ready = threading.Barrier(2)

        thread = threading.Thread(target=cancel_after, args=(run_id, spins, ready, answers))
        thread.start()
        ready.wait()
        try:
            end = (await agent.acontinue_run(output)).status
        except RunNotContinuable:
            end = RunStatus.cancelled
        await anyio.to_thread.run_sync(thread.join)
        seen[answers[0], end] += 1
        assert answers[0] == (end is RunStatus.cancelled), f"race {number}: {answers[0]}, {end}"
    assert not get_active_runs()
    assert seen[True, RunStatus.cancelled]


@pytest.mark.usefixtures("threads_take_turns_quickly")
def test_of_many_continuations_one_wins() -> None:
    agent = quick_agent()
    for number in range(30):
        output = agent.run("go", run_id=f"race-{number}")
        output.active_requirements[0].confirm()
        ready = threading.Barrier(4)
        got: list[Any] = []
        threads = [threading.Thread(target=go_on, args=(agent, output, ready, got)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(got) == {RunStatus.completed: 1, None: 3}


def test_a_continuation_that_comes_too_late_leaves_nothing_of_the_run() -> None:
    agent = quick_agent()
    output = agent.run("go", run_id="the-run")
    output.active_requirements[0].confirm()
    late = drive_in_thread(find_again(agent, output), 1)
    assert agent.continue_run(output).status is RunStatus.completed
    with pytest.raises(RunNotContinuable):
        drive_in_thread(enter_again(late), 1)
    assert not get_active_runs()


@pytest.mark.usefixtures("threads_take_turns_quickly")
async def test_members_cancelled_from_threads_while_the_team_goes_on_leave_a_whole_log() -> None:
    for number in range(40):
        members = [quick_agent(f"m{n}") for n in range(3)]
        leader = ScriptedModel(
            "lead", [[call("delegate_task_to_member", member_id=m.id, task="go") for m in members], "done"]
        )
        team = Team(members, name="team", model=leader)
        async with team.arun("go", stream=True, stream_events=True) as events:
            first = [event async for event in events]
        requirements = first[-1].requirements  # type: ignore[union-attr] - it paused
        for requirement in requirements[:2]:
            requirement.confirm()
        answers: dict[str, bool] = {}
        threads = [
            threading.Thread(target=cancel_member, args=(requirement.member_run_id, answers))
            for requirement in requirements
        ]
        run = find(first[0].run_id)
        assert run is not None
        stream = team.acontinue_run(
            run_id=first[0].run_id, requirements=requirements, stream=True, stream_events=True
        )
        for thread in threads:
            thread.start()
        second = [event async for event in stream]
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        assert second[0].event == "TeamRunContinued"
        if second[-1].event == "TeamRunPaused":  # the third paused once more before it was cancelled
            stream = team.acontinue_run(run_id=first[0].run_id, stream=True, stream_events=True)
            second = [event async for event in stream]
        events = run.log.events
        check_attempts(events)
        statuses = {event.run_id: event.event for event in events if hasattr(event, "status")}
        for member, answer in answers.items():
            assert answer == (statuses[member] == "RunCancelled"), number
        assert events[-1].event == "TeamRunCompleted"


async def test_a_continuation_that_was_closed_unstarted_has_nothing_to_do_with_the_next(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("pay", {"amount": 1}), [Text("Then "), Text("done.")], tools=[pay])
    output = await agent.arun("Go.", run_id="the-run")
    yes = output.active_requirements[0].model_copy(deep=True)
    yes.confirm()
    closed: Any = agent.acontinue_run(
        run_id="the-run", requirements=[yes], input="Never mind.", timeout=0.001, stream=True
    )
    await closed.aclose()
    async with agent.acontinue_run(run_id="the-run", stream=True) as stream:
        del closed
        gc.collect()
        assert [event.event async for event in stream][-1] == "RunPaused", "nothing was decided"
    output.active_requirements[0].confirm()
    again = await agent.acontinue_run(output)
    assert (again.status, again.content) == (RunStatus.completed, "Then done.")
    assert [m.content for m in again.messages if m.role == "user"] == ["Go."]


async def test_an_awaited_continuation_is_not_held_by_the_reader_of_the_attempt_before(crew: Crew) -> None:
    words = Text([f"{n} " for n in range(600)])
    agent = crew.agent("Solo", ToolCall("pay", {"amount": 1}), words, tools=[pay])
    async with agent.arun("Go.", stream=True, run_id="the-run") as events:
        async for _ in events:
            pass
    assert events.output is not None
    events.output.active_requirements[0].confirm()
    dropped: Any = agent.acontinue_run(events.output, stream=True)
    del dropped
    gc.collect()
    with anyio.fail_after(20):
        again = await agent.acontinue_run(events.output)
    assert again.status is RunStatus.completed


async def test_the_timeout_of_a_continuation_is_that_attempt_s_alone(crew: Crew) -> None:
    agent = crew.agent(
        "Solo", ToolCall("pay", {"amount": 1}), ToolCall("pay", {"amount": 2}), Text("Done."), tools=[pay]
    )
    output = await agent.arun("Go.", run_id="the-run")
    output.active_requirements[0].confirm()
    output = await agent.acontinue_run(output, timeout=30)
    run = find("the-run")
    assert run is not None
    assert run.seconds is None
    output.active_requirements[0].confirm()
    assert (await agent.acontinue_run(output)).status is RunStatus.completed


async def test_what_a_team_left_when_it_paused_stays_what_it_was(crew: Crew) -> None:
    team = of_three(crew)
    async with team.arun("Go.", stream=True, run_id="the-run") as events:
        async for _ in events:
            pass
    run = find("the-run")
    assert run is not None
    before = run.output
    assert before is not None
    shown = before.to_dict()
    copies = [r.model_copy(deep=True) for r in before.active_requirements]
    copies[0].confirm()
    again = await team.acontinue_run(run_id="the-run", requirements=copies)
    assert again.status is RunStatus.completed
    shown_now = before.to_dict()
    for data in (shown, shown_now):
        del data["requirements"]  # what is decided is written there
        for member in data["member_responses"]:
            member.pop("requirements", None)
    assert shown_now == shown
    assert events.output is before
