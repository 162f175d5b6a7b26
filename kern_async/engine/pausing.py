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
from kern_async.run.message import text_message
from kern_async.run.requirement import RunRequirement
from kern_async.run.tool import ToolExecution
from kern_async.tools import Function

from . import registry
from .ending import CONTINUABLE, waiting_for
from .resume import GO_ON
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
    run.asked[requirement.id] = None
    if run.parent is not None:
        requirement.member_agent_id = run.owner.id
        requirement.member_agent_name = run.owner.name
        requirement.member_run_id = run.id
    run.requirements[execution.tool_call_id] = requirement


def check_resting(run: Run) -> None:
    """Refuse to go on with a run of this process that does not wait for anybody.

    Raises:
        RunNotContinuable: it is live, or has ended.
    """
    if not run.resting or run.ended or run.cancelling:
        state = "has ended" if run.ended else "is being cancelled" if run.cancelling else "is live"
        raise RunNotContinuable(f"run {run.id!r} {state}; only a run that waits can be continued")


def continued_id(output: Any, run_id: str | None) -> str:
    """The id of the run that is to go on, as its output or `run_id` names it.

    Raises:
        RunNotContinuable: the output says COMPLETED, or that the run lives.
        ConfigurationError: it is none, or of another run; or there is neither.
    """
    if output is None:
        if run_id is None:
            raise ConfigurationError("which run is to go on? Give its output, or run_id=")
        return run_id
    if not isinstance(output, BaseOutput):
        raise ConfigurationError(f"run_response is {output!r}; it is the output of a run")
    if run_id not in (None, output.run_id):
        raise ConfigurationError(f"run_response is of run {output.run_id!r}, and run_id is {run_id!r}")
    check_continuable(output.run_id, output.status)
    return output.run_id


def check_continuable(run_id: str, status: RunStatus) -> None:
    """Refuse to go on with a run that has completed or lives.

    Raises:
        RunNotContinuable: it is not PAUSED, CANCELLED or ERROR.
    """
    if status not in CONTINUABLE:
        raise RunNotContinuable(
            f"run {run_id!r} is {status.value}; a run that is PAUSED, CANCELLED or ERROR can be continued"
        )


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
            check_resting(run)
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
        check_resting(run)
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
        for each in (run, *run.below()):
            if each.resting and not each.ended and not (each is run and self.message is not None):
                _ask_to_go_on(each)
        run.attempt.timeout = self.timeout
        run.context.session_state.update(self.session_state or {})
        run.context.dependencies.update(self.dependencies or {})
        run.context.metadata.update(self.metadata or {})


def _ask_to_go_on(run: Run) -> None:
    """Have the model go on with an answer that was cut."""
    last = run.messages[-1] if run.messages else None
    if (
        last is not None
        and last.role == "assistant"
        and not last.tool_calls
        and run.progress.prepared
        and run.progress.answer is None
    ):
        run.progress.goes_on = _answer_so_far(run)
        run.messages.append(text_message("user", GO_ON))


def _answer_so_far(run: Run) -> int:
    """Where in the run's text the answer begins that was cut, once or several times, and is to go on."""
    pieces: list[str] = []
    for message in reversed(run.messages):
        if message.role == "assistant" and not message.tool_calls:
            pieces.append(message.content or "")
        elif message.role != "user" or message.content != GO_ON:
            break
    cut = "".join(reversed(pieces))
    place, left = len(run.text), len(cut)
    if not "".join(run.text).endswith(cut):
        return place
    while left > 0:
        place -= 1
        left -= len(run.text[place])
    if left < 0:  # of a run of another process, whose text is in one piece
        piece = run.text[place]
        run.text[place : place + 1] = [piece[:-left], piece[-left:]]
        run.progress.spoken = len(run.text)
        place += 1
    return place


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
        if run.keeper is not None:
            run.keeper.unclaim(run)
        if registry.held(run):
            return
        for member in run.below():
            registry.unregister(member)
    registry.unregister(run)
