"""Which runs are live in this process, by run id, and the one verb that ends them.

A plain dict, filled by `setdefault` and emptied by `pop`: single atomic steps. A lock would deadlock when
`cancel_run` is called by a signal handler or a finalizer on the thread that holds it.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from kern_async.exceptions import ConfigurationError, RunIdInUse

from .attempt import CancelMode

if TYPE_CHECKING:
    from .run import Run

MOST_PAUSED = 1_000
"""How many paused runs this process keeps; when there are more, the oldest is its database's only, or ends."""

_runs: dict[str, weakref.ref[Run]] = {}
_paused: dict[str, Run] = {}
"""Paused runs: nobody else holds them until somebody continues or cancels them."""


def register(run: Run) -> None:
    """Reserve the run's id until it ends or is dropped.

    Raises:
        RunIdInUse: a live run has it.
    """

    def forget(reference: weakref.ref[Run]) -> None:
        if _runs.get(run_id) is reference:
            _runs.pop(run_id, None)

    run_id = run.id
    reference = weakref.ref(run, forget)
    while (holder := _runs.setdefault(run_id, reference)) is not reference:
        if holder() is not None:
            raise RunIdInUse(run_id)
        forget(holder)


def unregister(run: Run) -> None:
    """Free the run's id."""
    reference = _runs.get(run.id)
    if reference is not None and reference() is run:
        _runs.pop(run.id, None)
        release(run)


def hold(run: Run) -> None:
    """Keep a run that has paused."""
    _paused[run.id] = run
    while len(_paused) > MOST_PAUSED:
        oldest = next(iter(_paused.copy().values()))
        release(oldest)
        if oldest.output is None or not oldest.output.stored:
            oldest.cancel("shutdown", f"more than {MOST_PAUSED} paused runs in this process")


def held(run: Run) -> bool:
    """Whether it is kept as a run that has paused in this process."""
    return _paused.get(run.id) is run


def release(run: Run) -> None:
    """Keep it no longer: it goes on, or has ended."""
    _paused.pop(run.id, None)


def find(run_id: str) -> Run | None:
    """The live run with this id, if this process holds one."""
    reference = _runs.get(run_id)
    return reference() if reference is not None else None


def live_runs() -> list[Run]:
    """All runs of this process that have not ended, created ones included."""
    return [run for reference in list(_runs.copy().values()) if (run := reference()) is not None]


def forget_all() -> None:
    """Drop every entry: in a forked child the runs are the parent's."""
    _runs.clear()
    _paused.clear()


def get_active_runs() -> dict[str, bool]:
    """The run ids that are live in this process, and whether each is being cancelled."""
    return {run.id: run.cancelling for run in live_runs()}


def check_mode(mode: CancelMode) -> None:
    """Refuse what is no mode.

    Raises:
        ConfigurationError: `mode` is unknown.
    """
    if mode not in ("now", "after_tools", "after_turn"):
        raise ConfigurationError(f"mode is {mode!r}; it is one of 'now', 'after_tools', 'after_turn'")


def cancel_run(run_id: str, *, reason: str | None = None, mode: CancelMode = "now") -> bool:
    """Cancel the run with this id, from any thread, task, event loop, tool, signal handler or finalizer.

    Returns at once, without waiting for the run's end. True means that the run had not ended and will end
    CANCELLED (again True while it is ending). False means that this process holds no such run or that its end
    was already decided; then nothing changes and a later run with this id is not harmed. A member's id ends that
    member, a root's id the whole tree, members first.

    Args:
        run_id: of a live, created or paused run of this process.
        reason: goes into the terminal event and the output; the first cancel's stays.
        mode: how soon. `now`; `after_tools`: running tools finish, and no further model request begins (with no
            tool running it is `now`); `after_turn`: the model's current answer and the tools that it calls finish,
            members' whole runs included. A later call may make it sooner, never later.

    Raises:
        ConfigurationError: `mode` is unknown.
    """
    check_mode(mode)
    run = find(run_id)
    return run.cancel("request", reason, mode) if run is not None else False


async def acancel_run(
    run_id: str, *, reason: str | None = None, mode: CancelMode = "now", wait: bool = False
) -> bool:
    """Like `cancel_run`; with `wait=True` it returns after the run has settled.

    It does not wait for the caller's own run or one above it, which could never come. A cancel of the wait
    changes nothing for the run.
    """
    from .run import inside

    check_mode(mode)
    run = find(run_id)
    if run is None or not run.cancel("request", reason, mode):
        return False
    if wait and not inside(run):
        await run.wait_ended()
    return True
