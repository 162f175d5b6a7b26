"""Counting what a run tree uses against its `RunLimits`, before it is used."""

from __future__ import annotations

from typing import Literal

from kern_async.exceptions import ToolError
from kern_async.run.limits import RunLimits

from .run import Run

Counted = Literal["model_requests", "tool_calls", "member_runs"]


class LimitReached(ToolError):
    """A model request, or a member's run, was not begun, since the run tree has used up a limit and ends."""


def spend(run: Run, what: Counted) -> str | None:
    """Count one more of `what`, in `run` and all above it; what comes back names the limit that forbids it.

    Then nothing was counted, and the caller sees to `end_at_limit` when what it has begun is finished.
    """
    for holder in run.lineage():
        if holder.limits is not None and (limit := _forbids(holder, holder.limits, what)):
            run.progress.exceeded = (holder, limit)
            return limit
    for each in run.lineage():
        each.spent[what] = each.spent.get(what, 0) + 1
    return None


def end_at_limit(run: Run) -> None:
    """End the tree whose limit `run` would have passed, if it would have: `cancelled_by=limit`.

    Nothing new begins in it, and what was begun finishes.
    """
    exceeded, run.progress.exceeded = run.progress.exceeded, None
    if exceeded is not None:
        holder, limit = exceeded
        holder.cancel("limit", limit, "limit")


def _forbids(holder: Run, limits: RunLimits, what: Counted) -> str | None:
    most: int | None = getattr(limits, what)
    if most is not None and holder.spent.get(what, 0) >= most:
        return f"limit of {most} {what.replace('_', ' ')}"
    most = limits.total_tokens
    if what == "model_requests" and most is not None and holder.spent.get("total_tokens", 0) >= most:
        return f"limit of {most} total tokens"
    return None


def count_tokens(run: Run, tokens: int) -> None:
    """Count what a model request has used, in `run` and all above it."""
    for each in run.lineage():
        each.spent["total_tokens"] = each.spent.get("total_tokens", 0) + tokens


def refused(limit: str) -> str:
    """What the model is told of a call that was not made."""
    return f"Not called: the run has reached its {limit}."
