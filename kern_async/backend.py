"""The one seam to the event loop: call into it from anywhere, and start a task that nobody encloses.

Everything else is written against anyio. These two verbs are what anyio leaves to the backends, and structured
code must not need them: only the engine does, for tasks that are owned by a run instead of by a caller's block.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

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
    native = anyio.lowlevel.current_token().native_token
    return _AsyncioLoop(native) if isinstance(native, asyncio.AbstractEventLoop) else _TrioLoop(native)


_tasks: set[asyncio.Task[None]] = set()  # an event loop holds its tasks only weakly


class _AsyncioLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def soon(self, callback: Callable[..., object], *args: Any) -> object:
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
