"""Reading a run: `RunStream` in async code, `SyncRunStream` in threads.

Both are small objects over a cursor, not generators, so no cancel scope is ever open while the reader's own code
runs. The run's task holds no reference to its reader: a reader that is dropped is noticed, and ends its run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import anyio

from kern_async.run.base import CancelledBy

from . import registry
from .attempt import Attempt, CancelMode
from .execute import Body
from .host import background_loop, patience_with, start_here, wait_in_thread, wait_settled
from .pausing import leave_unstarted
from .registry import check_mode
from .run import Run, inside

ItemT = TypeVar("ItemT")
OutputT = TypeVar("OutputT")


class _Reader(Generic[ItemT, OutputT]):
    """What both readers are: a run, a place in its log, and the right to end it."""

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_body",
        "_closed",
        "_cursor",
        "_given_back",
        "_output_due",
        "_run",
        "_waiting",
    )

    def __init__(
        self,
        run: Run,
        body: Body,
        *,
        stream_events: bool,
        yield_run_output: bool,
        enter: Callable[[Run], None] = registry.register,
    ) -> None:
        enter(run)
        self._given_back = False
        self._body: Body | None = body
        self._run = run
        self._attempt = run.attempt
        self._cursor = run.log.cursor(gate=True, brief=not stream_events, attempt=self._attempt.number)
        self._output_due = yield_run_output
        self._closed = False
        self._waiting: int = 0

    @property
    def run_id(self) -> str:
        """The run's id, known from the start."""
        return self._run.id

    @property
    def output(self) -> OutputT | None:
        """What the run left, once it has ended or paused; None until then."""
        return cast("OutputT | None", self._run.output_of(self._attempt))

    def cancel(self, *, reason: str | None = None, mode: CancelMode = "now") -> bool:
        """Cancel the run, as `cancel_run` does; the stream goes on to its terminal event. From any thread."""
        check_mode(mode)
        return self._run.cancel("request", reason, mode)

    def _take(self) -> ItemT | None:
        """The next item that is there; None: wait, or the end."""
        item: Any = self._cursor.take()
        if item is None and self._output_due and self._cursor.exhausted:
            self._output_due = False
            item = self.output
        return item

    @property
    def _done(self) -> bool:
        return self._closed or (self._cursor.exhausted and not self._output_due)

    def _leave(self, by: CancelledBy) -> None:
        """End the run, since its reader goes; nothing waits for room any more. A paused run stays paused."""
        self._run.cancel(by, attempt=self._attempt)
        if self._attempt.end is None:
            self._run.log.open_gate()

    def _gives_back(self) -> bool:
        """Whether this reader leaves a paused run before it went on: then that is paused as before."""
        body, self._body = self._body, None
        if body is None or not self._attempt.number:
            return False
        leave_unstarted(self._run)
        self._attempt = Attempt(
            self._attempt.number
        )  # nobody's: whoever goes on with the run has nothing to do with us
        self._given_back = True
        return True

    def __del__(self) -> None:
        # May run anywhere, at any moment: only requests the cancel, and never waits.
        run = getattr(self, "_run", None)
        if run is None or self._given_back or self._attempt.end is not None:
            return
        if self._body is not None:
            leave_unstarted(run)
        else:
            self._leave("consumer")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of run {self._run.id}>"


class RunStream(_Reader[ItemT, OutputT], AsyncGenerator[ItemT, None]):
    """The events of a run, as an async iterator and an async context manager.

    The run starts at the first `__anext__` or `__aenter__`; until then it is pending. A cancel of the task that
    reads ends the run (`cancelled_by=caller`), waits for its end no longer than the grace, and goes on. Leaving
    early (`aclose`, the end of the `async with` block, dropping the stream) ends it as `cancelled_by=consumer`.
    Waiting is cancel-safe: no event is lost to a cancelled `__anext__`.
    """

    __slots__ = ()

    def _start(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            start_here(self._run, body)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        if self._body is not None:
            self._start()
        while True:
            if not self._closed and (item := self._take()) is not None:
                return item
            if self._done:
                raise StopAsyncIteration
            self._waiting += 1
            try:
                await self._cursor.wait()
            except anyio.get_cancelled_exc_class():
                await self._leave_and_wait("caller")
                raise
            finally:
                self._waiting -= 1

    async def _leave_and_wait(self, by: CancelledBy) -> None:
        self._leave(by)
        if self._attempt.end is None and not inside(self._run):
            await wait_settled(self._run, self._attempt)

    async def aclose(self) -> None:
        """End the run if it has not ended, and wait until it has, at most its grace and a margin.

        From any task, also while another one waits for an event: that one gets the terminal event. From inside
        the run itself it does not wait.
        """
        watched = self._waiting > 0
        if not self._done and not self._gives_back():
            await self._leave_and_wait("consumer")
        self._closed = not watched  # who waits reads on to the terminal event

    async def asend(self, value: None) -> ItemT:
        """The next event; a stream takes no values."""
        return await self.__anext__()

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> ItemT:
        """Close the stream and raise the exception, as a generator that does not handle it would."""
        await self.aclose()
        error = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        raise error.with_traceback(tb)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        cancelled = exc_type is not None and issubclass(exc_type, anyio.get_cancelled_exc_class())
        if cancelled:
            await self._leave_and_wait("caller")
        await self.aclose()


class SyncRunStream(_Reader[ItemT, OutputT], Iterator[ItemT]):
    """The events of a run, as an iterator and a context manager for code without an event loop.

    The run lives on the process's background loop and starts at the first `__next__` or `__enter__`. Ctrl-C
    while waiting ends the run, waits for its end no longer than the grace, and goes on as KeyboardInterrupt.
    `close()`, the end of the `with` block, or dropping the stream ends the run as `cancelled_by=consumer`.
    """

    __slots__ = ()

    def _start(self) -> None:
        background_loop().check_foreign()
        body, self._body = self._body, None
        if body is not None:
            background_loop().start(self._run, body)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemT:
        if self._body is not None:
            self._start()
        try:
            while True:
                if not self._closed and (item := self._take()) is not None:
                    return item
                if self._done:
                    raise StopIteration
                self._waiting += 1
                try:
                    self._cursor.wait_in_thread()
                finally:
                    self._waiting -= 1
        except KeyboardInterrupt:
            self._leave_and_wait("caller")
            raise

    def wait(self) -> OutputT:
        """Wait for the run's end without reading its events, and return what it left."""
        self._start()
        self._run.log.open_gate()
        try:
            wait_in_thread(self._run, self._attempt)
        except KeyboardInterrupt:
            self._leave_and_wait("caller")
            raise
        return cast(OutputT, self.output)

    def _leave_and_wait(self, by: CancelledBy) -> None:
        self._leave(by)
        if not inside(self._run):
            wait_in_thread(self._run, self._attempt, patience_with(self._run))

    def close(self) -> None:
        """End the run if it has not ended, and wait until it has, at most its grace and a margin.

        From any thread; one that waits for an event gets the terminal event.
        """
        watched = self._waiting > 0
        if not self._done and not self._gives_back():
            self._leave_and_wait("consumer")
        self._closed = not watched

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt) and not self._done:
            self._leave_and_wait("caller")
        self.close()
