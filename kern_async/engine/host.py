"""Where a run's task lives when no caller's task does: on the caller's loop, or on the background loop.

The background loop serves `run()`, in one daemon thread for the process, started at its first use. At the
interpreter's exit its live runs are cancelled and waited for, so that a run whose reader left is settled.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import time
from contextlib import suppress
from functools import partial

import anyio

from kern_async.backend import GONE, EventLoop, current_loop, neutral_context

from . import registry
from .attempt import Attempt
from .background import turns
from .execute import Body, execute
from .run import Run, current_run

_MARGIN = 1.0
"""Seconds beyond what a run's end may take that somebody waits for it who wants to go on himself."""

_EXIT_PATIENCE = 0.5
"""Seconds that the interpreter's exit waits for the loop's own clean-up, once all runs have settled."""


def start_here(run: Run, body: Body) -> None:
    """Start `run` in a task of its own on the calling task's event loop."""
    _spawn(current_loop(), run, body, _context(run, contextvars.copy_context()))


def _context(run: Run, context: contextvars.Context) -> contextvars.Context:
    """The context for the run's task; a background run is no part of the run whose code started it."""
    if run.background:
        context.run(current_run.set, None)
    return context


def _spawn(loop: EventLoop, run: Run, body: Body, context: contextvars.Context) -> None:
    # Nobody holds this task, so only the loop itself can cancel it, when it shuts down.
    main = partial(execute, run, body, outside="shutdown")

    async def in_turn() -> None:
        try:
            await turns.enter(run)
            if run.keeper is not None and not run.ended:
                await run.keeper.confirm(run)
            await main()
        except BaseException:
            run.lose()  # its loop shuts down before its turn came
            raise
        finally:
            turns.leave(run)

    def lost() -> None:
        run.lose()
        turns.leave(run)

    if run.background:
        turns.queue(run)  # here: in which order tasks take their first step is the event loop's business
    loop.spawn(in_turn if run.background else main, name=f"kern-run {run.id}", on_lost=lost, context=context)


def patience_with(run: Run) -> float:
    """Seconds that somebody waits for a cancelled run's end: its grace, its database's time, and a little."""
    stored = run.keeper.timeout if run.keeper is not None else 0.0
    return run.root.cancel_grace + stored + _MARGIN


async def wait_settled(run: Run, attempt: Attempt) -> None:
    """Wait for the end of a cancelled run's attempt under a shield, no longer than it may take."""
    with anyio.move_on_after(patience_with(run), shield=True):
        await run.wait_ended(attempt)


def wait_in_thread(run: Run, attempt: Attempt, timeout: float | None = None) -> None:
    """Wait for the end of a run's attempt in a thread without a loop; `timeout` in seconds."""
    until = None if timeout is None else time.monotonic() + timeout
    while attempt.end is None:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return
        run.log.changed.wait_in_thread(lambda: attempt.end is not None, left)


class BackgroundLoop:
    """The event loop of the sync facade."""

    def __init__(self) -> None:
        self._starter: dict[str, object] = {}
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: EventLoop | None = None
        self._runs: set[Run] = set()
        self._thread = threading.Thread(target=self._main, name="kern-loop", daemon=True)

    def start(self, run: Run, body: Body) -> None:
        """Start `run` on this loop, in a copy of the calling thread's context; does not wait for it.

        Raises:
            RuntimeError: the interpreter is exiting.
        """
        me = object()
        if self._starter.setdefault("thread", me) is me:
            self._thread.start()
            atexit.register(self.close)
        self._ready.wait()
        if self._loop is None:
            raise RuntimeError("kern_async's background loop has stopped: the interpreter is exiting")

        self._runs = {other for other in self._runs if not (other.ended or other.resting)} | {run}
        context = _context(run, neutral_context())
        # A copy, for the task may enter its context before this thread has left it.
        context.copy().run(self._loop.soon, _spawn, self._loop, run, body, context)

    def forget(self) -> None:
        """In a forked child: there is no such thread, and nothing to settle at exit."""
        self._loop = None
        self._runs.clear()

    def check_foreign(self) -> None:
        """Refuse to block the very loop that would have to do the work.

        Raises:
            RuntimeError: the caller is on the background loop.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "run() was called on kern_async's own background loop, where it would wait for itself for ever; "
                "in async code call `await x.arun(...)` instead, or make the tool a plain `def`"
            )

    def _main(self) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            self._loop = current_loop()
            self._ready.set()
            await self._stop.wait()

        try:
            asyncio.run(serve())
        except RuntimeError:
            # Everything is closed by then. Since Python 3.12 no thread can be made at the interpreter's exit, not
            # even the one in which asyncio would wait for the threads of its resolver.
            if self._loop is not None:
                raise

    def close(self) -> None:
        """Cancel and settle the runs of this loop, then stop it: at most the longest grace and a margin."""
        loop, self._loop = self._loop, None
        if loop is None or self._stop is None:
            return
        runs = [(run, run.attempt) for run in self._runs if not run.resting]
        for run, attempt in runs:
            run.cancel("shutdown", attempt=attempt)
        patience = max((patience_with(run) for run, _ in runs), default=_MARGIN)
        until = time.monotonic() + patience
        for run, attempt in runs:
            wait_in_thread(run, attempt, until - time.monotonic())
        with suppress(RuntimeError):
            loop.soon(self._stop.set)
        self._thread.join(_EXIT_PATIENCE)


_background: dict[str, BackgroundLoop] = {}


def background_loop() -> BackgroundLoop:
    """The process's background loop, not necessarily started."""
    return _background.get("loop") or _background.setdefault("loop", BackgroundLoop())


def _forked() -> None:
    # The threads and runs of the parent are not in the child. What is left of the loop cannot be closed here.
    for loop in _background.values():
        loop.forget()
    _background.clear()
    for run in registry.live_runs():
        run.loop = GONE
    registry.forget_all()


os.register_at_fork(after_in_child=_forked)
