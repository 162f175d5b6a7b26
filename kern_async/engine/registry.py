"""Which runs are live in this process, by run id, and the one verb that ends them.

A plain dict, filled by `setdefault` and emptied by `pop`: single atomic steps. A lock would deadlock when
`cancel_run` is called by a signal handler or a finalizer on the thread that holds it.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Literal

from kern_async.exceptions import ConfigurationError, RunIdInUse

if TYPE_CHECKING:
    from .run import Run

CancelMode = Literal["now", "after_tools", "after_turn"]

_runs: dict[str, weakref.ref[Run]] = {}


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


def get_active_runs() -> dict[str, bool]:
    """The run ids that are live in this process, and whether each is being cancelled."""
    return {run.id: run.cancelling for run in live_runs()}


def check_mode(mode: CancelMode) -> None:
    """Refuse what is no mode.

    Raises:
        ConfigurationError: `mode` is unknown.
        NotImplementedError: `mode` is a graceful one.
    """
    if mode not in ("now", "after_tools", "after_turn"):
        raise ConfigurationError(f"mode is {mode!r}; it is one of 'now', 'after_tools', 'after_turn'")
    if mode != "now":
        raise NotImplementedError(f"cancel_run(mode={mode!r}): only mode='now' is there yet")


def cancel_run(run_id: str, *, reason: str | None = None, mode: CancelMode = "now") -> bool:
    """Cancel the run with this id, from any thread, task, event loop, tool, signal handler or finalizer.

    Returns at once, without waiting for the run's end. True means that the run had not ended and will end
    CANCELLED (again True while it is ending). False means that this process holds no such run or that its end
    was already decided; then nothing changes and a later run with this id is not harmed. A member's id ends that
    member, a root's id the whole tree, members first.

    Args:
        run_id: of a live or created run of this process.
        reason: goes into the terminal event and the output; the first cancel's stays.
        mode: `now`.
    """
    check_mode(mode)
    run = find(run_id)
    return run.cancel("request", reason) if run is not None else False


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
    if run is None or not run.cancel("request", reason):
        return False
    if wait and not inside(run):
        await run.wait_ended()
    return True
