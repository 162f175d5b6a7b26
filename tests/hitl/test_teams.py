"""A member that waits for a person, at any depth: its team waits with it, and what the others did is kept."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from kern_async import Agent, RunStatus, Team, tool
from kern_async.run.cancel import get_active_runs
from kern_async.run.team import TeamRunOutput
from kern_async.testing import Text, ToolCall, Usage

from ..agent.crew import Crew, delegate, events_of, names
from ..engine.invariants import check_messages
from .attempts import check_attempts

USAGE = Usage(10, 5)
done: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_is_done_yet() -> None:
    done.clear()


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    done.append(amount)
    return f"paid {amount}"


def payer(crew: Crew, name: str = "Payer", amount: int = 5) -> Agent:
    call = ToolCall("pay", {"amount": amount})
    return crew.agent(name, [USAGE, Text("I pay. "), call], [USAGE, Text("Paid.")], tools=[pay])


def of_three(crew: Crew, **options: Any) -> Team:
    return crew.team(
        [USAGE, Text("I ask. "), delegate("one"), delegate("payer"), delegate("two")],
        [USAGE, Text("All done.")],
        members=[
            crew.agent("One", [USAGE, Text("First.")]),
            payer(crew),
            crew.agent("Two", [USAGE, Text("Second.")]),
        ],
        **options,
    )


async def test_siblings_finish_first_and_keep_their_results(any_crew: Crew) -> None:
    crew = any_crew
    team = of_three(crew)
    output = await team.arun("Go.", run_id="the-run")
    assert isinstance(output, TeamRunOutput)
    assert output.status is RunStatus.paused
    assert output.content == "I ask. "
    assert {m.agent_name: (m.status, m.content) for m in output.member_responses} == {  # type: ignore[union-attr] - agents
        "One": (RunStatus.completed, "First."),
        "Payer": (RunStatus.paused, "I pay. "),
        "Two": (RunStatus.completed, "Second."),
    }
    (requirement,) = output.active_requirements
    assert (requirement.member_agent_id, requirement.member_agent_name) == ("payer", "Payer")
    waiting = next(m for m in output.member_responses if m.status is RunStatus.paused)
    assert requirement.member_run_id == waiting.run_id
    assert output.metrics.model_requests == 4, "the leader's and its members'"

    requirement.confirm()
    again = await team.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert again.content == "I ask. All done."
    assert done == [5]
    assert sorted(crew.told("Leader")) == ["First.", "I pay. Paid.", "Second."]
    assert [len(crew.requests(name)) for name in ("One", "Two", "Payer", "Leader")] == [1, 1, 2, 2]
    assert again.metrics.model_requests == 6
    assert again.metrics.total_tokens == 6 * 15, "each once"
    assert [m.run_id for m in again.member_responses] == [m.run_id for m in output.member_responses]
    assert {t.child_run_id for t in again.tools} == {m.run_id for m in again.member_responses}
    check_messages(again.messages)


async def test_rejecting_gives_the_members_model_the_note(crew: Crew) -> None:
    team = of_three(crew)
    output = await team.arun("Go.")
    output.active_requirements[0].reject("too much")
    again = await team.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert done == []
    assert "too much" in crew.told("Payer")[0]


async def test_the_events_of_a_team_that_paused(crew: Crew) -> None:
    team = of_three(crew)
    first = await events_of(team, run_id="the-run")
    assert first[-1].event == "TeamRunPaused"
    assert [r.member_agent_name for r in first[-1].requirements] == ["Payer"]
    assert [e.event for e in first].count("RunPaused") == 1
    paused_call = next(e for e in first if e.event == "TeamToolCallCompleted" and e.content == "paused")
    assert paused_call.tool.result is None
    requirements = first[-1].requirements
    requirements[0].confirm()
    async with team.acontinue_run(
        run_id="the-run", requirements=requirements, stream=True, stream_events=True
    ) as stream:
        second: list[Any] = [event async for event in stream]
    assert [e for e in names(second) if "Model" not in e] == [
        "TeamRunContinued",
        "TeamToolCallStarted",
        "RunContinued",
        "ToolCallStarted",
        "ToolCallCompleted",
        "RunContent",
        "RunContentCompleted",
        "RunCompleted",
        "TeamToolCallCompleted",
        "TeamRunContent",
        "TeamRunContentCompleted",
        "TeamRunCompleted",
    ]
    check_attempts([*first, *second])


def test_somebody_else_s_thread_may_approve(crew: Crew) -> None:
    team = of_three(crew)
    output = team.run("Go.")
    got: list[TeamRunOutput] = []

    def approve() -> None:
        requirement = output.active_requirements[0]
        requirement.confirm()
        got.append(team.continue_run(run_id=output.run_id, requirements=[requirement]))

    thread = threading.Thread(target=approve)
    thread.start()
    thread.join()
    assert got[0].content == "I ask. All done."
    assert done == [5]


async def test_members_of_members_of_members(crew: Crew) -> None:
    deep = crew.team(
        [delegate("payer"), delegate("second-payer")],
        Text("Deep is done."),
        members=[payer(crew), payer(crew, "Second Payer", 7)],
        name="Deep",
    )
    middle = crew.team(
        [delegate("deep"), delegate("aside")],
        Text("Middle is done."),
        members=[deep, crew.agent("Aside", Text("Aside is done."))],
        name="Middle",
    )
    top = crew.team(delegate("middle"), Text("Top is done."), members=[middle], name="Top")
    first = await events_of(top, run_id="the-run")
    assert names(first)[-3:] == ["TeamRunPaused", "TeamToolCallCompleted", "TeamRunPaused"]
    requirements = first[-1].requirements
    assert [r.member_agent_name for r in requirements] == ["Payer", "Second Payer"]
    requirements[1].confirm()
    async with top.acontinue_run(
        run_id="the-run", requirements=requirements, stream=True, stream_events=True
    ) as stream:
        second: list[Any] = [event async for event in stream]
    assert done == [7]
    (left,) = second[-1].requirements
    left.confirm()
    async with top.acontinue_run(
        run_id="the-run", requirements=[left], stream=True, stream_events=True
    ) as stream:
        third: list[Any] = [event async for event in stream]
    assert done == [7, 5]
    assert third[-1].event == "TeamRunCompleted"
    assert third[-1].content == "Top is done."
    check_attempts([*first, *second, *third])
    assert [len(crew.requests(n)) for n in ("Top", "Middle", "Deep", "Aside", "Payer", "Second Payer")] == [
        2,
        2,
        2,
        1,
        2,
        2,
    ]


async def test_a_leader_s_own_call_and_a_member_s_wait_side_by_side(crew: Crew) -> None:
    team = crew.team(
        [ToolCall("pay", {"amount": 1}), delegate("payer")], Text("Done."), members=[payer(crew)], tools=[pay]
    )
    output = await team.arun("Go.")
    assert [(r.member_agent_name, r.tool_execution.tool_args) for r in output.active_requirements] == [
        (None, {"amount": 1}),
        ("Payer", {"amount": 5}),
    ]
    for requirement in output.active_requirements:
        requirement.confirm()
    again = await team.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert sorted(done) == [1, 5]


async def test_broadcast(crew: Crew) -> None:
    team = crew.team(
        Text("So be it."), members=[crew.agent("One", Text("First.")), payer(crew)], mode="broadcast"
    )
    first = await events_of(team, run_id="the-run")
    assert first[-1].event == "TeamRunPaused"
    assert crew.requests("Leader") == []
    first[-1].requirements[0].confirm()
    async with team.acontinue_run(
        run_id="the-run", requirements=first[-1].requirements, stream=True, stream_events=True
    ) as stream:
        second: list[Any] = [event async for event in stream]
    check_attempts([*first, *second])
    assert second[-1].content == "So be it."
    asked = crew.requests("Leader")[0].text
    assert "First." in asked
    assert "I pay. Paid." in asked
    assert len(crew.requests("One")) == 1


async def test_route(crew: Crew) -> None:
    team = crew.team(delegate("payer"), members=[payer(crew), crew.agent("One")], mode="route")
    output = await team.arun("Go.")
    assert output.is_paused
    assert output.content == "I pay. "
    output.active_requirements[0].confirm()
    again = await team.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert again.content == "I pay. Paid."
    assert len(crew.requests("Leader")) == 1


@pytest.mark.parametrize("how", ["execute_task", "execute_tasks_parallel"])
async def test_tasks(crew: Crew, how: str) -> None:
    create = [
        ToolCall("create_task", {"title": "Pay", "assignee": "payer"}),
        ToolCall("create_task", {"title": "Look", "assignee": "one"}),
    ]
    execute = (
        [ToolCall(how, {"task_ids": ["1", "2"]})]
        if how == "execute_tasks_parallel"
        else [ToolCall(how, {"task_id": n, "member_id": m}) for n, m in (("1", "payer"), ("2", "one"))]
    )
    team = crew.team(
        *create,
        execute,
        ToolCall("mark_all_complete", {"summary": "ok"}),
        Text("Done."),
        members=[payer(crew), crew.agent("One", Text("First."))],
        mode="tasks",
    )
    output = await team.arun("Go.")
    assert output.is_paused
    assert {t["task_id"]: t["status"] for t in (output.session_state or {})["task_list"]} == {
        "1": "in_progress",
        "2": "completed",
    }
    output.active_requirements[0].confirm()
    again = await team.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert {t["task_id"]: (t["status"], t["result"]) for t in (again.session_state or {})["task_list"]} == {
        "1": ("completed", "I pay. Paid."),
        "2": ("completed", "First."),
    }
    assert len(crew.requests("One")) == 1
    assert done == [5]
    assert not get_active_runs()
