"""The one seam to the event loop: call into it from anywhere, start a task that nobody encloses, wait for threads.

Everything else is written against anyio. This is what anyio leaves to the backends, and structured code must not
need it: only the engine does, for tasks that are owned by a run instead of by a caller's block.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import anyio
import anyio.lowlevel

try:  # only where trio or an older library brings it
    from sniffio import current_async_library_cvar
except ImportError:
    current_async_library_cvar = None


class EventLoop(Protocol):
    """A running event loop, as seen from any thread."""

    def soon(self, callback: Callable[..., object], *args: Any) -> object:
        """Have the loop call `callback(*args)` in its thread, in order, never before this returns.

        Safe in any thread, in a signal handler and in a finalizer.

        Raises:
            RuntimeError: the loop is closed.
        """
        ...

    def spawn(
        self,
        main: Callable[[], Awaitable[None]],
        *,
        name: str,
        on_lost: Callable[[], None],
        context: contextvars.Context | None = None,
    ) -> Callable[[], object]:
        """Start `main` as a task of its own, from the loop's thread; return what cancels it natively.

        `main` must end by itself or by a cancel, never by another exception. `on_lost` is called if the loop
        dropped the task before its first step, which happens only while the loop shuts down.
        """
        ...


class _Gone:
    """The loop of a run that a fork left without one."""

    def soon(self, callback: Callable[..., object], *args: Any) -> object:
        raise RuntimeError("the event loop is in the parent process")

    def spawn(self, *_args: Any, **_options: Any) -> Callable[[], object]:
        raise RuntimeError("the event loop is in the parent process")


GONE = _Gone()


def neutral_context() -> contextvars.Context:
    """A copy of the caller's context for another thread or event loop: it does not say which loop it came from."""
    context = contextvars.copy_context()
    if current_async_library_cvar is not None:
        context.run(current_async_library_cvar.set, None)
    return context


def current_loop() -> EventLoop:
    """The event loop that the calling task runs on."""
    if (task := _asyncio_task()) is not None:
        return _AsyncioLoop(task.get_loop())
    native = anyio.lowlevel.current_token().native_token
    return _AsyncioLoop(native) if isinstance(native, asyncio.AbstractEventLoop) else _TrioLoop(native)


_tasks: set[asyncio.Task[None]] = set()  # an event loop holds its tasks only weakly


class _AsyncioLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def soon(self, callback: Callable[..., object], *args: Any) -> object:
        task = _asyncio_task()
        if task is not None and task.get_loop() is self._loop:
            # It looks at what is ready before it waits again, and need not be woken, which takes system calls.
            return self._loop.call_soon(callback, *args)
        return self._loop.call_soon_threadsafe(callback, *args)

    def spawn(
        self,
        main: Callable[[], Awaitable[None]],
        *,
        name: str,
        on_lost: Callable[[], None],
        context: contextvars.Context | None = None,
    ) -> Callable[[], object]:
        started = False

        async def step() -> None:
            nonlocal started
            started = True
            await main()

        def done(task: asyncio.Task[None]) -> None:
            _tasks.discard(task)
            if not started:
                on_lost()

        task = self._loop.create_task(step(), name=name, context=context)
        _tasks.add(task)
        task.add_done_callback(done)
        return task.cancel


def _asyncio_task() -> asyncio.Task[Any] | None:
    """The task of asyncio's that is taking a step in this thread, whatever has interrupted it."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop of asyncio's runs here
        return None


class _TrioLoop:
    def __init__(self, token: object) -> None:
        self._token = cast(Any, token)

    def soon(self, callback: Callable[..., object], *args: Any) -> object:
        return self._token.run_sync_soon(callback, *args)

    def spawn(
        self,
        main: Callable[[], Awaitable[None]],
        *,
        name: str,
        on_lost: Callable[[], None],
        context: contextvars.Context | None = None,
    ) -> Callable[[], object]:
        import trio

        # A task of trio's always takes its first step, so it is never lost.
        scope = trio.CancelScope()

        async def step() -> None:
            with scope:
                await main()

        trio.lowlevel.spawn_system_task(step, name=name, context=context)
        return scope.cancel


Wake = Callable[[bool], object]
"""Wakes one waiter. True: the caller is in another thread, a signal handler or a finalizer."""


class Bell:
    """Where somebody waits, in tasks of any loop or in threads, for a condition to change."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[Wake, None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def ring(self, *, foreign: bool = False) -> None:
        """Wake everybody who waits. `foreign` when the caller may not touch the waiters' event loop."""
        while self._waiters:
            try:
                wake, _ = self._waiters.popitem()
            except KeyError:  # another thread rang in between
                return
            wake(foreign)

    async def wait(self, unless: Callable[[], bool]) -> None:
        """Wait for a ring, or return at once when `unless()` holds. A cancel leaves nothing behind."""
        ring, rung = _signal()
        wake = _waker(ring)
        self._waiters[wake] = None
        try:
            if not unless():
                await rung()
        finally:
            self._waiters.pop(wake, None)

    def wait_in_thread(self, unless: Callable[[], bool], timeout: float | None = None) -> None:
        """The same for a thread without a loop; `timeout` in seconds. KeyboardInterrupt gets through."""
        parked: queue.SimpleQueue[None] = queue.SimpleQueue()

        def wake(_foreign: bool) -> None:
            parked.put(None)

        self._waiters[wake] = None
        try:
            if not unless():
                with suppress(queue.Empty):
                    parked.get(timeout=timeout)
        finally:
            self._waiters.pop(wake, None)


def _signal() -> tuple[Callable[[], object], Callable[[], Awaitable[object]]]:
    """Something to wait for once, in the calling task: what gives it, and what waits for it."""
    task = _asyncio_task()
    if task is None:
        event = anyio.Event()
        return event.set, event.wait
    # Readers wait for nearly every event, and an `anyio.Event` costs as much as all else that is done for one.
    future = task.get_loop().create_future()

    def give() -> None:
        if not future.done():
            future.set_result(None)

    return give, lambda: future


def _waker(callback: Callable[[], object]) -> Wake:
    thread = threading.get_ident()
    loop = current_loop()

    def wake(foreign: bool) -> None:
        if not foreign and threading.get_ident() == thread:
            callback()
            return
        with suppress(RuntimeError):  # its loop is closed: nobody waits any more
            loop.soon(callback)

    return wake
