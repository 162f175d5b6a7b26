"""How the context of a tool or a hook reaches its run."""

from __future__ import annotations

import subprocess
import weakref
from typing import TYPE_CHECKING, Any

from kern_async.run.context import Command
from kern_async.tools.command import run_command

if TYPE_CHECKING:
    from .active import ActiveCall
    from .run import Run


class Link:
    """A context's way to its run: weak, so that a created run nobody reads is freed, with its id, when dropped.

    With a `call` it is the way of that call's own context.
    """

    def __init__(self, run: Run, call: ActiveCall | None = None) -> None:
        self._run = weakref.ref(run)
        self._call = call
        self._closed = False

    def close(self) -> None:
        """Nobody waits any more for what has this way: it is told to stop, and what it reports goes nowhere."""
        self._closed = True

    @property
    def _fenced(self) -> bool:
        return self._closed or (self._call is not None and self._call.over)

    @property
    def stopping(self) -> bool:
        run = self._run()
        if run is None or run.ended or run.stopping or self._fenced:
            return True
        return self._call is not None and self._call.cancelled

    @property
    def grace(self) -> float:
        run = self._run()
        return 0.0 if run is None else run.root.cancel_grace / 2

    def report(self, content: Any, tool_call_id: str | None) -> None:
        run = self._run()
        if run is not None and not self._fenced:
            run.report(content, tool_call_id)

    async def run_process(self, command: Command, **options: Any) -> subprocess.CompletedProcess[str]:
        return await run_command(command, **options, grace=self.grace)
