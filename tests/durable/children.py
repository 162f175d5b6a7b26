"""Starting other processes and talking with them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread

from ..as_a_user import environment
from .places import Place

ROOT = Path(__file__).parents[2]


class Process:
    """`tests.durable.child`, by remote control."""

    def __init__(self, place: Place, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.durable.child", place.spec, json.dumps(options)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._began = False

    def call(self, verb: str, *arguments: Any) -> Any:
        """What it answers."""
        self.send(verb, *arguments)
        return self.answer()

    async def acall(self, verb: str, *arguments: Any) -> Any:
        return await anyio.to_thread.run_sync(lambda: self.call(verb, *arguments))

    def send(self, verb: str, *arguments: Any) -> None:
        self._ready()
        assert self._process.stdin is not None
        print(json.dumps([verb, arguments]), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        return json.loads(self._line())

    def _ready(self) -> None:
        if not self._began:
            self._began = True
            assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the other process has died"
        return line.rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it end in good order."""
        if self._process.poll() is None:
            self._process.communicate(timeout=30)


@contextmanager
def processes(place: Place, count: int = 1, **options: Any) -> Generator[list[Process]]:
    """Other processes with the same database, which end with the block."""
    started = [Process(place, **options) for _ in range(count)]
    try:
        yield started
        for process in started:
            process.close()
    finally:
        for process in started:
            process.kill()
            for pipe in (process._process.stdin, process._process.stdout):
                assert pipe is not None
                pipe.close()


def run_script(code: str, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A user's script in a process of its own, with warnings as errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        env=environment(**variables or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
