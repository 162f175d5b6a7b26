"""Starting a run that nobody waits for: it is stored as PENDING, and works when its turn comes."""

from __future__ import annotations

from kern_async.exceptions import RunExists, RunIdInUse
from kern_async.run.base import RunStatus

from .ending import RunOutputs
from .host import background_loop, start_here
from .keeper import Keeper
from .registry import unregister
from .run import Run


async def submit(run: Run) -> RunOutputs | None:
    """Start a registered run on the calling task's loop; returns what it is then: PENDING, unless it was cancelled.

    A cancel while this waits for the database ends the run.

    Raises:
        RunIdInUse: another process has stored a run of this id.
        StoreError: the database refuses the run.
    """
    if run.keeper is not None:
        ticket = run.keeper.begin(run, RunStatus.pending)
        try:
            await ticket.wait(run.keeper.timeout)
        except BaseException:
            run.cancel("caller")
            raise
        _check(run, run.keeper)
    start_here(run, run.body)
    return _pending(run)


def submit_in_thread(run: Run) -> RunOutputs | None:
    """The same in a thread, on the process's background loop."""
    background_loop().check_foreign()
    if run.keeper is not None:
        run.keeper.begin(run, RunStatus.pending).wait_in_thread(run.keeper.timeout)
        _check(run, run.keeper)
    background_loop().start(run, run.body)
    return _pending(run)


def _check(run: Run, keeper: Keeper) -> None:
    error = keeper.refusal
    if error is None:
        return
    unregister(run)
    keeper.abandon()
    if isinstance(error, RunExists):
        raise RunIdInUse(run.id, stored=True) from error
    raise error


def _pending(run: Run) -> RunOutputs | None:
    if run.output is not None:
        return run.output
    output = run.draft(RunStatus.pending)
    if run.keeper is not None:
        output.stored, output.store_error = run.keeper.begun()
    return output
