"""The end of an attempt: it is made, stored where there is a database, and published."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kern_async.run.base import RunStatus
from kern_async.run.message import text_message

from . import registry
from .attempt import Attempt, Outcome
from .ending import CUT, answer_to, end_of, frozen, kept_events
from .observe import log, wanted
from .resting import settle_claimed

if TYPE_CHECKING:
    from .run import Run


class Ending(NamedTuple):
    """How an attempt ends: the event's name, and all that event and output say of it."""

    outcome: Outcome
    event: str
    fields: dict[str, Any]


def prepare(run: Run) -> Ending | None:
    """Make the end that was claimed, once; from here on the run says nothing but its terminal or paused event.

    None: nobody has claimed one, or somebody else is at it right now.
    """
    attempt = run.attempt
    outcome = attempt.outcome
    if outcome is None or not attempt.first("prepare"):
        return attempt.kept("ending")
    if outcome.status is not RunStatus.paused:
        _end_what_waits(run)
    if run.executing or not attempt.number:
        run.metrics.duration = (run.metrics.duration or 0) + time.monotonic() - run.began
    run.closing = True
    if run.parent is not None:
        run.parent.metrics.add(run.metrics, less=run.counted)
        if outcome.status is RunStatus.paused:
            run.counted = replace(run.metrics)
    return attempt.keep("ending", Ending(outcome, *end_of(run, outcome)))


def publish(run: Run, *, foreign: bool = False) -> None:
    """Log the terminal or paused event: the last thing that happens in an attempt, and without an await.

    Those of members below that end with the run come first.

    `foreign`: in a thread that is not the run's, where nothing can be waited for; the database then hears of the end
    in its own time.
    """
    attempt = run.attempt
    ending = prepare(run)
    if ending is None or not attempt.first("finish"):
        if run.unlist is not None:
            run.unlist()
        return
    for member in ending_below(run):
        publish(member, foreign=foreign)
    outcome, name, end = ending
    paused = outcome.status is RunStatus.paused
    if run.keeper is not None:
        end |= run.keeper.verdict(run)
    event = run.make(name, frozen(end))
    index = event.event_index if run.parent is None else None
    end |= {"event": event.event, "event_index": index, "events": kept_events(run, event)}
    following = _rest(run) if paused else None
    run.settled = attempt
    attempt.index = event.event_index
    attempt.end = end
    if paused:
        run.output_of(attempt)  # now: what it is made of goes on changing
    if following is None:
        run.ended = True
        registry.unregister(run)
    run.log.append(event, foreign=foreign)
    if run.parent is None:
        run.log.close(foreign=foreign)
    if run.keeper is not None:
        run.keeper.published(run)
    _log_end(run, outcome, end)
    if following is not None:
        following.release("begin")
        run.log.changed.ring(foreign=True)
        settle_claimed(run)


def _rest(run: Run) -> Attempt:
    """Be paused: where nobody executes, there is nothing that a cancel would have to be delivered to.

    The next attempt has begun, so to say, until the paused event is in the log: nobody ends or continues the run
    before.
    """
    following = run.attempt.following()
    following.first("begin")
    run.executing = False
    run.closing = False
    run.scope = None
    run.attempt = following
    run.resting = True
    if run.parent is None:
        for each in [run, *run.below()]:
            each.loop = None
        registry.hold(run)
    return following


def ending_below(run: Run) -> list[Run]:
    """The members below whose ends are made and not published, each after those below it."""
    return [
        each
        for member in run.children
        if member.closing and not member.ended
        for each in [*ending_below(member), member]
    ]


def _end_what_waits(run: Run) -> None:
    """Before the terminal event: members that wait for a person end, and what was not answered is."""
    for member in run.children:
        if member.resting and not member.ended:
            member.claim(RunStatus.cancelled, "parent")
            if member.attempt.first("begin"):
                prepare(member)
    if run.due:
        run.messages.extend(answer_to(call, CUT, error=True) for call in run.due)
        cut = {call.id for call in run.due}
        for execution in run.tools:
            if execution.result is None and execution.tool_call_id in cut:
                execution.result, execution.tool_call_error = CUT, True
        run.due = []
    if unheard := run.inbox.close():
        run.messages.extend(text_message("user", text) for text in unheard)


def _log_end(run: Run, outcome: Outcome, end: dict[str, Any]) -> None:
    if not wanted("info"):
        return
    asked = outcome.requested_at
    log(
        "info",
        "run.ended",
        **run.names(),
        status=outcome.status.value,
        cancelled_by=outcome.cancelled_by,
        cancel_latency=end["settled_at"] - asked if asked is not None else None,
        error_type=end["error_type"],
        input_tokens=run.metrics.input_tokens,
        output_tokens=run.metrics.output_tokens,
    )
