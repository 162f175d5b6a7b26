"""Sync callables in daemon threads of the runtime's own, which a cancel leaves at once.

A thread cannot be stopped. So a cancelled waiter goes on, the thread becomes a straggler whose result goes
nowhere, and it is counted apart from the threads that somebody waits for: at any time the limiter's tokens
are the threads that are alive and not abandoned. anyio's own worker threads do neither: on asyncio they give
their token back while they run, and they keep the interpreter from ending.

Between the waiter (in its event loop) and the thread every question is settled by `dict.setdefault`, one
atomic call: whoever comes first is the answer. A lock could be held by the very thread whose signal handler
or finalizer cancels.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import anyio
import anyio.lowlevel

from kern_async.backend import current_loop, neutral_context
from kern_async.exceptions import ConfigurationError, ToolError

T = TypeVar("T")
OnAbandoned = Callable[[], Callable[[], object]]
OnBlocked = Callable[[Sequence[str]], object]


class ThreadUsage(NamedTuple):
    """Threads of the current event loop that are waited for, calls that wait for one, stragglers anywhere."""

    running: int
    waiting: int
    abandoned: int


async def run_in_thread(
    call: Callable[[], T],
    *,
    name: str,
    on_abandoned: OnAbandoned | None = None,
    on_blocked: OnBlocked | None = None,
    counted: bool = True,
) -> T:
    """Call `call` in a new daemon thread, in a copy of the caller's context, and return what it returns.

    Waits first while `max_threads` threads of this event loop run. If stragglers for which there is no room
    among `max_abandoned_threads` are part of that, `on_blocked` is called with their names, by one of the
    waiting calls and once until they are gone.

    A thread that is not `counted` does not wait and takes no other's place: one whose call waits for another thread,
    for which there might then be none.

    A cancel raises at once. A call that has not begun then never does. One that has is a straggler:
    `on_abandoned` is called before the cancel goes on, and the callback that it returns when the straggler
    has ended, in whatever thread. Neither may raise.

    Raises:
        ToolError: the call raised what means something else outside of its thread: SystemExit,
            KeyboardInterrupt, StopIteration, a cancellation that is not the caller's.
        RuntimeError: the system has no thread left.
        Exception: anything else that it raised, as it is.
    """
    pool = _current_pool()
    job = _Job(call, name, pool, counted=counted)
    await pool.acquire(job, on_blocked)
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
        job.start()
    except BaseException:
        pool.release(job)
        raise
    try:
        await job.ended.wait()
    except BaseException:
        job.give_up(on_abandoned)
        raise
    return job.outcome()


def limit_threads(*, max_threads: int | None = None, max_abandoned_threads: int | None = None) -> None:
    """Set how many threads an event loop (40) and how many stragglers the process (100) may have.

    An event loop takes a new number up with its next call. Lowering one stops nothing that runs.

    Raises:
        ConfigurationError: less than one thread, or less than no straggler.
    """
    if max_threads is not None:
        if max_threads < 1:
            raise ConfigurationError(f"max_threads is 1 or more, not {max_threads!r}")
        _limits.max_threads = max_threads
    if max_abandoned_threads is not None:
        if max_abandoned_threads < 0:
            raise ConfigurationError(f"max_abandoned_threads is 0 or more, not {max_abandoned_threads!r}")
        _limits.max_abandoned = max_abandoned_threads


def thread_usage() -> ThreadUsage:
    """How many threads there are, as seen from the current event loop."""
    pool = _current_pool()
    held = pool.limiter.statistics()
    return ThreadUsage(
        running=held.borrowed_tokens - len(pool.holding),
        waiting=held.tasks_waiting,
        abandoned=len(_abandoned) + len(pool.holding),
    )


@dataclass
class _Limits:
    max_threads: int = 40
    max_abandoned: int = 100


_limits = _Limits()
_abandoned: dict[_Job[Any], None] = {}


@dataclass(eq=False)
class _Pool:
    """The threads of one event loop; touched in its thread only."""

    limiter: anyio.CapacityLimiter
    waiting: dict[_Job[Any], OnBlocked] = field(default_factory=dict["_Job[Any]", OnBlocked])
    holding: dict[_Job[Any], None] = field(default_factory=dict["_Job[Any]", None])
    """Stragglers that keep their token, since the budget of the abandoned was full."""
    warned: bool = False

    async def acquire(self, job: _Job[Any], on_blocked: OnBlocked | None) -> None:
        if not job.counted:
            return
        try:
            self.limiter.acquire_on_behalf_of_nowait(job)
        except anyio.WouldBlock:
            if on_blocked is not None:
                self.waiting[job] = on_blocked
            try:
                self.warn()
                await self.limiter.acquire_on_behalf_of(job)
            finally:
                self.waiting.pop(job, None)

    def warn(self) -> None:
        if self.holding and self.waiting and not self.warned:
            self.warned = True
            names = dict.fromkeys(job.name for job in [*self.holding, *tuple(_abandoned)])
            next(iter(self.waiting.values()))(tuple(names))

    def hold(self, job: _Job[Any]) -> None:
        self.holding[job] = None
        self.warn()

    def release(self, job: _Job[Any]) -> None:
        if job.counted:
            self.limiter.release_on_behalf_of(job)
        self.holding.pop(job, None)
        if not self.holding:
            self.warned = False


_pools: anyio.lowlevel.RunVar[_Pool] = anyio.lowlevel.RunVar("kern_async thread pool")


def _current_pool() -> _Pool:
    pool = _pools.get(None)
    if pool is None:
        pool = _Pool(anyio.CapacityLimiter(_limits.max_threads))
        _pools.set(pool)
    elif pool.limiter.total_tokens != _limits.max_threads:
        pool.limiter.total_tokens = _limits.max_threads
    return pool


_Party = Literal["waiter", "thread"]


class _Job(Generic[T]):
    """One call in one thread, and the questions between the thread and its waiter.

    `begun`: does the callable run, or did the cancel come first? `ended`: did it end while waited for, or is
    it a straggler? `parted`: which of the two is the second to leave, and so counts the straggler out?
    """

    def __init__(self, call: Callable[[], T], name: str, pool: _Pool, *, counted: bool) -> None:
        self.name = name
        self.counted = counted
        self.ended = anyio.Event()
        self._call: Callable[[], T] | None = call
        self._pool = pool
        self._loop = current_loop()
        self._firsts: dict[Literal["begun", "ended", "parted"], _Party] = {}
        self._result: T | None = None
        self._error: BaseException | None = None
        self._on_end: Callable[[], object] | None = None

    def start(self) -> None:
        context = neutral_context()  # the thread may run an event loop of its own
        threading.Thread(
            target=context.run, args=(self._main,), name=f"kern-async {self.name}", daemon=True
        ).start()

    def _main(self) -> None:
        call, self._call = self._call, None
        if call is None or self._firsts.setdefault("begun", "thread") != "thread":
            self._post(self._finish)
            return
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001 - all of it is the waiter's
            error = raised
        del call
        self._result, self._error = result, error
        try:
            if self._firsts.setdefault("ended", "thread") == "thread":
                self._post(self._finish)
            else:
                self._result = self._error = None
                if self._firsts.setdefault("parted", "thread") != "thread":
                    self._count_out()
        finally:
            del error  # its traceback refers to this frame

    def give_up(self, on_abandoned: OnAbandoned | None) -> None:
        """The waiter leaves; its limiter token stays with the thread unless the abandoned have room."""
        if self._firsts.setdefault("begun", "waiter") == "waiter":
            return
        if self._firsts.setdefault("ended", "waiter") != "waiter":
            return
        _abandoned[self] = None
        if not self.counted or len(_abandoned) <= _limits.max_abandoned:
            self._pool.release(self)
        else:
            del _abandoned[self]
            self._pool.hold(self)
        try:
            if on_abandoned is not None:
                self._on_end = on_abandoned()
        finally:
            if self._firsts.setdefault("parted", "waiter") != "waiter":
                self._count_out()

    def outcome(self) -> T:
        """What the call returned; raises what it raised."""
        error, self._error = self._error, None
        if error is None:
            return cast("T", self._result)
        try:
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise ToolError(f"{self.name} tried to end the process: {error!r}") from error
            if isinstance(error, (StopIteration, GeneratorExit, anyio.get_cancelled_exc_class())):
                raise ToolError(f"{self.name} raised {error!r}") from error
            raise error
        finally:
            del error  # its traceback refers to this frame

    def _finish(self) -> None:
        self._pool.release(self)
        self.ended.set()

    def _count_out(self) -> None:
        if self in _abandoned:
            del _abandoned[self]
        else:
            self._post(lambda: self._pool.release(self))
        if self._on_end is not None:
            self._on_end()

    def _post(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and its limiter with it
            self._loop.soon(callback)
