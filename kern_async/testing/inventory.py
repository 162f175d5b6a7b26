"""All that code can leave behind, as it is now: tasks, threads, sockets, processes, live runs, stragglers.

Each has a key that stays the same as long as the thing is there.
"""

from __future__ import annotations

import contextvars
import os
import socket
import stat
import sys
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal

import anyio

from kern_async.db.database import kept_threads
from kern_async.engine.host import background_loop
from kern_async.engine.registry import get_active_runs
from kern_async.engine.stragglers import abandoned
from kern_async.tools.processes import idle_workers

Kind = Literal["task", "thread", "socket", "process", "run", "straggler"]


@dataclass(frozen=True)
class Leak:
    """Something that is there and was not there before."""

    kind: Kind
    name: str
    subject: object = field(default=None, repr=False)  # held, so that nothing else gets its id

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


Found = Iterator[tuple[Hashable, Leak]]


def everything() -> Found:
    """What is there; tasks are those of the calling task's event loop, if there is one, and of `run()`'s."""
    try:
        yield from _tasks()
    except anyio.NoEventLoopError:
        pass
    of_run: list[tuple[Hashable, Leak]] = []

    async def visit() -> None:
        of_run.extend(_tasks())

    visit_background_loop(visit)
    yield from of_run
    yield from _threads()
    yield from _sockets()
    yield from _processes()
    for run_id in get_active_runs():
        yield ("run", run_id), Leak("run", run_id)
    for work in abandoned():
        yield ("straggler", id(work)), Leak("straggler", f"{work.kind} {work.name} of {work.run_id}", work)


def visit_background_loop(visit: Callable[[], Awaitable[None]]) -> None:
    """Call `visit` in a task of the loop on which `run()` runs, if it is there, and wait for it, a second at most.

    It blocks the calling thread.
    """
    background = background_loop()
    loop = background._loop  # pyright: ignore[reportPrivateUsage] - starting it is all that others may do with it
    if loop is None:
        return
    done = threading.Event()

    async def main() -> None:
        try:
            await visit()
        finally:
            done.set()

    # Not in this context: it may say that trio is running here, which that loop is not.
    loop.soon(partial(loop.spawn, main, name=_VISITOR, on_lost=done.set, context=contextvars.Context()))
    done.wait(1)


_VISITOR = "kern-leak-check"
# anyio's own test runner has a task for every step of a fixture; the background loop has one that serves.
_NOT_OURS = ("TestRunner.", "BackgroundLoop.")


def _tasks() -> Found:
    for task in anyio.get_running_tasks():
        if task.name != _VISITOR and not getattr(task.coro, "__qualname__", "").startswith(_NOT_OURS):
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
    _Pool("uvloop_", ("concurrent/futures/thread.py", "/threading.py"), "_worker"),
    _Pool("asyncio_", ("concurrent/futures/thread.py", "/threading.py"), "_worker"),
    # A job's stack begins in trio/_threads.py; what is in trio/_core waits for sockets on behalf of a test runner.
    _Pool("Trio thread", ("trio/_core/", "outcome/_impl.py", "/queue.py", "/threading.py")),
)


def _threads() -> Found:
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented, its name notwithstanding
    kept = kept_threads()  # a database's idle writer stays as long as somebody has the database
    for thread in threading.enumerate():
        if thread.name == "kern-loop" or thread in kept:  # the loop of `run()` stays as long as the process
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


def _sockets() -> Found:
    try:
        with os.scandir("/dev/fd") as entries:
            descriptors = [int(entry.name) for entry in entries]
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


def _processes() -> Found:
    try:
        with os.scandir("/proc/self/task") as entries:
            threads = [entry.path for entry in entries]
    except FileNotFoundError:
        return
    for thread in threads:
        try:
            pids = Path(thread, "children").read_bytes().split()
        except OSError:
            continue  # the thread that started them has ended
        for pid in map(bytes.decode, pids):
            try:
                command = (
                    Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            # multiprocessing's own helper stays as long as the process; so do workers that wait for a call.
            if "multiprocessing.resource_tracker" not in command and int(pid) not in idle_workers():
                yield (
                    ("process", pid),
                    Leak("process", f"{pid} {command.strip() or '(ended, not waited for)'}"),
                )
