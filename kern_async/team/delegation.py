"""Members at work for a team's run: each a run of its own inside the team's task group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from kern_async.agent.runnable import Input, Runnable
from kern_async.engine import registry
from kern_async.engine.budget import LimitReached, refused, spend
from kern_async.engine.calls import noting
from kern_async.engine.ending import snapshot
from kern_async.engine.execute import execute
from kern_async.engine.pausing import Pausing
from kern_async.engine.run import Run
from kern_async.exceptions import ToolError
from kern_async.models.base import Model
from kern_async.run.base import BaseOutput, RunInput, RunStatus, Work
from kern_async.run.message import Message

from .prompt import earlier_turns, text_of
from .tasklist import TASKS_KEY, TaskList

if TYPE_CHECKING:
    from .team import Team

Member = Runnable[Any, Any]


@dataclass(kw_only=True, eq=False)
class Delegation:
    """What one run of a team keeps of its members' work."""

    team: Team
    run: Run
    model: Model
    speaking: bool = False
    """Whether a member is giving, or has given, the team's answer (mode `route`)."""
    speaker: str | None = None
    """The call that chose it."""
    interactions: list[str] = field(default_factory=list[str])
    tasks: TaskList = field(init=False)
    _asked: dict[tuple[int, str], Run] = field(default_factory=dict[tuple[int, str], Run], init=False)
    """The members' runs by the call and the part of it that they are for: a call that goes on finds them here."""

    def __post_init__(self) -> None:
        self.tasks = TaskList(self.run)
        for child in self.run.children:  # of a run that goes on in another process
            if child.place is not None:
                self._asked[child.place] = child
            if child.ended and child.output is not None:
                self._note(child.owner.name or child.owner.id, child.input.input_content, child.output)

    async def delegate(
        self, member_id: str, task: str, *, tool_call_id: str | None = None, part: str = ""
    ) -> str:
        """Have a member, or a member's member, do `task`; return its answer.

        `part` tells apart several delegations of one call.

        Raises:
            ToolError: there is no such member, or it failed or was cancelled: what the leader is told.
            Pausing: the member waits for a person. The same call then goes on with it.
        """
        member = self.team.find_member(member_id)
        if member is None:
            known = ", ".join(m.id for m in self.team.members)
            raise ToolError(
                f"Member with ID {member_id} not found in the team or any subteams. Members: {known}."
            )
        given: Input = task if self.team.determine_input_for_members else self.run.input.input_content
        output = await self.ask(member, given, tool_call_id=tool_call_id, part=part)
        answer = answer_of(member, output)
        if self.speaking and output.content_type != "str":
            self.run.final = output.content  # the chosen member's object is the team's
        return answer

    async def delegate_alone(self, member_id: str, task: str, *, tool_call_id: str | None = None) -> str:
        """The same for a member whose answer is the team's: one at a time, and only one that succeeds.

        Raises:
            ToolError: another member is answering already, or as for `delegate`.
        """
        if self.speaking and self.speaker != tool_call_id:
            raise ToolError("Another member is answering already; only one member is chosen.")
        self.speaking, self.speaker = True, tool_call_id
        try:
            return await self.delegate(member_id, task, tool_call_id=tool_call_id)
        except Pausing:
            raise
        except BaseException:
            self.speaking = False
            raise

    async def ask_all(self) -> None:
        """Give the run's input to all members at once; what they left is in the run's `children`.

        Raises:
            Pausing: one of them waits for a person, and the others have finished.
        """
        failed: list[Exception] = []
        paused: list[Pausing] = []

        async def ask(member: Member) -> None:
            try:
                await self.ask(member, self.run.input.input_content, part=member.id)
            except LimitReached:
                return
            except Pausing as pausing:
                paused.append(pausing)
            except Exception as exc:  # noqa: BLE001 - raised below, when the other members have finished
                failed.append(exc)

        async with anyio.create_task_group() as group:
            for member in self.team.members:
                group.start_soon(ask, member, name=f"kern-member {member.id}")
        if failed:
            raise failed[0]
        if paused:
            raise paused[0]

    async def ask(
        self, member: Member, given: Input, *, tool_call_id: str | None = None, part: str = ""
    ) -> BaseOutput:
        """Run a member on `given` in the calling task, to its end, whatever that is.

        A cancel of the team's run ends the member's first; then it goes on.

        Raises:
            Pausing: the member waits for a person.
            LimitReached: no further member may run.
        """
        run = self.run
        await run.checkpoint()
        key = self._key(tool_call_id), part
        child = self._asked.get(key)
        if child is None:
            child = self._asked[key] = self._create(member, given)
            child.place = key
        self._link(child, tool_call_id)
        if not child.ended:
            await self._execute(child, member)
        if child.resting and not child.ended:
            raise Pausing
        output = child.output
        if output is None:
            raise RuntimeError(f"run {child.id} ended without an output")
        self._note(member.name or member.id, given, output)
        return output

    def _note(self, name: str, given: Any, output: BaseOutput) -> None:
        if self.team.share_member_interactions:
            self.interactions.append(
                f"{name} was asked: {text_of(given)}\nand answered: {text_of(output.content)}"
            )

    def has_asked(self, tool_call_id: str | None, part: str) -> bool:
        """Whether this part of a call was begun before: the call goes on after a pause."""
        return (self._key(tool_call_id), part) in self._asked

    def _key(self, tool_call_id: str | None) -> int:
        call = self.run.calls.get(tool_call_id or "")
        # Not the id of the call: a provider may give the same one in every turn.
        tools = self.run.tools
        places = reversed(range(len(tools)))
        return next((i for i in places if call is not None and tools[i] is call.execution), -1)

    def _link(self, child: Run, tool_call_id: str | None) -> None:
        if (call := self.run.calls.get(tool_call_id or "")) is not None:
            child.serves = call
            call.members.append(child)
            call.execution.child_run_id = child.id if len(call.members) == 1 else None

    def _create(self, member: Member, given: Input) -> Run:
        run = self.run
        if run.drained:
            raise LimitReached("Not begun: the run is ending.")
        if (limit := spend(run, "member_runs")) is not None:
            raise LimitReached(refused(limit))
        child = member.create_member_run(
            self._with_context(given),
            parent=run,
            fallback_model=self.model,
            session_state=snapshot(_shared(run.context.session_state)),
            speaks_for=run if self.speaking else None,
        )
        registry.register(child)
        if not self.team.stream_member_events or run.id in run.log.hidden:
            run.log.hidden[child.id] = None
        return child

    async def _execute(self, child: Run, member: Member) -> None:
        """One attempt of a member's run."""
        attempt = child.attempt
        before = snapshot(child.context.session_state)
        try:
            work = Work(kind="member", name=member.name or member.id, run_id=child.id)
            with noting(self.run, work, child.serves):
                await execute(child, child.body, outside="parent")
                await child.wait_ended(attempt)
                if self.run.stopping and child.cancelling:
                    # It ended in its own scope, sooner than the cancel came here. The call is cut and not answered
                    # with that: who continues the run goes on with the member.
                    await self.run.checkpoint()
        finally:
            _merge(before, child.context.session_state, self.run.context.session_state)

    def _with_context(self, given: Input) -> Input:
        """The task, after what the member is to know of the team's earlier runs and of the other members' work."""
        known: list[str] = []
        team = self.team
        if team.add_team_history_to_members and (earlier := self.run.root.team_history):
            known.append(earlier_turns(earlier[-team.num_team_history_runs :]))
        if self.interactions and isinstance(given, str):
            known += ["What other members did so far:", *self.interactions]
        if not known:
            return given
        if isinstance(given, str):
            return "\n\n".join([*known, "Your task:", given])
        task = RunInput.model_construct(input_content=given).messages()
        return [Message(role="user", content="\n\n".join(known), from_history=True), *task]


