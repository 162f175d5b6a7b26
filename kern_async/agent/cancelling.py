"""`acancel_run` of an agent or team: in this process, and where there is a database, in that too."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kern_async.db.base import FindRun, RunRecord
from kern_async.engine import registry
from kern_async.engine.asking import Talk, ask, drive
from kern_async.engine.attempt import CancelMode
from kern_async.engine.keeper import Keeper, fence_of
from kern_async.engine.revive import at_rest
from kern_async.engine.run import Run
from kern_async.engine.stored import find_tree
from kern_async.exceptions import StoreError

if TYPE_CHECKING:
    from .runnable import Runnable

WAITING = ("PAUSED", "PENDING")
"""Statuses of stored runs that can be cancelled from any process."""


class CancelRun(Protocol):
    """How `acancel_run` is called."""

    async def __call__(
        self, run_id: str, *, reason: str | None = None, mode: CancelMode = "now", wait: bool = False
    ) -> bool:
        """See `registry.acancel_run`."""
        ...


class CancelStored:
    """`registry.acancel_run` on a class; on an instance with a `db` it also ends paused and pending runs there."""

    def __get__(self, who: Runnable[Any, Any] | None, _kind: type | None = None) -> CancelRun:
        if who is None or who.db is None:
            return registry.acancel_run
        return partial(acancel_run, who)


async def acancel_run(
    who: Runnable[Any, Any],
    run_id: str,
    *,
    reason: str | None = None,
    mode: CancelMode = "now",
    wait: bool = False,
) -> bool:
    """Cancel a run of this process, or one that the database has as PAUSED or PENDING, whoever began it.

    For one in the database it returns when the end is stored, or has failed to be. Several at once, in whatever
    processes, agree: the run has one end. See `registry.acancel_run` for the rest.

    Raises:
        ConfigurationError: `mode` is unknown.
        StoreError: this process does not hold the run, and the database did not answer; the run may still be cancelled.
    """
    if await registry.acancel_run(run_id, reason=reason, mode=mode, wait=wait):
        return True
    if registry.find(run_id) is not None or who.db is None:
        return False
    seconds = who.db.store_timeout if who.store_timeout is None else who.store_timeout
    return await drive(_cancel_stored(who, run_id, reason), seconds)


def _cancel_stored(who: Runnable[Any, Any], run_id: str, reason: str | None) -> Talk[bool]:
    db = who.db
    if db is None:
        return False
    record: RunRecord | None = yield from ask(db, FindRun(run_id=run_id))
    if record is None or record.status not in WAITING:
        return False
    kept = yield from find_tree(db, record.key.root_run_id)
    if kept is None or kept.output.status.value not in WAITING:
        return False

    def keeper_of(run: Run) -> Keeper:
        return Keeper(db, run, fence=fence_of(db, kept))

    root = at_rest(kept, keeper_of=keeper_of)
    ticket = root.keeper.claim(WAITING) if root.keeper is not None else None
    if root.keeper is None or ticket is None:
        return False
    yield ticket
    if ticket.error is not None:
        return False  # another process was the first
    target = next((run for run in (root, *root.below()) if run.id == run_id), root)
    cancelled = target.cancel("request", reason)
    if not root.ended:
        root.keeper.unclaim(root)
    if not ticket.done:  # what was handed in comes after the claim: if that is refused, it changes nothing
        raise StoreError(f"{db.name} did not answer in time; run {run_id!r} may still be cancelled")
    if (row := target.row) is not None:
        yield row
    return cancelled
