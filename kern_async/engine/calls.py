"""Calling code that is not ours, so that it cannot hold a run longer than the run's grace.

A coroutine of the user's runs in a task of its own, which the run awaits. On a cancel that task is cancelled
again and again, since one edge can be swallowed, until it ends or the grace is over. Then it is fenced: the run
ends, names it in `abandoned`, and whatever it does later goes nowhere. The task is outside every cancelled
anyio scope, where a stubborn one would spin.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio

from kern_async.backend import current_loop
from kern_async.exceptions import ToolError
from kern_async.run.base import Work
from kern_async.tools.threads import run_in_thread

from .observe import log
from .run import Run, forget_in_flight, note_in_flight

AGAIN = 0.05
"""Seconds between two cancels of a task that goes on."""

T = TypeVar("T")


async def call_async(run: Run, work: Work, call: Callable[[], Awaitable[T]]) -> T:
    """Await the user's `call()` for `run`; a cancel waits for it no longer than the run's grace."""
    done = anyio.Event()
    ending: list[Callable[[], None]] = []
    result: list[T] = []
    error: BaseException | None = None

    async def main() -> None:
        nonlocal error
        key = note_in_flight(work.name)
        try:
            result.append(await call())
        except BaseException as exc:  # noqa: BLE001 - carried to the run, which decides what it means
            error = exc
        finally:
            forget_in_flight(key)
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
    except BaseException:
        run.interrupted.append(work)
        try:
            await _put_down(cancel, done, run.settle_deadline())
        finally:
            if not done.is_set():
                ending.append(run.abandon(work))
        raise
    if error is None and result:
        return result[0]
    if error is None or isinstance(error, anyio.get_cancelled_exc_class()):
        # Nobody cancelled the run: the call cancelled itself, or awaited something that was cancelled.
        raise ToolError(f"{work.name} was cancelled from within") from error
    raise error


async def _put_down(cancel: Callable[[], object], done: anyio.Event, deadline: float) -> None:
    with anyio.CancelScope(shield=True):
        while True:
            cancel()
            left = deadline - anyio.current_time()
            with anyio.move_on_after(min(AGAIN, max(left, AGAIN / 5))):
                await done.wait()
            if done.is_set() or left <= 0:
                return


async def call_user(run: Run, work: Work, call: Callable[[], Any], *, is_async: bool) -> Any:
    """Call the user's code in the way its kind needs; an awaitable that a sync callable returns is awaited."""
    if is_async:
        return await call_async(run, work, call)
    result = await call_sync(run, work, call)
    if inspect.isawaitable(result):

        async def awaited() -> Any:
            return await result

        return await call_async(run, work, awaited)
    return result


async def call_sync(run: Run, work: Work, call: Callable[[], T]) -> T:
    """Run the user's `call()` in a daemon thread for `run`.

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

    try:
        return await run_in_thread(start, name=work.name, on_abandoned=abandoned, on_blocked=blocked)
    except Exception:
        raise
    except BaseException:
        run.interrupted.append(work)
        raise
