"""Virtual time: event loops whose clock jumps to the next timer when nothing else is left to do.

An hour of time-outs and back-offs passes in milliseconds, in the true order. The clock knows only what the loop
knows: while a task waits for a socket or a thread and another one for a timer, the timer comes first. So no
sockets and no threads in virtual time.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any, Literal


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time, which starts at 0; `asyncio.Runner(loop_factory=VirtualTimeLoop)`."""

    def __init__(self) -> None:
        self._selector_in_virtual_time = _JumpingSelector()
        super().__init__(self._selector_in_virtual_time)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._selector_in_virtual_time.now


def virtual_backend(backend: Literal["asyncio", "trio"]) -> tuple[str, dict[str, Any]]:
    """The backend's name and options for a run in virtual time, as anyio takes them.

    They serve one run: `anyio.run(main, backend=name, backend_options=options)`, or one `anyio_backend` fixture.
    """
    if backend == "asyncio":
        return "asyncio", {"loop_factory": VirtualTimeLoop}
    from trio.testing import MockClock

    return "trio", {"clock": MockClock(autojump_threshold=0)}


class _JumpingSelector(selectors.DefaultSelector):
    """Where an event loop would wait for its next timer, moves the clock there instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:  # nothing is timed, or something is ready
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready
