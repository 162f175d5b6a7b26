"""The leader's own tools, by which a team is an agent whose tools are its members."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from kern_async.engine.run import current_run
from kern_async.run.context import RunContext
from kern_async.tools import Function

from .delegation import Delegation
from .mode import TeamMode


def delegation() -> Delegation:
    """The delegation of the run whose tool is executing."""
    run = current_run.get()
    if run is None or not isinstance(run.desk, Delegation):
        raise RuntimeError("a team's tool was called outside a team's run")
    return run.desk


async def delegate_task_to_member(member_id: str, task: str, context: RunContext) -> str:
    """Give a task to one member of the team and get its answer. Call it several times for several members at once.

    Args:
        member_id: The id of the member.
        task: What the member is to do, in full: it knows nothing of the conversation.
    """
    return await delegation().delegate(member_id, task, tool_call_id=context.tool_call_id)


async def route_task_to_member(member_id: str, task: str, context: RunContext) -> str:
    """Choose the one member that answers the user. Its answer goes to the user as it is.

    Args:
        member_id: The id of the member.
        task: What the member is to answer, in full: it knows nothing of the conversation.
    """
    return await delegation().delegate_alone(member_id, task, tool_call_id=context.tool_call_id)


async def get_member_information() -> str:
    """Get the ids, names and roles of the members of the team."""
    return delegation().team.describe_members()


async def create_task(
    title: str, description: str = "", assignee: str | None = None, depends_on: list[str] | None = None
) -> str:
    """Add a task to the shared list.

    Args:
        title: A short title.
        description: What is to be done, in full.
        assignee: The id of the member that is to do it.
        depends_on: Ids of tasks that must be completed before.
    """
    task = delegation().tasks.create(title, description, assignee, depends_on or [])
    return f"Created task {task.task_id}: {task.title} ({task.status})."


async def update_task_status(task_id: str, status: str, result: str | None = None) -> str:
    """Set the status of a task.

    Args:
        task_id: The task.
        status: pending, in_progress, completed, failed or blocked.
        result: What came of it.
    """
    task = delegation().tasks.update(task_id, status, result)
    return f"Task {task.task_id} is {task.status}."


async def list_tasks() -> str:
    """Show the shared list."""
    return delegation().tasks.describe()


async def add_task_note(task_id: str, note: str) -> str:
    """Add a note to a task.

    Args:
        task_id: The task.
        note: The note.
    """
    delegation().tasks.note(task_id, note)
    return f"Noted at task {task_id}."


async def mark_all_complete(summary: str) -> str:
    """Say that the goal is reached and no task is left.

    Args:
        summary: What was achieved.
    """
    delegation().tasks.finish()
    return f"All complete: {summary} Give the user the final answer now."


async def execute_task(task_id: str, member_id: str, context: RunContext) -> str:
    """Have a member do a task of the list.

    Args:
        task_id: The task.
        member_id: The id of the member.
    """
    return await delegation().tasks.execute(delegation(), task_id, member_id, context.tool_call_id)


async def execute_tasks_parallel(task_ids: list[str], context: RunContext) -> str:
    """Have the assignees of several tasks do them at the same time.

    Args:
        task_ids: The tasks; each needs an assignee.
    """
    return await delegation().tasks.execute_all(delegation(), task_ids, context.tool_call_id)


@cache
def tools_of(mode: TeamMode) -> tuple[Function, ...]:
    """The tools that a leader works with; made at the first call, as long as importing half of the runtime."""
    if mode is TeamMode.broadcast:
        return ()
    if mode is TeamMode.tasks:
        return tuple(map(Function.from_callable, _TASK_TOOLS))
    delegate = Function.from_callable(delegate_task_to_member)
    if mode is TeamMode.coordinate:
        return (delegate,)
    route = Function.from_callable(route_task_to_member)
    return (replace(route, name=delegate.name, stop_after_tool_call=True),)


@cache
def member_information() -> Function:
    """The tool that tells a leader who its members are."""
    return Function.from_callable(get_member_information)


_TASK_TOOLS = (
    create_task,
    update_task_status,
    list_tasks,
    add_task_note,
    mark_all_complete,
    execute_task,
    execute_tasks_parallel,
)
