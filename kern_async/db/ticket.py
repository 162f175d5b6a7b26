"""What a writer owes: an answer that comes once, waited for in tasks of any event loop and in threads."""

from __future__ import annotations

import time
from typing import Any

import anyio

from kern_async.backend import Bell
from kern_async.exceptions import StoreError


class Ticket:
    """What was handed to a writer, and what came of it."""

    __slots__ = ("_bell", "_done", "error", "result", "since")

    def __init__(self) -> None:
        self.result: Any = None
        """Of a post the list of its writes' results, of a read its answer; None before."""
        self.error: StoreError | None = None
        """Of a post its first rejection, or the failure because of which nothing of it was written."""
        self.since = time.monotonic()
        self._done = False
        self._bell = Bell()

    def __repr__(self) -> str:
        return f"<Ticket {self.error or 'done' if self._done else 'waiting'}>"

    @property
    def done(self) -> bool:
        """Whether the answer is there; it never changes afterwards."""
        return self._done

    def answer(self, result: Any = None, error: StoreError | None = None) -> None:
        """Give the answer, from any thread; a later one is ignored."""
        if self._done:
            return
        self.result, self.error = result, error
        self._done = True
        self._bell.ring(foreign=True)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for the answer, on any backend, and say whether it is there.

        `seconds` is how long at most. A cancel ends the wait only: what was handed in is still done.
        """
        with anyio.move_on_after(seconds):
            await self._bell.wait(lambda: self._done)
        return self._done

    def wait_in_thread(self, seconds: float | None = None) -> bool:
        """The same, blocking, for a thread without an event loop."""
        self._bell.wait_in_thread(lambda: self._done, seconds)
        return self._done
