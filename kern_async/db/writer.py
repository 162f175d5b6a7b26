"""One daemon thread for each database and process that does all that is asked of the database.

Runs live on event loops of any kind, on blocked ones and on loops that are gone. They hand in writes and reads, from
tasks, threads, signal handlers and finalizers, without a lock, and never execute a statement. The thread is started
by the first that is handed in. At the interpreter's exit what was handed in is waited for, with a deadline.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from kern_async.exceptions import StoreError

from .base import Read, Store, Write
from .desk import Ask, Desk, Flush, Post, snapshot
from .serving import MOST_WAITING, TICK, Server
from .ticket import Ticket

__all__ = ["TICK", "Ticket", "Writer", "flush_all"]

_MARGIN = 2.5
"""Seconds beyond its deadline that closing waits for the thread, which has a last word to say to the database."""


class Writer:
    """A database's writer: hand in writes and reads from anywhere, wait for their tickets where that suits.

    Everything is done in the order in which it was handed in. Databases get theirs from `BaseDb.writer`.
    """

    def __init__(self, store: Store, *, name: str, store_timeout: float, lease_seconds: float) -> None:
        self.owner = uuid.uuid4().hex
        """A random id of this process's use of the database."""
        self.name = name
        self.store_timeout = store_timeout
        self._desk = Desk(store=store, name=name, owner=self.owner, lease_seconds=lease_seconds)
        self._process = os.getpid()
        self._slot: dict[str, _Thread] = {}

    def __repr__(self) -> str:
        return f"<Writer of {self.name}>"

    def post(self, make: Callable[[], Sequence[Write]], *, urgent: bool = True) -> Ticket:
        """Have the writes that `make` returns applied, all of them or, if that fails, none.

        `make` is called in the writer's thread, once, when its turn comes. If it raises, the ticket has the error.
        What is not `urgent` waits for what is handed in next, or the next call of a tap, to share its transaction.
        """
        ticket = Ticket()
        return self._hand_in(Post(make, ticket), urgent=urgent)

    def ask(self, read: Read) -> Ticket:
        """Have a question answered, after all that was posted before."""
        ticket = Ticket()
        return self._hand_in(Ask(read, ticket))

    def watch(self, tap: Callable[[], Sequence[Write]]) -> Callable[[], None]:
        """Call `tap` in the writer's thread every `TICK` seconds and write what it returns; return what stops that.

        What it has returned is written some time, also after it was stopped. A tap that raises is logged and dropped.
        """
        key = object()
        self._desk.taps[key] = tap
        self._wake()

        def stop() -> None:
            self._desk.taps.pop(key, None)
            self._ring()

        return stop

    def opened(self) -> Ticket:
        """Have the database opened, if it is not; the error is `DatabaseUnusable` if it cannot be used."""
        ticket = Ticket()
        if self._desk.is_open and self._here():
            ticket.answer()
        elif self._check_process(ticket):
            self._desk.openers.append(ticket)
            self._wake()
        return ticket

    @property
    def trouble(self) -> str | None:
        """While the database does not answer, the words of its latest failure."""
        return self._desk.trouble

    def stalled(self) -> float:
        """For how many seconds the oldest unanswered post or ask has been waiting."""
        return self._desk.stalled()

    def flush(self, seconds: float) -> bool:
        """Wait, blocking, until all that was handed in is answered and the taps were emptied; say whether it is."""
        ticket = self.flushed()
        return self._may_wait() and ticket.wait_in_thread(seconds) and ticket.error is None

    def flushed(self) -> Ticket:
        """The ticket of a flush: done when all that was handed in before is answered and the taps were emptied."""
        ticket = Ticket()
        if not (self._slot or self._desk.waiting or self._desk.taps):
            ticket.answer()
        elif self._check_process(ticket):
            self._desk.jobs.append(Flush(ticket))
            self._wake()
        return ticket

    def close(self, seconds: float | None = None) -> None:
        """Flush, forget this process, close the store and end the thread; what is handed in later starts anew.

        It blocks. After `seconds`, by default the database's `store_timeout`, what is not written fails.
        """
        closing = self._closing()
        if closing is not None and self._may_wait():
            thread, ticket = closing
            if not ticket.wait_in_thread(self.store_timeout if seconds is None else seconds):
                thread.leave()
            thread.ended.wait_in_thread(_MARGIN)
            thread.join()

    async def aclose(self, seconds: float | None = None) -> None:
        """The same on any event loop. A cancel ends the wait only."""
        closing = self._closing()
        if closing is not None:
            thread, ticket = closing
            if not await ticket.wait(self.store_timeout if seconds is None else seconds):
                thread.leave()
            await thread.ended.wait(_MARGIN)
            thread.join()

    def _closing(self) -> tuple[_Thread, Ticket] | None:
        thread = self._slot.get("thread")
        if thread is None or not self._here():
            return None
        ticket = Ticket()
        self._desk.jobs.append(Flush(ticket, last=True))
        thread.ring()
        return thread, ticket

    # Who uses it, see `BaseDb`.

    def hold(self, user: object) -> None:
        """Keep the thread while nothing is to be done, until `user` lets go."""
        self._desk.users[user] = None

    def let_go(self, user: object) -> bool:
        """Without users the thread ends when all is done; say whether there are none any more."""
        self._desk.users.pop(user, None)
        self._ring()
        return not self._desk.users

    @property
    def used(self) -> bool:
        return bool(self._desk.users)

    @property
    def kept_thread(self) -> threading.Thread | None:
        """The thread, if it has nothing to do and is there because somebody uses the database."""
        thread = self._slot.get("thread")
        kept = thread is not None and self._desk.users and not self._desk.waiting
        return thread.native if thread is not None and kept else None

    # The way in.

    def _hand_in(self, job: Post | Ask, *, urgent: bool = True) -> Ticket:
        ticket = job.ticket
        if self._desk.waiting >= MOST_WAITING:
            why = self._desk.trouble or "it is slower than what is written"
            ticket.answer(
                error=StoreError(f"{self.name}: {MOST_WAITING} writes wait for the database: {why}")
            )
        elif self._check_process(ticket):
            self._desk.jobs.append(job)
            if urgent or not (self._slot and self._desk.taps):
                self._wake()
        return ticket

    def _check_process(self, ticket: Ticket) -> bool:
        if not self._here():
            ticket.answer(error=StoreError(f"{self.name}: this writer is in the parent process"))
        return not ticket.done

    def _here(self) -> bool:
        return os.getpid() == self._process

    def _may_wait(self) -> bool:
        """Not in the writer's own thread, where a finalizer may find itself: it would wait for itself."""
        thread = self._slot.get("thread")
        return thread is None or thread.native is not threading.current_thread()

    def _ring(self) -> None:
        if (thread := self._slot.get("thread")) is not None:
            thread.ring()

    def _wake(self) -> None:
        """See to it that somebody serves the desk."""
        thread = self._slot.get("thread") or self._slot.setdefault("thread", _Thread(self, self._desk))
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is exiting, or there are too many threads
            self._slot.pop("thread", None)
            self._fail(StoreError(f"{self.name}: no thread to write in: {error}"))
        else:
            thread.ring()

    def over(self) -> None:
        """The thread has ended: what was handed in since then is the next one's."""
        self._slot.pop("thread", None)
        if self._desk.jobs or self._desk.openers:
            self._wake()

    def _fail(self, error: StoreError) -> None:
        while True:
            try:
                self._desk.jobs.popleft().ticket.answer(error=error)
            except IndexError:
                break
        while True:
            try:
                self._desk.openers.popleft().answer(error=error)
            except IndexError:
                return


