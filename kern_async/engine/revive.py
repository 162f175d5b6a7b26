"""Making a run again of what was kept of it, so that it can go on: paused, as it were, before its next attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from kern_async.run.base import RunInput, RunStatus
from kern_async.run.context import RunContext
from kern_async.run.requirement import RunRequirement

from .attempt import Attempt
from .ending import CONTINUABLE
from .kept import Kept, open_calls
from .log import EventLog
from .owner import Owner
from .run import Run

if TYPE_CHECKING:
    from .keeper import Keeper


def revive(run: Run, kept: Kept) -> None:
    """Have a run that was just created be where the kept one was left."""
    output, resume = kept.output, kept.resume
    progress = run.progress
    messages, due = open_calls(kept)
    progress.prepared = resume.get("prepared", False)
    progress.opened = resume.get("opened", False)
    progress.rounds = resume.get("rounds", 0)
    progress.stops = resume.get("stops", False)
    progress.history_at = resume.get("history_at")
    told = resume.get("told")
    if not progress.opened and told is not None:
        del messages[told]  # the leader is told once more, when its members are done
    run.messages[:] = messages
    run.tools = [execution.model_copy(deep=True) for execution in output.tools]
    for execution in run.tools:
        if execution.tool_call_id in due and output.status is not RunStatus.paused:
            execution.result, execution.tool_call_error = None, False
    calls = [call for message in messages for call in message.tool_calls]
    newest = {call.id: call for call in calls}
    run.due = [newest[call_id] for call_id in due]
    run.requirements = {
        call_id: RunRequirement.from_dict(data)
        for call_id, data in resume.get("requirements", {}).items()
        if call_id in due
    }
    run.asked = dict.fromkeys([*resume.get("asked", ()), *(each.id for each in run.requirements.values())])
    _revive_text(run, kept)
    run.metrics = replace(output.metrics)
    if not kept.interrupted:  # the team's figures have its own already
        run.counted = replace(run.metrics)
    if output.status is RunStatus.paused:  # an end by a limit is no reason to end there again at once
        run.spent.update(
            model_requests=run.metrics.model_requests,
            tool_calls=run.metrics.tool_calls,
            total_tokens=run.metrics.total_tokens,
            member_runs=len(kept.tree()) - 1,
        )
    run.created_at = output.created_at
    run.place = _place(kept)
    run.earlier_events = list(output.events or ())
    _rest(run, kept)
    if run.parent is None:
        base = max(each.next_index for each in kept.tree())
        run.log = EventLog(base=base, attempt=run.attempt.number)


def at_rest(
    kept: Kept, *, parent: Run | None = None, keeper_of: Callable[[Run], Keeper | None] = lambda _: None
) -> Run:
    """A kept run without anything to do: one that has ended, or one that waits, to be ended."""
    output = kept.output
    run = Run(
        owner=Owner(
            "team" if kept.owner[0] == "team" else "agent",
            kept.owner[1],
            getattr(output, f"{kept.owner[0]}_name"),
        ),
        id=output.run_id,
        session_id=output.session_id,
        user_id=output.user_id,
        input=output.input or RunInput(input_content=""),
        context=RunContext(
            run_id=output.run_id,
            session_id=output.session_id,
            user_id=output.user_id,
            session_state=dict(output.session_state or {}),
            metadata=dict(output.metadata or {}),
        ),
        cancel_grace=0.0,
        parent=parent,
        model=output.model,
        model_provider=output.model_provider,
        store_events=bool(output.events),
    )
    if parent is None:
        run.keeper = keeper_of(run)
    if output.status in (RunStatus.paused, RunStatus.pending):
        revive(run, kept)
        if output.status is RunStatus.pending:  # it never began
            run.attempt, run.settled, run.resting = Attempt(), None, False
    else:
        as_ended(run, kept)
    for child in kept.children:
        at_rest(child, parent=run)
    return run


def as_ended(run: Run, kept: Kept) -> None:
    """Have a member's run that was just created be the kept one, which is over."""
    run.metrics = replace(kept.output.metrics)
    run.counted = replace(run.metrics)
    run.created_at = kept.output.created_at
    run.place = _place(kept)
    _rest(run, kept)
    run.resting, run.ended = False, True


def goes_on(kept: Kept, due: set[str], team: Kept) -> bool:
    """Whether a kept member's run goes on with its team's: it has not completed, and the team waits for it."""
    if kept.output.status not in CONTINUABLE:
        return kept.output.status is not RunStatus.completed  # live, when its process died
    place = _place(kept)
    if RunStatus.paused in (kept.output.status, team.output.status):
        # Who was cancelled while the team waited was so for itself.
        return kept.output.status is RunStatus.paused
    if place is None or place[0] < 0:
        return not team.resume.get("opened", False)
    tools = team.output.tools
    return place[0] < len(tools) and tools[place[0]].tool_call_id in due


def _place(kept: Kept) -> tuple[int, str] | None:
    place = kept.resume.get("place")
    return (place[0], place[1]) if place else None


def _revive_text(run: Run, kept: Kept) -> None:
    said = kept.output.content if isinstance(kept.output.content, str) else ""
    answer = kept.resume.get("answer")
    if answer is not None and said:
        run.text = [said[:answer], said[answer:]]
        run.progress.answer = 1
    else:
        run.text = [said] if said else []
    run.progress.spoken = len(run.text)
    if kept.output.reasoning_content:
        run.reasoning = [kept.output.reasoning_content]


def _rest(run: Run, kept: Kept) -> None:
    past = kept.attempt
    if past is None:
        past = Attempt(kept.resume.get("attempt", 0))
        past.end = {"status": kept.output.status}
        past.keep("output", kept.output)
    run.settled = past
    run.attempt = past.following()
    run.resting = True
