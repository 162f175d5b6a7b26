"""What going on with a run needs that its output does not say."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from kern_async.run.base import BaseOutput, RunMetrics

from .attempt import Attempt

if TYPE_CHECKING:
    from .run import Run


GO_ON = "Your answer was cut off there. Go on exactly where it stops; repeat nothing."
"""What the model is told when a run goes on after an answer that broke off."""


_PAST = "_past"
_METRICS = tuple(each.name for each in fields(RunMetrics))


@dataclass(eq=False)
class Past:
    """The attempt that left an output, in this process, and what going on from there needs.

    A deep copy or a pickle has lost the attempt.
    """

    attempt: Attempt | None = None
    resume: dict[str, Any] | None = None

    def __reduce__(self) -> tuple[type[Past], tuple[None, dict[str, Any] | None]]:
        return Past, (None, self.resume)


def remember(output: BaseOutput, run: Run, attempt: Attempt) -> None:
    """Keep with an output where its run stands. It is no field, so it is no part of the output's data."""
    vars(output)[_PAST] = Past(attempt, resume_of(run) | {"attempt": attempt.number, "log": attempt.index})


def past_of(output: BaseOutput) -> Past:
    """What an output remembers."""
    return vars(output).get(_PAST) or Past()


def resume_of(run: Run) -> dict[str, Any]:
    """What going on with the run needs besides its output, as JSON data."""
    progress = run.progress
    told = progress.told
    brought = sum(message.from_history for message in run.messages[:told]) if told is not None else 0
    said = run.text[:]
    return {
        "attempt": run.attempt.number,
        "index": run.index,
        "place": run.place,
        "prepared": progress.prepared,
        "opened": progress.opened,
        "told": told - brought if told is not None else None,
        "history_at": progress.history_at,
        "rounds": progress.rounds,
        "stops": progress.stops,
        "phase": progress.phase,
        "covered": len("".join(said[: progress.spoken])),
        "answer": len("".join(said[: progress.answer])) if progress.answer is not None else None,
        "metrics": {name: getattr(run.metrics, name) for name in _METRICS},
        "asked": sorted(run.asked),
        "requirements": {
            call_id: requirement.to_dict() for call_id, requirement in run.requirements.copy().items()
        },
        "log": run.log.next_index - 1,
    }
