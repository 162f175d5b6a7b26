"""What a run leaves: its terminal event and its output. Neither can fail, whatever the user's values are."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from kern_async.run import agent, team
from kern_async.run.base import BaseEvent, RunStatus
from kern_async.run.message import Message, ToolCall
from kern_async.run.requirement import RunRequirement
from kern_async.run.trusted import trusted

if TYPE_CHECKING:
    from .run import Outcome, Run

RunOutputs = agent.RunOutput | team.TeamRunOutput

UNSET: Final[Any] = object()
"""A run's `final` while its content is its text."""

CONTINUABLE = (RunStatus.paused, RunStatus.cancelled, RunStatus.error)
"""How a run may have ended that can be continued."""

CUT = "cancelled"
"""What a call that a cancel cut is answered with, in its event and in the conversation."""


def end_of(run: Run, outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """The terminal event's name, and all that it and the output say of the end."""
    whole = "".join(run.text) or None
    completed = outcome.status is RunStatus.completed
    end: dict[str, Any] = {
        "status": outcome.status,
        "metrics": run.metrics,
        "content": run.final if completed and run.final is not UNSET else whole,
        "session_state": snapshot(run.context.session_state),
        "metadata": dict(run.context.metadata) or None,
        "error": words_of(run.error) if run.error is not None else None,
        "error_type": type(run.error).__name__ if run.error is not None else None,
        "abandoned": list(run.abandoned),
    }
    if completed:
        return "RunCompleted", end
    if outcome.status is RunStatus.paused:
        waiting = list(waiting_for(run))
        return "RunPaused", end | {
            "metrics": replace(run.metrics),
            "requirements": waiting,
            "tools": [requirement.tool_execution for requirement in waiting],
        }
    if outcome.status is RunStatus.error:
        extra = getattr(run.error, "additional_data", None)
        return "RunError", end | {"additional_data": extra if extra and isinstance(extra, dict) else None}
    return "RunCancelled", end | {
        "reason": outcome.reason,
        "cancelled_by": outcome.cancelled_by,
        "cancellation_stage": outcome.stage,
        "requested_at": outcome.requested_at,
        "settled_at": time.time(),
        "interrupted": list(run.interrupted),
    }


def waiting_for(run: Run) -> Iterator[RunRequirement]:
    """What this run waits for, and then what those below it do, each in the order of the calls."""
    for call in run.due:
        if (requirement := run.requirements.get(call.id)) is not None and not requirement.is_resolved():
            yield requirement
    places = {execution.child_run_id: place for place, execution in enumerate(run.tools)}
    for member in sorted(run.children, key=lambda member: places.get(member.id, 0)):
        if member.resting and not member.ended and not member.cancelling:
            yield from waiting_for(member)


def frozen(end: dict[str, Any]) -> dict[str, Any]:
    """What the event of this end says: requirements as they are now, whatever is answered later."""
    if "requirements" not in end:
        return end
    waiting = [_copy(requirement) for requirement in end["requirements"]]
    return end | {
        "requirements": waiting,
        "tools": [requirement.tool_execution for requirement in waiting],
    }


def _copy(requirement: RunRequirement) -> RunRequirement:
    try:
        return requirement.model_copy(deep=True)
    except Exception:  # noqa: BLE001 - a value of the user's own that cannot be copied
        call = requirement.tool_execution.model_copy()
        return requirement.model_copy(update={"tool_execution": call})


def answer_to(call: ToolCall, text: str, *, error: bool = False) -> Message:
    """The message that answers a call of the model's."""
    return Message(
        role="tool", content=text, tool_call_id=call.id, tool_name=call.name, tool_call_error=error
    )


def output_of(run: Run, end: dict[str, Any]) -> RunOutputs:
    """The output that says what `end` says."""
    content = end["content"]
    values: dict[str, Any] = {
        **end,
        **run.identity,
        "user_id": run.user_id,
        "input": run.input,
        "content_type": "str" if content is None or isinstance(content, str) else type(content).__name__,
        "reasoning_content": "".join(run.reasoning) or None,
        "messages": [message for message in run.messages if not message.from_history],
        "tools": [tool.model_copy() for tool in run.tools]
        if end["status"] is RunStatus.paused
        else list(run.tools),
        "model": run.model,
        "model_provider": run.model_provider,
        "created_at": run.created_at,
    }
    if run.owner.kind == "agent":
        return trusted(agent.RunOutput, values)
    members = [member.output for member in run.children if member.output is not None]
    return trusted(team.TeamRunOutput, values | {"member_responses": members})


def kept_events(run: Run, terminal: BaseEvent) -> list[BaseEvent] | None:
    """The run's own events, its terminal one last, if it keeps them."""
    if not run.store_events:
        return None
    own = [event for event in run.log.events if event.run_id == run.id]
    return [event for event in [*run.earlier_events, *own, terminal] if event.event not in run.events_to_skip]


def words_of(error: BaseException) -> str:
    """What an exception says."""
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - an exception class of the user's
        return type(error).__name__


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that a tool which outlives the run cannot change any more, as deep as the values allow."""
    if not state:
        return {}
    try:
        return copy.deepcopy(state)
    except Exception:  # noqa: BLE001 - a value of the user's own that cannot be copied
        return dict(state)
