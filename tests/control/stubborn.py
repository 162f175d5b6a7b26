"""Code that does not stop before the test lets it."""

from __future__ import annotations

import threading
import time

import anyio

from kern_async import RunContext, abandoned

GRACE = 0.2
SOON = GRACE + 0.6
"""Seconds after which a settled run is late, on a busy machine too."""
PATIENCE = 15
"""Seconds after which it ends in any case, for a test that fails does not release it."""


class Stubborn:
    """A tool and a hook that go on until the test releases them, whoever cancels them."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.started = threading.Event()
        self.over = threading.Event()
        self.swallowed = 0
        self._released = anyio.Event()
        self._thread_released = threading.Event()

    async def wait(self) -> None:
        self.begun.set()
        self.started.set()
        patience = time.monotonic() + PATIENCE
        try:
            while not self._released.is_set() and time.monotonic() < patience:
                try:
                    with anyio.move_on_after(PATIENCE):
                        await self._released.wait()
                except anyio.get_cancelled_exc_class():
                    self.swallowed += 1
        finally:
            self.over.set()

    async def tool(self, context: RunContext) -> str:
        """Refuse to stop."""
        await self.wait()
        context.report("late report")
        return "late result"

    @property
    def sync_tool(self) -> object:
        def tool(context: RunContext) -> str:
            """Refuse to stop."""
            self.started.set()
            assert self._thread_released.wait(PATIENCE)
            context.report("late report")
            self.over.set()
            return "late result"

        return tool

    async def hook(self, run_context: RunContext) -> None:
        await self.wait()
        run_context.report("late report")
        run_context.session_state["late"] = True

    async def release(self) -> None:
        """Let it end, and wait until it has."""
        self._released.set()
        self._thread_released.set()
        with anyio.fail_after(5):
            while not self.over.is_set() or abandoned():  # noqa: ASYNC110 - nobody is told of a straggler's end
                await anyio.sleep(0.001)
