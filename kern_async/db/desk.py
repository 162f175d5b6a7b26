"""What lies between those who hand in and the thread that serves them; every change is one atomic step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .base import Read, Store, Write
from .ticket import Ticket

Make = Callable[[], Sequence[Write]]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Post:
    """Writes that are made when their turn comes."""

    make: Make
    ticket: Ticket


@dataclass(slots=True, eq=False)
class Ask:
    """A question."""

    read: Read
    ticket: Ticket


@dataclass(slots=True, eq=False)
class Flush:
    """Answered when all before it is answered and all taps were emptied once more. `last`: then the thread ends."""

    ticket: Ticket
    last: bool = False


Job = Post | Ask | Flush


@dataclass(eq=False, kw_only=True)
class Desk:
    """One database's: what waits, and how its database is."""

    store: Store
    name: str
    owner: str
    lease_seconds: float
    jobs: deque[Job] = field(default_factory=deque[Job])
    openers: deque[Ticket] = field(default_factory=deque[Ticket])
    taps: dict[object, Make] = field(default_factory=dict[object, Make])
    from_taps: deque[Write] = field(default_factory=deque[Write])
    """What taps have given and is not written yet; it outlives a thread that ends before that."""
    users: dict[object, None] = field(default_factory=dict[object, None])
    """Tokens of those for whom the thread stays when there is nothing to do."""
    asked: deque[Ask] = field(default_factory=deque[Ask])
    """Questions whose turn comes when the writes in hand are done."""
    in_hand: int = 0
    """How many writes were taken from `jobs` and are not answered yet."""
    in_hand_since: float | None = None
    trouble: str | None = None
    is_open: bool = False

    @property
    def waiting(self) -> int:
        """How many writes wait; a post counts as one until it is made."""
        return len(self.jobs) + len(self.asked) + len(self.from_taps) + self.in_hand

    def stalled(self) -> float:
        """For how many seconds the oldest that waits has been waiting."""
        oldest = [since] if (since := self.in_hand_since) is not None else []
        for queue in (self.asked, self.jobs):
            try:
                oldest.append(queue[0].ticket.since)
            except IndexError:
                continue
        return max(0.0, time.monotonic() - min(oldest)) if oldest else 0.0


def snapshot(things: Iterable[T]) -> list[T]:
    """A list of what other threads, or a finalizer that runs in between, may change meanwhile."""
    while True:
        try:
            return list(things)
        except RuntimeError:  # changed while it was read
            continue
