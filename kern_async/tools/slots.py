"""So many at once in the whole process, whatever the event loops they are on. No lock: see `threads`."""

from __future__ import annotations

from collections import deque

import anyio

from kern_async.backend import current_loop


class Slots:
    """A number of slots, given out in the order in which they were asked for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._free: deque[None] = deque([None] * number)
        self._owed: deque[None] = deque()
        """Slots that are not to come back, since there are fewer now."""
        self._waiting: deque[_Waiter] = deque()

    def resize(self, number: int) -> None:
        """Have another number of slots; who has one keeps it."""
        number, self.number = self.number, number
        for _ in range(number, self.number):
            self._give_back()
        for _ in range(self.number, number):
            if not _took_one(self._free):
                self._owed.append(None)

    async def acquire(self) -> None:
        """Wait for a slot. A cancel ends the waiting, and takes no slot."""
        if not self._waiting and _took_one(self._free):
            return
        waiter = _Waiter()
        self._waiting.append(waiter)
        self._hand_out()
        try:
            await waiter.given.wait()
        except BaseException:
            if not waiter.claim("waiter"):
                self.release()  # it came at the same time
            raise

    def release(self) -> None:
        """Give a slot back, in any thread."""
        if not _took_one(self._owed):
            self._give_back()

    def _give_back(self) -> None:
        self._free.append(None)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and _took_one(self._free):
            try:
                waiter = self._waiting.popleft()
            except IndexError:  # another thread was quicker; there may be a new one by now
                self._free.append(None)
                continue
            if not waiter.claim("giver"):
                self._free.append(None)
                continue
            try:
                waiter.loop.soon(waiter.given.set)
            except RuntimeError:  # its event loop is gone
                self._free.append(None)


class _Waiter:
    def __init__(self) -> None:
        self.given = anyio.Event()
        self.loop = current_loop()
        self._who: dict[str, str] = {}

    def claim(self, who: str) -> bool:
        return self._who.setdefault("first", who) == who


def _took_one(slots: deque[None]) -> bool:
    try:
        slots.pop()
    except IndexError:
        return False
    return True
