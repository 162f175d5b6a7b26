"""A run's events on stdout: for people as they come, for scripts as lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from kern_async.agent.printing import RunView
from kern_async.run.base import BaseEvent, Ended
from kern_async.run.team import event_reader

from .exits import Exit, exit_of


def parse(data: bytes) -> BaseEvent | None:
    """The event that a server's bytes say; None for one that this version does not know."""
    try:
        return event_reader().validate_json(data)
    except ValidationError:
        return None


def index_of(data: bytes, event: BaseEvent | None) -> int:
    """The index of the event that these bytes say, known or not; -1 if it has none."""
    if event is not None:
        return event.event_index
    try:
        return int(json.loads(data)["event_index"])
    except (ValueError, TypeError, KeyError):
        return -1


class Showing:
    """Shows the events of one run and those below it, and knows its end. A context manager.

    `hint` is a quiet remark under the live view on a terminal. `started` says whether an event was shown.
    """

    def __init__(self, run_id: str, *, as_json: bool, hint: str = "") -> None:
        self._run_id = run_id
        self._view = None if as_json else RunView(footer=hint)
        self.end: Ended | None = None
        self.session_id: str | None = None
        self.started = False

    def __enter__(self) -> Self:
        if self._view:
            self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view:
            self._view.__exit__(kind, error, trace)

    def show(self, event: BaseEvent | None, line: str) -> None:
        """Show an event, which is this line of JSON; of one that is None only the line is known."""
        self.started = True
        if self._view is None:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        elif event is not None:
            self._view.show(event)
        if event is not None and event.run_id == self._run_id:
            self.session_id = event.session_id
            self.end = event if isinstance(event, Ended) else None

    def hint(self, text: str) -> None:
        """Change the remark under the live view."""
        if self._view:
            self._view.footer = text

    def urge(self, text: str) -> None:
        """A remark that has to be seen, under the live view or else on a terminal's stderr; for a signal handler."""
        self.hint(text)
        if not (self._view and self._view.is_live) and os.isatty(2):
            os.write(2, f"\n{text}\n".encode())

    @property
    def code(self) -> Exit:
        """What the command's exit code is, now that the run has ended."""
        return exit_of(self.end.status.value if self.end else None)

    def remark(self) -> None:
        """Name the run, so that something can be done with it."""
        if self._view is not None and self.end is not None and sys.stderr.isatty():
            say(f"run {self._run_id}, session {self.session_id}")


def say(text: str) -> None:
    """A remark on stderr, quiet on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Text(text, style="dim"), soft_wrap=True)
    else:
        sys.stderr.write(f"{text}\n")
