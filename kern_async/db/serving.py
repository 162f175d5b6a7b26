"""The writer's thread from within: one coroutine that serves a desk, and lets nothing stop it but its end.

Everything goes through one place in order, so a read sees all that was posted before it, and what a failure
interrupts is simply done again. While a batch is applied the next one gathers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from kern_async.exceptions import DatabaseUnusable, StoreError, WriteRejected
from kern_async.observe import log

from .base import Heartbeat, Reap, Retire, Write
from .desk import Ask, Desk, Flush, snapshot
from .failures import code_of, passes, store_error, words_of
from .ticket import Ticket

T = TypeVar("T")

TICK = 0.05
"""Seconds between two calls of a tap."""

BATCH = 1_000
"""Writes in one transaction; one post is never divided."""

MOST_WAITING = 100_000
"""Writes that may wait; what is posted beyond is refused, and taps keep what they have."""

HANG = 10.0
"""Seconds after which a database that does not answer is taken for one that never will."""

TRIES = 3
"""How often a write may fail alone while the database answers, before it is given up."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries
_REST = 1.0  # seconds between two looks at a database that cannot be used
_CLOSING = 1.0  # seconds that closing a store may take, and the last word to it


@dataclass(slots=True, eq=False)
class _Unit:
    """Writes that are applied together, and whom to answer: nobody if a tap gave them."""

    writes: Sequence[Write]
    ticket: Ticket | None
    tries: int = 0


