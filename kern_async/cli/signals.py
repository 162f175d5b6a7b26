"""Ctrl-C while a run is shown: the first one stops the run, the second one leaves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from kern_async.tools.group import ProcessGroup

from .exits import Exit

_SHOW_CURSOR = b"\x1b[?25h\n"


@contextmanager
def stopping(stop: Callable[[], object]) -> Generator[None]:
    """Have the first Ctrl-C or SIGTERM call `stop`, in its handler, and the second one end the process at once.

    A signal that was ignored before, as it is for jobs in the background, stays so.
    """
    asked = False

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            leave()
        asked = True
        stop()

    before = {
        number: signal.signal(number, handler)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def leave() -> None:
    """End this process now, without settling what it does; only the processes that tools have started die with it."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), _SHOW_CURSOR)
    ProcessGroup.end_all()
    os._exit(Exit.cancelled)
