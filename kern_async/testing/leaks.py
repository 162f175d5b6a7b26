"""What a piece of code left behind: tasks, threads, sockets, processes, live runs, stragglers.

    check = LeakCheck()
    ...  # start and end runs
    await check.asettle()

Sockets are seen on Linux and macOS, processes on Linux.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Collection, Iterator

import anyio
import anyio.lowlevel

from .inventory import Kind, Leak, everything, visit_background_loop

__all__ = ["Kind", "Leak", "LeakCheck", "LeakError"]


class LeakError(AssertionError):
    """Something was left behind; `leaks` says what."""

    def __init__(self, leaks: list[Leak]) -> None:
        super().__init__("left behind:\n" + "\n".join(f"  {leak}" for leak in leaks))
        self.leaks = leaks


class LeakCheck:
    """Remembers what is there when it is made, so that it can tell later what is there more.

    Idle connections to a model's provider are kept for the next request on purpose: they are closed, not counted.

    Args:
        allow: kinds that may be left.
        patience: seconds that `settle` and `asettle` wait for what is just ending.
    """

    def __init__(self, *, allow: Collection[Kind] = (), patience: float = 1.0) -> None:
        self._allow = frozenset(allow)
        self._patience = patience
        self._before = dict(everything())

    def leaks(self) -> list[Leak]:
        """What is there now and was not before; tasks are those of the running event loop, and of `run()`'s."""
        return [
            leak for key, leak in everything() if key not in self._before and leak.kind not in self._allow
        ]

    def settle(self) -> None:
        """Wait, blocking, until nothing is left of what came since; for code without an event loop.

        Raises:
            LeakError: something is still there after `patience`.
        """
        for look in self._looks():
            if look in _LOOKS_AT_CONNECTIONS:
                visit_background_loop(_close_idle_connections)

    async def asettle(self) -> None:
        """Wait until nothing is left of what came since, tasks of this event loop included.

        A cancel ends the wait, without a verdict.

        Raises:
            LeakError: something is still there after `patience`.
        """
        for look in self._looks():
            if look in _LOOKS_AT_CONNECTIONS:
                visit_background_loop(_close_idle_connections)
                await _close_idle_connections()
            await anyio.sleep(_pause(look))

    def _looks(self) -> Iterator[int]:
        """Counts the looks that found something, in real time even where the event loop's is virtual."""
        end = time.monotonic() + self._patience
        look = 0
        while leaks := self.leaks():
            look += 1
            if time.monotonic() > end:
                raise LeakError(leaks)
            if look % 20 == 0:  # a caught exception may hold a frame that holds a stream
                gc.collect()
            time.sleep(_pause(look))
            yield look


# Those that are idle at once are closed at once; the others have a few looks more to become so.
_LOOKS_AT_CONNECTIONS = (1, 4)


def _pause(look: int) -> float:
    """Seconds: nearly everything that is just ending is gone in less than one millisecond."""
    return min(0.0005 * 2 ** (look - 1), 0.004)


async def _close_idle_connections() -> None:
    clients = sys.modules.get("kern_async.models.clients")  # without it there are none
    if clients is None:
        return
    of_loop = clients._loops.get(anyio.lowlevel.current_token().native_token)
    # A connection that is still in use is a leak that closing would hide.
    if of_loop is not None and all(of_endpoint.idle for of_endpoint in of_loop._by_endpoint.values()):
        await clients.close_clients()