def answer_of(member: Member, output: BaseOutput) -> str:
    """A member's answer as the leader gets it.

    Raises:
        ToolError: the member failed or was cancelled.
    """
    name = member.name or member.id
    so_far = f" Its answer so far: {text_of(output.content)}" if output.content else ""
    if output.status is RunStatus.cancelled:
        reason = f" ({output.reason})" if output.reason else ""
        raise ToolError(f"Member {name} was cancelled{reason}.{so_far}")
    if output.status is RunStatus.error:
        raise ToolError(f"Member {name} failed with {output.error_type}: {output.error}.{so_far}")
    return text_of(output.content) or "No response from the member agent."


def _shared(state: dict[str, Any]) -> dict[str, Any]:
    """A run's session state without the task list, which is the team's own."""
    return {key: value for key, value in state.items() if key != TASKS_KEY}


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except Exception:  # noqa: BLE001 - values of the user's, arrays for instance
        return True


def _merge(before: dict[str, Any], after: dict[str, Any], into: dict[str, Any]) -> None:
    """Write the top-level keys that a member changed into its team's session state."""
    if not before and not after:
        return
    before, after = _shared(before), _shared(after.copy())  # a copy: a straggler may still be changing it
    into.update(
        {key: value for key, value in after.items() if key not in before or _differ(before[key], value)}
    )
    for key in before.keys() - after.keys():
        into.pop(key, None)
