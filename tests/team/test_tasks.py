"""Mode `tasks`: a shared task list."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Team, TeamMode
from kern_async.run.base import RunStatus
from kern_async.testing import Status, Text, ToolCall

from ..agent.crew import Crew, Together, events_of, names


def create(title: str, **more: Any) -> ToolCall:
    return ToolCall("create_task", {"title": title, **more})


def execute(task_id: str, member_id: str = "worker") -> ToolCall:
    return ToolCall("execute_task", {"task_id": task_id, "member_id": member_id})


DONE = ToolCall("mark_all_complete", {"summary": "It is done."})


def tasks_of(output: Any) -> list[tuple[str, str]]:
    return [(task["title"], task["status"]) for task in output.session_state["task_list"]]


async def test_tasks_are_done_in_the_order_of_their_dependencies(any_crew: Crew) -> None:
    worker = any_crew.agent("Worker", Text("The plan."), Text("The house."))
    team = any_crew.team(
        create("Draw", description="Draw a plan."),
        create("Build", depends_on=["1"]),
        execute("2"),
        execute("1"),
        execute("2"),
        DONE,
        Text("There it stands."),
        members=[worker],
        mode=TeamMode.tasks,
    )
    output = await team.arun("A house, please.")
    told = any_crew.told("Leader")
    assert "blocked" in told[1]
    assert "Task 2 is blocked" in told[2]
    assert told[3:5] == ["The plan.", "The house."]
    asked = [request.last_text for request in any_crew.requests("Worker")]
    assert asked == ["Draw\n\nDraw a plan.", "Build\n\nDraw: The plan."]
    assert (output.status, output.content) == (RunStatus.completed, "There it stands.")
    assert tasks_of(output) == [("Draw", "completed"), ("Build", "completed")]
    assert [member.content for member in output.member_responses] == ["The plan.", "The house."]


async def test_tasks_that_are_executed_together_run_at_the_same_time(crew: Crew) -> None:
    together = Together(2)
    members = [crew.agent(name, together.then(Text(f"{name} is done."))) for name in ("A", "B")]
    team = crew.team(
        create("First", assignee="a"),
        create("Second", assignee="b"),
        ToolCall("execute_tasks_parallel", {"task_ids": ["1", "2"]}),
        DONE,
        members=members,
        mode="tasks",
    )
    with anyio.fail_after(5):
        output = await team.arun("Go.")
    assert crew.told("Leader")[2] == "Task 1: A is done.\nTask 2: B is done."
    assert tasks_of(output) == [("First", "completed"), ("Second", "completed")]


async def test_a_task_that_fails_is_told_and_may_be_tried_again(crew: Crew) -> None:
    worker = crew.agent("Worker", Status(400), Text("Now it works."))
    team = crew.team(
        create("Build"),
        execute("1"),
        ToolCall("list_tasks"),
        execute("1"),
        DONE,
        members=[worker],
        mode="tasks",
    )
    output = await team.arun("Go.")
    told = crew.told("Leader")
    assert "Worker failed" in told[1]
    assert "[failed] Build" in told[2]
    assert told[3] == "Now it works."
    assert tasks_of(output) == [("Build", "completed")]


async def test_one_failure_among_tasks_that_run_together_leaves_the_others_alone(crew: Crew) -> None:
    members = [crew.agent("A", Status(400)), crew.agent("B", Text("Done."))]
    team = crew.team(
        create("First", assignee="a"),
        create("Second", assignee="b"),
        create("Third"),
        ToolCall("execute_tasks_parallel", {"task_ids": ["1", "2", "3"]}),
        DONE,
        members=members,
        mode="tasks",
    )
    output = await team.arun("Go.")
    first, second, third = crew.told("Leader")[3].split("\n")
    assert first.startswith("Task 1: failed: Member A failed")
    assert second == "Task 2: Done."
    assert third.startswith("Task 3: failed: ")
    assert tasks_of(output) == [("First", "failed"), ("Second", "completed"), ("Third", "pending")]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (execute("9"), "There is no task '9'"),
        (execute("1", "nobody"), "Member with ID nobody not found"),
        (create("Late", depends_on=["9"]), "There is no task '9'"),
        (ToolCall("update_task_status", {"task_id": "1", "status": "lost"}), "status is 'lost'"),
        (ToolCall("add_task_note", {"task_id": "9", "note": "n"}), "There is no task '9'"),
    ],
    ids=["task", "member", "dependency", "status", "note"],
)
async def test_what_makes_no_sense_is_told_to_the_leader(crew: Crew, call: ToolCall, says: str) -> None:
    team = crew.team(create("Build"), call, DONE, Text("Done."), members=[crew.agent("Worker")], mode="tasks")
    output = await team.arun("Go.")
    assert says in crew.told("Leader")[1]
    assert (output.status, output.content) == (RunStatus.completed, "Done.")
    assert tasks_of(output) == [("Build", "pending")]
    assert crew.requests("Worker") == []


async def test_the_leader_keeps_the_list_by_hand(crew: Crew) -> None:
    team = crew.team(
        create("Think"),
        create("Act", depends_on=["1"]),
        ToolCall("add_task_note", {"task_id": "1", "note": "hard"}),
        ToolCall("update_task_status", {"task_id": "1", "status": "completed", "result": "thought"}),
        ToolCall("list_tasks"),
        DONE,
        members=[crew.agent("Worker")],
        mode="tasks",
    )
    output = await team.arun("Go.")
    assert crew.told("Leader")[4] == ("1. [completed] Think\n   result: thought\n2. [pending] Act (after: 1)")
    assert output.session_state is not None
    assert output.session_state["task_list"][0]["notes"] == ["hard"]


async def test_the_leader_is_asked_again_until_its_rounds_are_used_up(crew: Crew) -> None:
    crew.provider.default = Text("I rest. ")
    team = crew.team(create("Build"), members=[crew.agent("Worker")], mode="tasks", max_iterations=3)
    output = await team.arun("Go.")
    assert len(crew.requests("Leader")) == 4
    assert "[pending] Build" in crew.requests("Leader")[-1].last_text
    assert (output.status, output.content) == (RunStatus.completed, "I rest. " * 3)


async def test_the_rounds_end_when_no_task_can_go_on(crew: Crew) -> None:
    team = crew.team(
        create("Build"), execute("1"), Text("Done."), members=[crew.agent("Worker")], mode="tasks"
    )
    output = await team.arun("Go.")
    assert (len(crew.requests("Leader")), output.content) == (3, "Done.")


async def test_a_leader_without_tasks_just_answers(crew: Crew) -> None:
    team = crew.team(Text("Hello."), members=[crew.agent("Worker")], mode="tasks")
    assert (await team.arun("Go.")).content == "Hello."
    assert len(crew.requests("Leader")) == 1


async def test_every_change_of_the_list_is_an_event(crew: Crew) -> None:
    team = crew.team(create("Build"), execute("1"), members=[crew.agent("Worker")], mode="tasks")
    events = await events_of(team)
    seen = [event for event in events if event.event.startswith("TeamTask")]
    changes = [event for event in seen if event.event in ("TeamTaskCreated", "TeamTaskUpdated")]
    assert [(e.event, e.task.status, e.task.assignee) for e in changes] == [
        ("TeamTaskCreated", "pending", None),
        ("TeamTaskUpdated", "in_progress", "worker"),
        ("TeamTaskUpdated", "completed", "worker"),
    ]
    states = [event for event in seen if event.event == "TeamTaskStateUpdated"]
    assert [[task.status for task in event.tasks] for event in states] == [
        ["pending"],
        ["in_progress"],
        ["completed"],
    ]
    assert names(events)[-1] == "TeamRunCompleted"


async def test_every_round_begins_and_ends(crew: Crew) -> None:
    team = crew.team(create("Build"), members=[crew.agent("Worker")], mode="tasks", max_iterations=2)
    events = await events_of(team)
    rounds = [
        (event.event.removeprefix("TeamTaskIteration"), event.iteration, event.max_iterations)
        for event in events
        if event.event.startswith("TeamTaskIteration")
    ]
    assert rounds == [("Started", 1, 2), ("Completed", 1, 2), ("Started", 2, 2), ("Completed", 2, 2)]


async def test_a_nested_teams_list_is_its_own(crew: Crew) -> None:
    inner = crew.team(
        create("Inner work"),
        execute("1"),
        DONE,
        Text("Inner done."),
        members=[crew.agent("Worker", Text("Worked."))],
        name="Inner",
        mode="tasks",
    )
    outer: Team = crew.team(
        create("Outer work"), execute("1", "inner"), Text("All done."), members=[inner], mode="tasks"
    )
    output = await outer.arun("Go.")
    assert crew.requests("Worker")[0].last_text == "Inner work"
    assert crew.told("Leader")[1] == "Inner done."
    assert tasks_of(output) == [("Outer work", "completed")]
    assert output.content == "All done."
