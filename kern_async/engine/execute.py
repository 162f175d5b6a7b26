"""The one executor: the only place that opens a run's cancel scope and that publishes its end."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import anyio

from kern_async.backend import current_loop
from kern_async.run.base import CancelledBy, RunStatus

from . import registry
from .attempt import Attempt
from .observe import log, wanted
from .resting import settle_members
from .run import Run, current_run

Body = Callable[[Run], Awaitable[None]]


async def execute(run: Run, body: Body, *, outside: CancelledBy) -> None:
    """Run `body` to the one terminal or paused event of the run's current attempt.

    Returns normally whatever the run's own end was: completed, paused, failed, cancelled by `cancel_run`, or timed
    out. A cancel from outside (of the calling task, or of a scope round it) ends the run as `cancelled_by=outside`
    and goes on as itself when the terminal event is in the log.
    """
    attempt = run.attempt
    if not await _begin(run, attempt):
        return
    run.body = body
    run.enclosing = current_run.get()
    run.outside = outside
    token = None
    stores = run.keeper is not None
    try:
        seconds = run.seconds
        deadline = math.inf if seconds is None else anyio.current_time() + seconds
        with anyio.CancelScope(deadline=deadline) as scope:
            # Inside the scope: asyncio keeps the timer of a deadline for a while, and with it its context.
            token = current_run.set(run)
            run.bind(scope, current_loop())
            _announce(run, attempt)
            if not run.cancelling:
                run.executing = True
                await body(run)
        if scope.cancelled_caught:
            run.claim(RunStatus.cancelled, "deadline", run.deadline_reason)
        else:
            run.claim(RunStatus.completed)
    except Exception as exc:  # noqa: BLE001 - failures of a run are data; cancellation is no Exception on any backend
        _claim_failure(run, exc)
    except BaseException as exc:
        # Where the garbage collector closes what a closed event loop left, nothing can be awaited any more.
        stores = stores and not isinstance(exc, GeneratorExit)
        run.claim(RunStatus.cancelled, outside)
        raise
    finally:
        if token is not None:
            with suppress(ValueError):  # closed by the garbage collector, in another context
                current_run.reset(token)
        left = False
        try:
            left = stores and not await _store(run)
        finally:
            if not left:
                run.finish()


def _announce(run: Run, attempt: Attempt) -> None:
    begins = "RunContinued" if attempt.number else "RunStarted"
    run.emit(begins, model=run.model, model_provider=run.model_provider)
    if attempt.number:
        settle_members(run)
    if wanted("info"):
        log("info", "run.started", **run.names())


async def _store(run: Run) -> bool:
    """Have the end in the database before anybody sees it; False: `Keeper.settle` has left it to the run's team."""
    if run.keeper is not None and not run.ended:
        with suppress(anyio.NoEventLoopError):  # the loop was closed under the run
            return await run.keeper.settle(run)
    return True


async def _begin(run: Run, attempt: Attempt) -> bool:
    """Whether the caller is to execute this attempt: it was not cancelled before."""
    while not attempt.first("begin"):
        # Cancelled while it was pending or paused, and who did it settles it; or a member of it was.
        await run.log.changed.wait(lambda: attempt.end is not None or not attempt.taken("begin"))
        if attempt.end is not None:
            return False
    if (continuation := attempt.kept("continuation")) is not None:
        continuation.apply(run)
    run.resting = False
    if attempt.number:
        registry.release(run)
        if run.parent is None:
            run.log.reopen()
    return True


def _claim_failure(run: Run, exc: Exception) -> None:
    """Claim the end ERROR, unless the run was being cut: code that fails in its clean-up does not undo a cut."""
    if run.ended:  # settled without its event loop; the garbage collector closes what is left of it
        return
    run.error = _cause(exc)
    try:
        cut_from_outside = anyio.current_effective_deadline() == -math.inf
    except anyio.NoEventLoopError:  # the loop was closed under the run, and its scope could not be left
        run.claim(RunStatus.cancelled, "shutdown")
        return
    if run.scope is not None and run.scope.cancel_called:  # by the deadline: `cancel` claims before it cuts
        run.claim(RunStatus.cancelled, "deadline", run.deadline_reason)
    elif cut_from_outside:
        run.claim(RunStatus.cancelled, run.outside)
    run.claim(RunStatus.error)


def _cause(exc: Exception) -> BaseException:
    """The failure itself, out of the groups that task groups wrap it in."""
    cause: BaseException = exc
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    return cause
