"""Pausing a run for a person, and going on with it.

Whatever waits for a person unwinds to the run's executor, which publishes the paused event. A member's pause is one
of its team's: the call that delegated to it stays due. Going on executes the same run once more, whose loop begins
with the calls that are due; a delegation then goes on with the member that it had, or takes what that one left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from kern_async.exceptions import ConfigurationError, RunNotContinuable
from kern_async.run.base import BaseOutput, RunStatus
from kern_async.run.requirement import RunRequirement
from kern_async.run.tool import ToolExecution
from kern_async.tools import Function

from . import registry
from .ending import waiting_for
from .run import Run


class Pausing(BaseException):
    """Unwinds work that waits for a person, up to its run. No `Exception`, for a hook or a tool must not handle it."""


def ask_person(run: Run, function: Function, execution: ToolExecution, arguments: dict[str, Any]) -> None:
    """Have the run wait with this call for what the tool requires."""
    execution.tool_args = arguments
    execution.requires_confirmation = function.requires_confirmation
    execution.external_execution_required = function.external_execution
    if function.requires_user_input:
        execution.requires_user_input = True
        execution.user_input_schema = function.user_input_schema(arguments)
    # A copy: what is decided is written there, and what comes of the call into the run's own record.
    requirement = RunRequirement(tool_execution=execution.model_copy(deep=True), run_id=run.id)
    run.asked.add(requirement.id)
    if run.parent is not None:
        requirement.member_agent_id = run.owner.id
        requirement.member_agent_name = run.owner.name
        requirement.member_run_id = run.id
    run.requirements[execution.tool_call_id] = requirement


def find_paused(
    run_id: str, *, kind: str, owner_id: str, session_id: str | None = None, user_id: str | None = None
) -> Run:
    """The paused run of that agent or team which is to go on.

    Raises:
        RunNotContinuable: it is no paused run of this process, or not of that owner, session or user.
    """
    run = registry.find(run_id)
    if run is None:
        raise RunNotContinuable(
            f"this process holds no paused run {run_id!r}; a run that has ended or was never started cannot be continued"
        )
    if run.parent is not None:
        raise RunNotContinuable(f"run {run_id!r} is a member's; continue its team's run {run.root.id!r}")
    if (run.owner.kind, run.owner.id) != (kind, owner_id):
        raise RunNotContinuable(
            f"run {run_id!r} belongs to the {run.owner.kind} {run.owner.id!r}, not to the {kind} {owner_id!r}"
        )
    if session_id is not None and session_id != run.session_id:
        raise RunNotContinuable(f"run {run_id!r} belongs to another session than {session_id!r}")
    if user_id is not None and user_id != run.user_id:
        raise RunNotContinuable(f"run {run_id!r} belongs to another user than {user_id!r}")
    _check_resting(run)
    return run


def _check_resting(run: Run) -> None:
    if not run.resting or run.ended or run.cancelling:
        state = "has ended" if run.ended else "is being cancelled" if run.cancelling else "is live"
        raise RunNotContinuable(f"run {run.id!r} {state}; only a paused run can be continued")


def paused_id(output: Any, run_id: str | None) -> str:
    """The id of the run that is to go on, as its output or `run_id` names it.

    Raises:
        RunNotContinuable: the output does not say PAUSED.
        ConfigurationError: it is none, or of another run; or there is neither.
    """
    if output is None:
        if run_id is None:
            raise ConfigurationError("which run is to go on? Give its paused output, or run_id=")
        return run_id
    if not isinstance(output, BaseOutput):
        raise ConfigurationError(f"run_response is {output!r}; it is the output of a paused run")
    if run_id not in (None, output.run_id):
        raise ConfigurationError(f"run_response is of run {output.run_id!r}, and run_id is {run_id!r}")
    if output.status is not RunStatus.paused:
        raise RunNotContinuable(
            f"run {output.run_id!r} is {output.status.value}; only a PAUSED run can be continued"
        )
    return output.run_id


def decisions_for(run: Run, given: Iterable[RunRequirement | dict[str, Any]]) -> list[RunRequirement]:
    """What was decided, checked: see `Continuation`. Requirements that stay open pause the run again.

    Raises:
        ConfigurationError: one of them is none that this run, or a member of it, waits for.
    """
    decisions = [_checked(item) for item in given]
    waiting = _waiting(run)
    for decision in decisions:
        own = waiting.get(decision.id)
        if own is None and any(decision.id in each.asked for each in (run, *run.below())):
            continue  # it was resolved before, or who waited for it was cancelled
        if own is None or own.tool_execution.tool_call_id != decision.tool_execution.tool_call_id:
            _check_resting(run)
            known = ", ".join(f"{r.id} ({r.tool_execution.tool_name})" for r in waiting_for(run)) or "none"
            raise ConfigurationError(
                f"requirement {decision.id!r} is none of run {run.id!r}; it waits for: {known}"
            )
    return decisions


def _waiting(run: Run) -> dict[str, RunRequirement]:
    return {
        requirement.id: requirement
        for each in (run, *run.below())
        if each.resting and not each.ended
        for call in each.due
        if (requirement := each.requirements.get(call.id)) is not None
    }


def _checked(item: Any) -> RunRequirement:
    if isinstance(item, RunRequirement):
        return item
    if isinstance(item, dict):
        try:
            return RunRequirement.from_dict(cast("dict[str, Any]", item))
        except ValidationError as error:
            raise ConfigurationError(f"{item!r} is no requirement: {error}") from error
    raise ConfigurationError(f"a requirement is a RunRequirement or its dict, not {item!r}")


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a paused run's next attempt begins with; the run may keep and change the values."""

    decisions: Sequence[RunRequirement] = field(default=(), kw_only=False)
    message: str | None = None
    timeout: float | None = None
    session_state: Mapping[str, Any] | None = None
    dependencies: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None

    def enter(self, run: Run) -> None:
        """Reserve the next attempt of the run; what was decided takes effect when it begins.

        Raises:
            RunNotContinuable: somebody else has it, or the run was cancelled.
        """
        _check_resting(run)
        if not run.attempt.first("continue"):
            raise RunNotContinuable(f"run {run.id!r} is being continued already")
        run.attempt.keep("continuation", self)

    def apply(self, run: Run) -> None:
        """Hand the run over what was decided, as its next attempt begins."""
        waiting = _waiting(run)
        for decision in self.decisions:
            own = waiting.get(decision.id)  # None: it was cancelled since
            if own is not None and (decision.is_resolved() or not own.is_resolved()):
                _take_over(own.tool_execution, decision.tool_execution)
        if self.message is not None:
            run.inbox.put(self.message)
        run.attempt.timeout = self.timeout
        run.context.session_state.update(self.session_state or {})
        run.context.dependencies.update(self.dependencies or {})
        run.context.metadata.update(self.metadata or {})


def _take_over(mine: ToolExecution, theirs: ToolExecution) -> None:
    if mine is theirs:
        return
    mine.confirmed, mine.confirmation_note = theirs.confirmed, theirs.confirmation_note
    mine.answered = theirs.answered
    if mine.external_execution_required:
        mine.result = theirs.result
    values = {asked.name: asked.value for asked in theirs.user_input_schema or ()}
    for asked in mine.user_input_schema or ():
        asked.value = values.get(asked.name, asked.value)


def leave_unstarted(run: Run) -> None:
    """Give back what a reader reserved that is dropped before it began."""
    if run.attempt.number:
        run.log.open_gate()
        run.attempt.release("continuation")
        run.attempt.release("continue")
    else:
        registry.unregister(run)
