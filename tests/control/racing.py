"""A thread that does something to a run at a moment of its own, while the run comes to its end."""

from __future__ import annotations

import queue
import random
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Generic, TypeVar

import anyio.to_thread

T = TypeVar("T")


class Racer(Generic[T]):
    """Does `act(run_id)` some time after the run's model was asked; `early` and `late` tune the time."""

    def __init__(self, act: Callable[[str], T]) -> None:
        self._act = act
        self._dice = random.Random(7)
        self._orders: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._started = threading.Event()
        self._most = 1000

    def go(self) -> None:
        self._started.set()

    def aim(self, run_id: str) -> None:
        self._started.clear()
        self._orders.put((run_id, self._dice.randrange(self._most)))
        self._ready.get()

    async def answer(self, *, late: bool) -> T:
        """What `act` gave; `late` says that it came after the end, so that the next one comes sooner."""
        self._most = max(10, self._most - 20) if late else self._most + 20
        return await anyio.to_thread.run_sync(self._answers.get)

    def work(self) -> None:
        while (order := self._orders.get()) is not None:
            run_id, spins = order
            self._ready.put(None)
            self._started.wait()
            for _ in range(spins):
                pass
            self._answers.put(self._act(run_id))

    def stop(self) -> None:
        self._orders.put(None)


@contextmanager
def racing(act: Callable[[str], T]) -> Generator[Racer[T]]:
    racer = Racer(act)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # else a thread waits for 5 ms at a time while the event loop is busy
    thread = threading.Thread(target=racer.work)
    thread.start()
    try:
        yield racer
    finally:
        racer.stop()
        thread.join()
        sys.setswitchinterval(usual)
