"""Ending what was cancelled of a paused run, in whatever thread, while nobody executes it.

The attempt that is to come may be begun once: by who goes on with the run, by who ends it, or, for a moment, by who
ends just a member of it. So only one of them writes into the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Run


def settle_claimed(run: Run) -> None:
    """End what was cancelled of this run and below it, unless somebody executes it.

    That one looks for claims himself, when he has made the run reachable.
    """
    attempt = run.attempt
    while (run.cancelling or any(_cancelled_at_rest(run))) and attempt.first("begin"):
        if run.cancelling:
            run.settle_unbegun()
            return
        settle_members(run)
        attempt.release("begin")
        run.log.changed.ring(foreign=True)


def settle_members(run: Run) -> None:
    """End the members that were cancelled while they were paused."""
    for member in list(_cancelled_at_rest(run)):
        if member.attempt.first("begin"):
            member.finish(foreign=True)


def _cancelled_at_rest(run: Run) -> Iterator[Run]:
    return (member for member in run.below() if member.resting and not member.ended and member.cancelling)


def settle_at_rest(run: Run, again: Callable[[], object]) -> None:
    """End a paused run: alone where its root is paused too, else on the loop that executes that.

    `again` is called there if that is another loop than this one.
    """
    root = run.root
    loop = root.loop
    if loop is None:
        settle_claimed(root)
    elif threading.get_ident() == root.thread:
        settle_claimed(run)
    else:  # the root has gone on elsewhere in the meantime
        with suppress(RuntimeError):
            loop.soon(again)
