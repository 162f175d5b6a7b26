"""What a piece of code left behind: tasks, threads, sockets, processes, live runs, stragglers.

    check = LeakCheck()
    ...  # start and end runs
    await check.asettle()

Sockets are seen on Linux and macOS, processes on Linux.
"""

from __future__ import annotations

import gc
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import anyio

from kern_async.engine.registry import get_active_runs
from kern_async.engine.stragglers import abandoned

Kind = Literal["task", "thread", "socket", "process", "run", "straggler"]


@dataclass(frozen=True)
class Leak:
    """Something that is there and was not there before."""

    kind: Kind
    name: str
    subject: object = field(default=None, repr=False)  # held, so that nothing else gets its id

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


class LeakError(AssertionError):
    """Something was left behind; `leaks` says what."""

    def __init__(self, leaks: list[Leak]) -> None:
        super().__init__("left behind:\n" + "\n".join(f"  {leak}" for leak in leaks))
        self.leaks = leaks


class LeakCheck:
    """Remembers what is there when it is made, so that it can tell later what is there more.

    Args:
        allow: kinds that may be left.
        patience: seconds that `settle` and `asettle` wait for what is just ending.
    """

    def __init__(self, *, allow: Collection[Kind] = (), patience: float = 1.0) -> None:
        self._allow = frozenset(allow)
        self._patience = patience
        self._before = dict(_everything())

    def leaks(self) -> list[Leak]:
        """What is there now and was not before; tasks are those of the running event loop."""
        return [
            leak for key, leak in _everything() if key not in self._before and leak.kind not in self._allow
        ]

    def settle(self) -> None:
        """Wait, blocking, until nothing is left of what came since; for code without an event loop.

        Raises:
            LeakError: something is still there after `patience`.
        """
        for _ in self._looks():
            pass

    async def asettle(self) -> None:
        """Wait until nothing is left of what came since, tasks of this event loop included.

        A cancel ends the wait, without a verdict.

        Raises:
            LeakError: something is still there after `patience`.
        """
        for _ in self._looks():
            await anyio.sleep(_PAUSE)

    def _looks(self) -> Iterator[None]:
        """Steps of waiting, in real time even where the event loop's is virtual."""
        end = time.monotonic() + self._patience
        looks = 0
        while leaks := self.leaks():
            looks += 1
            if time.monotonic() > end:
                raise LeakError(leaks)
            if looks % 20 == 0:  # a caught exception may hold a frame that holds a stream
                gc.collect()
            time.sleep(_PAUSE)
            yield


_PAUSE = 0.002  # seconds


def _everything() -> Iterator[tuple[Hashable, Leak]]:
    yield from _tasks()
    yield from _threads()
    yield from _sockets()
    yield from _processes()
    yield from _runs()


def _runs() -> Iterator[tuple[Hashable, Leak]]:
    for run_id in get_active_runs():
        yield ("run", run_id), Leak("run", run_id)
    for work in abandoned():
        yield ("straggler", id(work)), Leak("straggler", f"{work.kind} {work.name} of {work.run_id}", work)


def _tasks() -> Iterator[tuple[Hashable, Leak]]:
    try:
        tasks = anyio.get_running_tasks()
    except anyio.NoEventLoopError:
        return
    for task in tasks:
        # anyio's own test runner makes a task for every step of a fixture.
        if not getattr(task.coro, "__qualname__", "").startswith("TestRunner."):
            yield ("task", task.id), Leak("task", task.name or repr(task), task)


@dataclass(frozen=True)
class _Pool:
    """How an idle thread of a library's pool looks: nothing on its stack is anybody else's.

    `waits_in` is the innermost function then; without it, a job written in C would look idle too.
    """

    thread_name: str
    files: tuple[str, ...]
    waits_in: str | None = None


_POOLS = (
    _Pool("AnyIO worker thread", ("anyio/_backends/_asyncio.py", "/queue.py", "/threading.py"), "wait"),
    _Pool("asyncio_", ("concurrent/futures/thread.py", "/threading.py"), "_worker"),
    # A job's stack begins in trio/_threads.py; what is in trio/_core waits for sockets on behalf of a test runner.
    _Pool("Trio thread", ("trio/_core/", "outcome/_impl.py", "/queue.py", "/threading.py")),
)


def _threads() -> Iterator[tuple[Hashable, Leak]]:
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented, its name notwithstanding
    for thread in threading.enumerate():
        if (
            thread.name == "kern-loop"
        ):  # the loop of `run()` stays as long as the process; `_runs` sees its work
            continue
        if not _is_idle(thread.name, frames.get(thread.ident or 0)):
            yield ("thread", thread), Leak("thread", thread.name, thread)


def _is_idle(name: str, frame: FrameType | None) -> bool:
    pool = next((pool for pool in _POOLS if name.startswith(pool.thread_name)), None)
    if pool is None or frame is None or pool.waits_in not in (None, frame.f_code.co_name):
        return False
    while frame is not None:
        if not any(file in Path(frame.f_code.co_filename).as_posix() for file in pool.files):
            return False
        frame = frame.f_back
    return True


def _sockets() -> Iterator[tuple[Hashable, Leak]]:
    try:
        descriptors = [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    except FileNotFoundError:
        return
    for descriptor in descriptors:
        try:
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode) and (ends := _ends_of(descriptor)):
                yield ("socket", descriptor, status.st_ino), Leak("socket", f"{descriptor} {ends}")
        except OSError:
            continue  # closed since it was listed


def _ends_of(descriptor: int) -> str | None:
    """Both addresses of a socket; None for a nameless pair, with which an event loop wakes itself."""
    with socket.socket(fileno=os.dup(descriptor)) as double:
        try:
            peer = double.getpeername()
        except OSError:
            peer = None  # not connected
        if double.family is socket.AF_UNIX and not double.getsockname() and not peer:
            return None
        return f"{double.family.name} {double.getsockname()} to {peer or 'nobody'}"


def _processes() -> Iterator[tuple[Hashable, Leak]]:
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            pids = children.read_text().split()
        except OSError:
            continue  # the thread that started them has ended
        for pid in pids:
            try:
                command = (
                    Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            # multiprocessing's own helper stays as long as the process.
            if "multiprocessing.resource_tracker" not in command:
                yield (
                    ("process", pid),
                    Leak("process", f"{pid} {command.strip() or '(ended, not waited for)'}"),
                )
