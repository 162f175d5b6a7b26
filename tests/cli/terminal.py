"""A command on a terminal of its own, where Ctrl-C is a key."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ..as_a_user import environment

# The child takes the terminal as its controlling one, so that the kernel turns Ctrl-C into SIGINT.
TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
CTRL_C = b"\x03"


class Terminal:
    def __init__(self, cwd: Path, *arguments: str, columns: int = 100, rows: int = 30, **more: str) -> None:
        self._main, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        variables = environment(**{"PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color"} | more)
        for name in ("COLUMNS", "LINES"):
            variables.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE, "-W", "error", "-m", "kern_async", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            cwd=cwd,
            env=variables,
            start_new_session=True,
        )
        os.close(child)
        self.raw = ""

    def press(self, key: bytes) -> None:
        os.write(self._main, key)

    def until(self, pattern: str, seconds: float = 20.0) -> None:
        """Read until this is on the terminal."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.text}"
            assert self._read(deadline - time.monotonic()), f"{pattern!r} did not come: {self.text}"

    def end(self, seconds: float = 20.0) -> int:
        """Read to the end, and return the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, self.text
        assert "Traceback" not in self.text, self.text
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    @property
    def text(self) -> str:
        """All that was written, without escape codes."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)

    @property
    def left(self) -> str:
        """What stays on the screen after the live view was taken away."""
        last_erased_line = "\x1b[1A\x1b[2K"
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw.rpartition(last_erased_line)[2])

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._main], [], [], max(0.0, seconds))
        if not ready:
            return True
        try:
            data = os.read(self._main, 65536)
        except OSError:
            return False  # the last process has left the terminal
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