class Server:
    """Serves a desk until it is told to end, or nobody uses it any more and nothing is left to do."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._work = asyncio.Event()
        self._idle = False
        self._scope = anyio.CancelScope()
        self._last: Ticket | None = None
        self._hand: deque[_Unit] = deque()
        self._beat_at = self._tick_at = 0.0
        self._pause = _FIRST_PAUSE
        self._unusable: DatabaseUnusable | None = None
        self._again_at = 0.0
        self.ended = False
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Say, in any thread, that there is something to do. It costs nothing while the server is busy."""
        if self._idle:
            self._call(self._work.set)

    def leave(self) -> None:
        """Have it end soon, whatever is not written yet; from any thread."""
        self._call(self._scope.cancel)

    def _call(self, callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(callback)

    async def serve(self) -> None:
        try:
            with self._scope:
                while self._last is None and not self._unwanted():
                    if (due := self._due()) > time.monotonic():
                        await self._sleep(due)
                        continue
                    try:
                        await self._round()
                    except DatabaseUnusable as error:
                        self._unusable, self._again_at = error, time.monotonic() + _REST
                        self._give_back(error)
                        await self._let_go()
                    # A store may never wait, and who leaves must get through.
                    await anyio.lowlevel.checkpoint()
            if self._scope.cancel_called:
                self._give_back(StoreError(f"{self._desk.name}: closed before the database answered"))
        except Exception as error:
            # A mistake in here: nobody shall wait for a thread that is gone.
            self._give_back(store_error(self._desk.name, error))
            raise
        finally:
            with anyio.CancelScope(shield=True):  # each of its steps has a deadline
                await self._end()
                self.ended = True

    async def _end(self) -> None:
        if self._desk.is_open and not self._scope.cancel_called:
            with suppress(Exception), anyio.move_on_after(_CLOSING):
                await self._desk.store.apply([Retire(owner=self._desk.owner)])
        await self._let_go()
        self._desk.trouble = None
        if self._last is not None:
            self._last.answer()

    def _give_back(self, error: StoreError) -> None:
        """Answer all who wait with a failure; what taps gave is kept for better times."""
        desk = self._desk
        desk.from_taps.extendleft(
            write for unit in reversed(self._hand) if unit.ticket is None for write in reversed(unit.writes)
        )
        tickets = [unit.ticket for unit in self._hand if unit.ticket is not None]
        self._put_down()
        for queue in (desk.openers, desk.asked, desk.jobs):
            while queue:
                item = queue.popleft()
                if isinstance(item, Flush) and item.last:
                    self._last = item.ticket
                else:
                    tickets.append(item if isinstance(item, Ticket) else item.ticket)
        for ticket in tickets:
            ticket.answer(error=store_error(desk.name, error))

    def _put_down(self) -> None:
        self._hand.clear()
        self._desk.in_hand, self._desk.in_hand_since = 0, None

    # What there is to do.

    def _unwanted(self) -> bool:
        desk = self._desk
        if desk.users or desk.jobs or desk.openers:
            return False
        return self._unusable is not None or not (desk.taps or desk.from_taps)

    def _due(self) -> float:
        """When there is something to do, on the monotonic clock: 0 if at once."""
        desk = self._desk
        if desk.jobs or desk.openers or self._unwanted():
            return 0.0
        if self._unusable is not None:
            return float("inf")
        if desk.from_taps or not desk.is_open:
            return 0.0
        return min(self._beat_at, self._tick_at) if desk.taps else self._beat_at

    async def _round(self) -> None:
        desk = self._desk
        if self._unusable is not None and time.monotonic() < self._again_at:
            self._give_back(self._unusable)
            return
        await self._ready()
        self._well()
        if desk.taps and self._tick_at <= time.monotonic():
            self._empty_taps()
        self._gather()
        if self._hand:
            await self._apply()
        while desk.asked:
            await self._answer(desk.asked[0])
            desk.asked.popleft()
        if desk.jobs and isinstance(flush := desk.jobs[0], Flush):
            await self._flush(flush)

    async def _sleep(self, due: float) -> None:
        self._work.clear()
        self._idle = True
        try:
            # Again, now that everybody knows: who handed something in before that has rung no bell.
            if self._due() >= due:
                with anyio.move_on_after(max(0.0, due - time.monotonic())):
                    await self._work.wait()
        finally:
            self._idle = False

    def _empty_taps(self) -> None:
        desk = self._desk
        self._tick_at = time.monotonic() + TICK
        for key, tap in snapshot(desk.taps.items()):
            if desk.waiting >= MOST_WAITING:
                return
            try:
                desk.from_taps.extend(tap())
            except Exception as error:  # noqa: BLE001 - code of others; it must not stop everybody's writer
                desk.taps.pop(key, None)
                log("warning", "store.tap_failed", store=desk.name, error_type=type(error).__name__)

    def _gather(self) -> None:
        """Take into the hand what the next transaction is to write: what taps gave, then posts.

        Questions among them are put aside until that is done: one that waits for a commit of its own would cost
        all that come after it one more.
        """
        desk = self._desk
        self._gather_from_taps()
        while desk.jobs and desk.in_hand < BATCH and not isinstance(job := desk.jobs[0], Flush):
            if isinstance(job, Ask):
                desk.asked.append(job)
                desk.jobs.popleft()
                continue
            desk.in_hand_since = desk.in_hand_since or job.ticket.since
            desk.jobs.popleft()
            try:
                writes = list(job.make())
            except Exception as error:  # noqa: BLE001 - whoever posted it is told
                job.ticket.answer(error=store_error(desk.name, error))
            else:
                self._take(_Unit(writes, job.ticket))
        if not self._hand:
            desk.in_hand_since = None

    def _gather_from_taps(self) -> None:
        desk = self._desk
        while desk.from_taps and desk.in_hand < BATCH:
            self._take(_Unit([desk.from_taps.popleft()], None))

    def _take(self, unit: _Unit) -> None:
        self._hand.append(unit)
        self._desk.in_hand += len(unit.writes)

    async def _flush(self, flush: Flush) -> None:
        desk = self._desk
        self._empty_taps()
        while desk.from_taps:
            self._gather_from_taps()
            await self._apply()
        if flush.last:
            self._last = flush.ticket
        else:
            flush.ticket.answer()
        desk.jobs.popleft()

    # The database, and what to do when it fails.

    async def _bounded(self, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        with anyio.move_on_after(HANG):
            return await call(*args)
        raise TimeoutError(f"no answer for {HANG:g} s")

    async def _ready(self) -> None:
        """Return when the database has answered and knows that this process lives.

        Raises:
            DatabaseUnusable: it never will.
        """
        desk = self._desk
        while not (desk.is_open and time.monotonic() < self._beat_at):
            try:
                if not desk.is_open:
                    await self._bounded(desk.store.open)
                self._beat_at = time.monotonic() + desk.lease_seconds / 3
                beat = [Heartbeat(owner=desk.owner, seconds=desk.lease_seconds), Reap()]
                _, reaped = await self._bounded(desk.store.apply, beat)
            except DatabaseUnusable:
                raise
            except Exception as error:  # noqa: BLE001 - any failure may pass
                await self._failed(error)
            else:
                desk.is_open, self._unusable = True, None
                for run_id in reaped or ():
                    log("warning", "run.interrupted", run_id=run_id)
                while desk.openers:
                    desk.openers.popleft().answer()

    async def _failed(self, error: Exception) -> None:
        desk = self._desk
        if desk.trouble is None:
            kind = type(getattr(error, "orig", None) or error).__name__
            log("warning", "store.failed", store=desk.name, error_type=kind, code=code_of(error))
        desk.trouble = words_of(error)
        await self._let_go()
        await anyio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _well(self) -> None:
        self._pause = _FIRST_PAUSE
        if self._desk.trouble is not None:
            self._desk.trouble = None
            log("warning", "store.recovered", store=self._desk.name)

    async def _let_go(self) -> None:
        """Close the store; what that fails with is of no interest, for it is opened anew or never again."""
        self._desk.is_open = False
        with suppress(Exception), anyio.move_on_after(_CLOSING):
            await self._desk.store.close()

    async def _apply(self) -> None:
        """Return when everything in the hand is answered.

        After a failure that is not the database's state the writes are tried one by one: one of them may be the
        cause. That the database answers is known by then, because it has just taken a heartbeat.
        """
        together = True
        while self._hand:
            await self._ready()
            units = list(self._hand) if together else [self._hand[0]]
            writes = [write for unit in units for write in unit.writes]
            try:
                results = await self._bounded(self._desk.store.apply, writes) if writes else []
            except DatabaseUnusable:
                raise
            except Exception as error:  # noqa: BLE001 - any failure may pass
                await self._failed(error)
                if passes(error):
                    continue
                if len(units) > 1:
                    together = False
                    continue
                units[0].tries += 1
                if units[0].tries < TRIES:
                    continue
                await self._ready()
                self._give_up(units[0], error)
                together = True
            else:
                self._settle(units, results)
            self._well()
        self._put_down()

    def _settle(self, units: Sequence[_Unit], results: Sequence[Any]) -> None:
        at = 0
        for unit in units:
            of_unit = list(results[at : at + len(unit.writes)])
            at += len(unit.writes)
            self._dismiss(unit)
            if unit.ticket is not None:
                rejected = (each for each in of_unit if isinstance(each, WriteRejected))
                unit.ticket.answer(of_unit, next(rejected, None))

    def _give_up(self, unit: _Unit, error: Exception) -> None:
        self._dismiss(unit)
        kinds = ",".join(sorted({type(write).__name__ for write in unit.writes}))
        log("warning", "store.gave_up", store=self._desk.name, writes=kinds, error_type=type(error).__name__)
        if unit.ticket is not None:
            unit.ticket.answer(error=store_error(self._desk.name, error))

    def _dismiss(self, unit: _Unit) -> None:
        self._hand.popleft()
        desk, following = self._desk, self._hand[0].ticket if self._hand else None
        desk.in_hand -= len(unit.writes)
        if unit.ticket is not None:
            desk.in_hand_since = following.since if following else None

    async def _answer(self, ask: Ask) -> None:
        for tries in range(1, TRIES + 1):
            await self._ready()
            try:
                result = await self._bounded(self._desk.store.read, ask.read)
            except DatabaseUnusable:
                raise
            except Exception as error:  # noqa: BLE001 - any failure may pass
                await self._failed(error)
                if tries == TRIES:
                    await self._ready()
                    ask.ticket.answer(error=store_error(self._desk.name, error))
            else:
                ask.ticket.answer(result)
                break
        self._well()
