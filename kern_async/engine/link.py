"""How the context of a tool or a hook reaches its run."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

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

    @property
    def _fenced(self) -> bool:
        return self._call is not None and self._call.over

    @property
    def stopping(self) -> bool:
        run = self._run()
        if run is None or run.ended or run.stopping or self._fenced:
            return True
        return self._call is not None and self._call.cancelled

    def report(self, content: Any, tool_call_id: str | None) -> None:
        run = self._run()
        if run is not None and not self._fenced:
            run.report(content, tool_call_id)
