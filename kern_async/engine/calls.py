"""Calling code that is not ours, so that it cannot hold a run longer than the run's grace.

A coroutine of the user's runs in a task of its own, which the run awaits. On a cancel that task is cancelled, and
again at half the grace, since one edge can be swallowed; what it awaits in its own clean-up has that long. When
the grace is over it is fenced: the run ends, names it in `abandoned`, and whatever it does later goes nowhere. The
task is outside every cancelled anyio scope, where a stubborn one would spin.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

from kern_async.backend import current_loop
from kern_async.exceptions import RunCancelled, ToolError
from kern_async.run.base import Work
from kern_async.tools.threads import run_in_thread

from .active import ActiveCall
from .inflight import in_flight
from .observe import log
from .pausing import Pausing
from .run import Run

LEAST = 0.01
"""Seconds that even a run without a grace gives a task to end, twice."""

T = TypeVar("T")


async def call_async(
    run: Run, work: Work, call: Callable[[], Awaitable[T]], *, within: ActiveCall | None = None
) -> T:
    """Await the user's `call()` for `run`; a cancel waits for it no longer than the run's grace.

    `within` is the tool call that it is part of, which may be cut alone.
    """
    done = anyio.Event()
    ending: list[Callable[[], None]] = []
    result: list[T] = []
    error: BaseException | None = None

    async def main() -> None:
        nonlocal error
        try:
            with in_flight(work.name):
                run.context.raise_if_cancelled()  # the cancel may have been claimed before this task's first step
                result.append(await call())
        except BaseException as exc:  # noqa: BLE001 - carried to the run, which decides what it means
            error = exc
        finally:
            finished()

    def finished() -> None:
        done.set()
        for forget in ending:
            forget()

    cancel = current_loop().spawn(
        main, name=f"kern-{work.kind} {work.name}", on_lost=finished, context=contextvars.copy_context()
    )
    try:
        await done.wait()
    except (
        GeneratorExit
    ):  # the garbage collector closes what a closed event loop left: there is nothing to await
        raise
    except BaseException:
        deadline = _feel_cut(run, work, within)
        try:
            await _put_down(cancel, done, deadline)
        finally:
            if not done.is_set():
                ending.append(run.abandon(work))
        raise
    if result:
        return result[0]
    raise _of_the_call(work, error)


def _of_the_call(work: Work, error: BaseException | None) -> BaseException:
    """What a call that raised means to its run."""
    if error is None or isinstance(error, anyio.get_cancelled_exc_class()):
        # Nobody cancelled the run: the call cancelled itself, or awaited something that was cancelled.
        refused = ToolError(f"{work.name} was cancelled from within")
    elif isinstance(error, SystemExit):
        refused = ToolError(f"{work.name} tried to end the process: {error!r}")
    else:
        return error
    refused.__cause__ = error
    return refused


async def _put_down(cancel: Callable[[], object], done: anyio.Event, deadline: float) -> None:
    with anyio.CancelScope(shield=True):
        half = max((deadline - anyio.current_time()) / 2, LEAST)
        for _ in range(2):
            cancel()
            with anyio.move_on_after(half):
                await done.wait()
                return


async def call_user(
    run: Run, work: Work, call: Callable[[], Any], *, is_async: bool, within: ActiveCall | None = None
) -> Any:
    """Call the user's code in the way its kind needs; an awaitable that a sync callable returns is awaited."""
    try:
        if is_async:
            return await call_async(run, work, call, within=within)
        result = await call_sync(run, work, call, within=within)
        if not inspect.isawaitable(result):
            return result

        async def awaited() -> Any:
            return await result

        return await call_async(run, work, awaited, within=within)
    except RunCancelled:
        with noting(run, work, within):
            await run.checkpoint()  # it left because its run is to stop: so does the run, here
        raise


async def call_sync(
    run: Run,
    work: Work,
    call: Callable[[], T],
    *,
    within: ActiveCall | None = None,
    counted: bool = True,
) -> T:
    """Run the user's `call()` in a daemon thread for `run`; see `run_in_thread` for `counted`.

    A cancel does not wait for the thread. Before its start it never starts; later it is a straggler until it ends.
    """

    def start() -> T:
        # In the thread: a cancel that another thread claimed just now has not reached the event loop yet.
        run.context.raise_if_cancelled()
        return call()

    thread = Work(kind="thread", name=work.name, run_id=work.run_id, tool_call_id=work.tool_call_id)

    def abandoned() -> Callable[[], None]:
        return run.abandon(thread)

    def blocked(names: Sequence[str]) -> None:
        log("warning", "threads.exhausted", **run.names(), waiting=work.name, abandoned=list(names))

    with noting(run, work, within):
        return await run_in_thread(
            start, name=work.name, on_abandoned=abandoned, on_blocked=blocked, counted=counted
        )


@contextmanager
def noting(run: Run, work: Work, within: ActiveCall | None = None) -> Generator[None]:
    """Note `work` as interrupted if a cancel of the run passes through the block."""
    try:
        yield
    except (Exception, Pausing):
        raise
    except BaseException:
        _feel_cut(run, work, within)
        raise


def _feel_cut(run: Run, work: Work, within: ActiveCall | None) -> float:
    """Note that `work` is cut, and until when, on the loop's clock, it may take to end."""
    if within is not None and within.cut_alone(run):
        return anyio.current_time() + run.root.cancel_grace
    run.feel_cut()
    run.interrupted[work] = None
    return run.settle_deadline()
