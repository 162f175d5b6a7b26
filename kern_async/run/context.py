"""What a tool or a hook gets to know of its run, and the few things it may do to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kern_async.exceptions import RunCancelled, ToolError

Command = str | Sequence[str | bytes | os.PathLike[str]]
"""What to run: a program and its arguments, or a line for the shell."""


class RunLink(Protocol):
    """What a context needs of its run; the engine provides it."""

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop, or has ended."""
        ...

    @property
    def grace(self) -> float:
        """Seconds that processes of a cancelled tool get between TERM and KILL."""
        ...

    def report(self, content: Any, tool_call_id: str | None) -> None:
        """Log progress, from any thread."""
        ...

    async def run_process(
        self,
        command: Command,
        *,
        input: str | bytes | None,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
        timeout: float | None,
        check: bool,
        report: Callable[[str], object],
    ) -> subprocess.CompletedProcess[str]:
        """See `RunContext.run_process`."""
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

    async def run_process(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in a process group of its own; for async tools and hooks.

        What it writes to stdout and stderr is reported as progress, as it comes, and is in the result, as text
        (UTF-8; a wrong byte is a replacement character, line ends stay as they are).

        Nothing of the group outlives the call: when the command has ended, what it has left in the background may
        write for another half a second, and is ended then. What makes a session of its own (`setsid`) is not in
        the group.

        A cancel ends the group: TERM at once, KILL at half of the run's `cancel_grace`, and goes on when it is
        dead. Nothing is started in a run that is to stop.

        Args:
            command: a list of program and arguments, or a string for the shell.
            input: what the command reads from stdin, which is empty otherwise. If it does not read it all, never
                mind.
            cwd: the folder to run it in.
            env: its environment, instead of this process's.
            timeout: seconds; then the group is ended as by a cancel.
            check: an exit status other than 0 is an error.

        Raises:
            RunCancelled: the run is to stop.
            ToolError: the command could not be started, or this context belongs to no run.
            subprocess.TimeoutExpired: `timeout` is over; it has the output so far.
            subprocess.CalledProcessError: with `check`, the command failed; it has the output.
        """
        if self.link is None:
            raise ToolError("run_process() needs the context of a run, which this is not")
        self.raise_if_cancelled()
        return await self.link.run_process(
            command, input=input, cwd=cwd, env=env, timeout=timeout, check=check, report=self.report
        )
