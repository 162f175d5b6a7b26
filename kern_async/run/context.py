"""What a tool or a hook gets to know of its run, and the few things it may do to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from kern_async.exceptions import RunCancelled


class RunLink(Protocol):
    """What a context needs of its run; the engine provides it."""

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop, or has ended."""
        ...

    def report(self, content: Any, tool_call_id: str | None) -> None:
        """Log progress, from any thread."""
        ...


@dataclass(kw_only=True, eq=False)
class RunContext:
    """Injected into every tool and hook parameter that is annotated `RunContext`.

    `session_state` is the run's own and may be changed in place. What a tool does with a context after its
    run has ended goes nowhere.
    """

    run_id: str
    session_id: str
    user_id: str | None = None
    session_state: dict[str, Any] = field(default_factory=dict[str, Any])
    dependencies: dict[str, Any] = field(default_factory=dict[str, Any])
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    tool_call_id: str | None = None
    link: RunLink | None = field(default=None, repr=False)
    """The engine's: how this context reaches its run."""

    @property
    def cancelled(self) -> bool:
        """Whether the run is to stop. Safe to read from any thread, and at no cost."""
        return self.link is not None and self.link.stopping

    def raise_if_cancelled(self) -> None:
        """Leave a sync tool early: call it now and then in a long loop, from any thread.

        Raises:
            RunCancelled: the run is to stop; let it pass.
        """
        if self.cancelled:
            raise RunCancelled(f"run {self.run_id} is cancelled")

    def report(self, content: Any) -> None:
        """Tell the run's readers of progress: a `CustomEvent` with this content. From any thread; never waits.

        A report that arrives after the run's end is dropped.
        """
        if self.link is not None:
            self.link.report(content, self.tool_call_id)
