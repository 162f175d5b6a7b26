"""The runs that a server has begun, and the requests for runs that it is receiving."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakSet

import anyio

from kern_async.engine import registry
from kern_async.engine.run import Run

_SWEEP = 1.0
_KEPT_FOR = 3600.0
_MOST_EVENTS = 200_000
"""Events of ended runs that are kept for lack of a database."""


class Roster:
    """The runs that a server has begun; those that no database has, it keeps for an hour after their end."""

    def __init__(self) -> None:
        self._begun: WeakSet[Run] = WeakSet()
        self._kept: dict[str, Run] = {}
        self._ended: dict[str, float] = {}
        """When it was first seen that a kept run had ended."""
        self._swept = 0.0

    def add(self, run: Run) -> None:
        """Know a run that has just begun, or goes on, before it takes its first step."""
        self._sweep()
        self._begun.add(run)
        if run.keeper is not None:
            return
        before = self._kept.pop(run.id, None)
        if before is not None and before is not run:
            run.log.follow(before.log)
        self._ended.pop(run.id, None)
        self._kept[run.id] = run

    def live(self) -> list[Run]:
        """The runs that have not ended, paused ones included."""
        return [run for run in self._begun if not run.ended]

    def find(self, run_id: str) -> Run | None:
        """A run of this process: a live one, a member's of one, or one that has ended and is kept."""
        self._sweep()
        if (run := registry.find(run_id) or self._kept.get(run_id)) is not None:
            return run
        roots = [*self.live(), *self._kept.values()]
        return next((run for root in roots for run in root.below() if run.id == run_id), None)

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept < _SWEEP:
            return
        self._swept = now
        for run in self._kept.values():
            if run.ended:
                self._ended.setdefault(run.id, now)
        events = sum(len(self._kept[run_id].log.events) for run_id in self._ended)
        for run_id, since in list(self._ended.items()):
            if now - since < _KEPT_FOR and events <= _MOST_EVENTS:
                break
            del self._ended[run_id]
            events -= len(self._kept.pop(run_id).log.events)


Taken = TypeVar("Taken")


class Arrivals:
    """Requests for new runs that are being received, so that a cancel that overtakes its run can wait for it."""

    def __init__(self) -> None:
        self._coming: Counter[tuple[str, str]] = Counter()
        self._waiting: list[Callable[[], object]] = []

    @property
    def waiting(self) -> int:
        """How many wait for a run."""
        return len(self._waiting)

    def coming(self, target: tuple[str, str]) -> bool:
        """Whether a request for a run of this agent or team is being received."""
        return self._coming[target] > 0

    @contextmanager
    def one(self, target: tuple[str, str]) -> Generator[None]:
        """A request for a run of this agent or team is being received, and its run begun.

        Who waits for the run has it at once, before it takes its first step.
        """
        self._coming[target] += 1
        try:
            yield
        finally:
            self._coming[target] -= 1
            if not self._coming[target]:
                del self._coming[target]
            for look in self._waiting.copy():
                look()

    async def wait_for(
        self, target: tuple[str, str], take: Callable[[], Taken | None], seconds: float
    ) -> Taken | None:
        """Wait until `take` gives something, no request for this agent or team is being received, or time is over.

        Returns what it gave. It is asked whenever a request has been received.
        """
        taken: list[Taken] = []
        over = anyio.Event()

        def look() -> None:
            if over.is_set():
                return
            if (found := take()) is not None:
                taken.append(found)
            if taken or not self.coming(target):
                over.set()

        self._waiting.append(look)
        try:
            look()
            with anyio.move_on_after(seconds):
                await over.wait()
        finally:
            self._waiting.remove(look)
        return taken[0] if taken else None
