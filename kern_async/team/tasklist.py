"""The shared task list of a team in mode `tasks`; its session state shows a copy, under `task_list`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast, get_args

import anyio

from kern_async.engine.pausing import Pausing
from kern_async.engine.recall import TASKS_KEY
from kern_async.engine.run import Run
from kern_async.exceptions import ToolError
from kern_async.run.team import TaskState

if TYPE_CHECKING:
    from .delegation import Delegation

_STATUSES = get_args(TaskState.model_fields["status"].annotation)


@dataclass(eq=False)
class TaskList:
    """The tasks of one run, in the order of their creation; every change is an event."""

    run: Run
    tasks: list[TaskState] = field(default_factory=list[TaskState])
    finished: bool = False
    """Whether the leader has said that the goal is reached."""

    def __post_init__(self) -> None:
        if self.run.attempt.number:  # the run goes on with the list that it had
            listed = self.run.context.session_state.get(TASKS_KEY, ())
            self.tasks = [TaskState.model_validate(task) for task in listed]

    @property
    def settled(self) -> bool:
        """Whether there are tasks and none of them can go on."""
        tasks = self.tasks
        return bool(tasks) and all(task.status in ("completed", "failed") for task in tasks)

    def _find(self, task_id: str) -> TaskState:
        for task in self.tasks:
            if task.task_id == task_id:
                return task
        known = ", ".join(task.task_id for task in self.tasks) or "none"
        raise ToolError(f"There is no task {task_id!r}. Tasks: {known}.")

    def _save(self, task: TaskState, event: str) -> None:
        self.run.context.session_state[TASKS_KEY] = [known.model_dump() for known in self.tasks]
        self.run.emit(event, task=task.model_copy(deep=True))
        self.run.emit("TaskStateUpdated", tasks=[known.model_copy(deep=True) for known in self.tasks])

    def create(self, title: str, description: str, assignee: str | None, depends_on: list[str]) -> TaskState:
        for other in depends_on:
            self._find(other)
        waiting = any(self._find(other).status != "completed" for other in depends_on)
        task = TaskState(
            task_id=str(len(self.tasks) + 1),
            title=title,
            description=description,
            assignee=assignee,
            depends_on=depends_on,
            status="blocked" if waiting else "pending",
        )
        self.tasks.append(task)
        self._save(task, "TaskCreated")
        return task

    def update(self, task_id: str, status: str, result: str | None = None) -> TaskState:
        if status not in _STATUSES:
            raise ToolError(f"status is {status!r}; it is one of {', '.join(_STATUSES)}")
        task = self._find(task_id)
        task.status = cast(Any, status)
        task.result = result if result is not None else task.result
        self._save(task, "TaskUpdated")
        if status == "completed":
            self._unblock()
        return task

    def _unblock(self) -> None:
        completed = {task.task_id for task in self.tasks if task.status == "completed"}
        for task in self.tasks:
            if task.status == "blocked" and completed.issuperset(task.depends_on):
                task.status = "pending"
                self._save(task, "TaskUpdated")

    def note(self, task_id: str, note: str) -> None:
        task = self._find(task_id)
        task.notes.append(note)
        self._save(task, "TaskUpdated")

    def finish(self) -> None:
        self.finished = True

    def describe(self) -> str:
        lines = [
            f"{task.task_id}. [{task.status}] {task.title}"
            + (f" (assignee: {task.assignee})" if task.assignee else "")
            + (f" (after: {', '.join(task.depends_on)})" if task.depends_on else "")
            + (f"\n   result: {task.result}" if task.result else "")
            for task in self.tasks
        ]
        return "\n".join(lines) or "There are no tasks yet."

    async def execute(
        self, delegation: Delegation, task_id: str, member_id: str, tool_call_id: str | None = None
    ) -> str:
        """Have a member do a task; the task ends completed or failed, and goes back to pending when cut."""
        task = self._find(task_id)
        goes_on = delegation.has_asked(tool_call_id, task_id)
        if goes_on and task.status == "completed":
            return task.result or ""
        if task.status not in ("pending", "failed") and not goes_on:
            raise ToolError(
                f"Task {task_id} is {task.status}; only a pending or failed task can be executed."
            )
        if delegation.team.find_member(member_id) is not None:
            task.assignee = member_id
            task.status = "in_progress"
            if not goes_on:
                self._save(task, "TaskUpdated")
        results = [f"{t.title}: {t.result}" for t in self.tasks if t.task_id in task.depends_on and t.result]
        text = "\n\n".join(part for part in (task.title, task.description, *results) if part)
        try:
            answer = await delegation.delegate(member_id, text, tool_call_id=tool_call_id, part=task_id)
        except ToolError as exc:
            if delegation.team.find_member(member_id) is not None:
                self.update(task_id, "failed", str(exc))
            raise
        except Pausing:
            raise
        except BaseException:
            self.update(task_id, "pending")
            raise
        self.update(task_id, "completed", answer)
        return answer

    async def execute_all(
        self, delegation: Delegation, task_ids: list[str], tool_call_id: str | None = None
    ) -> str:
        """Have the assignees do several tasks at once; what failed is said in the text."""
        answers: dict[str, str] = {}
        paused: list[Pausing] = []

        async def one(task: TaskState) -> None:
            try:
                answers[task.task_id] = await self.execute(
                    delegation, task.task_id, task.assignee or "", tool_call_id
                )
            except Pausing as pausing:
                paused.append(pausing)
            except ToolError as exc:
                answers[task.task_id] = f"failed: {exc}"

        tasks = [self._find(task_id) for task_id in dict.fromkeys(task_ids)]
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(one, task, name=f"kern-task {task.task_id}")
        if paused:
            raise paused[0]
        return "\n".join(f"Task {task.task_id}: {answers[task.task_id]}" for task in tasks)