class _Thread:
    """One life of a writer, from a start to a close."""

    def __init__(self, writer: Writer, desk: Desk) -> None:
        self.ended = Ticket()
        self.native = threading.Thread(target=self._main, name="kern-store", daemon=True)
        self._writer = writer
        self._desk = desk
        self._starter: dict[str, object] = {}
        self._server: Server | None = None
        self._leaving = False

    def start(self) -> None:
        """Start it, once.

        Raises:
            RuntimeError: no thread can be started.
        """
        me = object()
        if self._starter.setdefault("starter", me) is me:
            _serving[self] = self._writer
            try:
                self.native.start()
            except RuntimeError:
                _serving.pop(self, None)
                raise

    def ring(self) -> None:
        if (server := self._server) is not None:  # else it will look for itself when it begins
            server.ring()

    def leave(self) -> None:
        """Have it end, done or not."""
        self._leaving = True
        if (server := self._server) is not None:
            server.leave()

    def join(self) -> None:
        """Wait, once it has ended, for the few steps that a thread takes after its last."""
        if self.ended.done:
            self.native.join(_MARGIN)

    def _main(self) -> None:
        async def serve() -> None:
            self._server = server = Server(self._desk)
            if self._leaving:
                server.leave()
            await server.serve()

        # An empty context: that of whoever started it may say that trio is running here.
        run = contextvars.Context().run
        try:
            with asyncio.Runner(loop_factory=_event_loop) as runner:
                run(runner.run, serve())
        except RuntimeError:
            # Since Python 3.12 no thread can be made at the interpreter's exit, not even the one in which asyncio
            # would wait for the threads of its resolver.
            if self._server is None or not self._server.ended:
                raise
        finally:
            _serving.pop(self, None)
            self._writer.over()
            self.ended.answer()


def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    # Nobody else waits for this loop, so asyncio's debug mode need not complain that a post was long in the making.
    loop.slow_callback_duration = float("inf")
    return loop


_serving: dict[_Thread, Writer] = {}
_lost: list[dict[_Thread, Writer]] = []


def flush_all(seconds: float) -> bool:
    """Flush all databases of this process, blocking, for `seconds` together; say whether all was written."""
    return _flush_until(time.monotonic() + seconds)


def _flush_until(until: float) -> bool:
    writers = snapshot(_serving.values())
    tickets = [writer.flushed() for writer in writers]
    for ticket in tickets:
        ticket.wait_in_thread(max(0.0, until - time.monotonic()))
    return all(ticket.done and ticket.error is None for ticket in tickets)


def _flush_at_exit() -> None:
    # The threads stay: what ends after this may still write, and a daemon thread holds nobody up.
    timeouts = [writer.store_timeout for writer in snapshot(_serving.values())]
    if timeouts:
        flush_all(max(timeouts))


def _forked() -> None:
    # Nothing of the parent's may be touched here, not even by the garbage collector.
    _lost.append(dict(_serving))
    _serving.clear()


atexit.register(_flush_at_exit)
os.register_at_fork(after_in_child=_forked)
