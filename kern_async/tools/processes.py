"""Sync tools in worker processes, which really die: `@tool(isolation="process")`.

A worker does one call at a time and is kept for the next one when it is done, since starting one and importing the
tool's module takes a while. One that was cut never is: it, and all that the tool has started in its process group,
gets TERM at once and KILL when the grace is over. A worker's connection to us is a socket pair; besides, it holds one
end of a pipe whose other end only this process has, and is killed by its kernel when that is closed: by `kill -9`,
too, and when the tool is busy in C code.

The pool belongs to the process: event loops in several threads share it, by atomic operations of `dict` and `deque`.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run.context import RunContext

from . import worker as protocol
from .group import ProcessGroup
from .parcel import error_from, request_for
from .slots import Slots
from .threads import run_in_thread

GRACE = 0.5
"""Seconds between TERM and KILL where no run says how long it has."""


async def call_in_process(tool: str, prepared: partial[Any], context: RunContext) -> Any:
    """Call a module's function in a worker process, and return what it returns.

    Waits first while as many workers are busy as there may be (`limit_processes`). Arguments, result and
    exception are pickled; a parameter that takes the run's context gets a copy whose `report` reaches the run and
    whose changes do not come back. Pieces that a generator yields are progress, and the result is their text.

    A cancel kills the worker and its process group: TERM at once, KILL at half of the run's `cancel_grace` or when
    a second cancel comes, and goes on when they are dead.

    Raises:
        ToolError: something cannot be pickled or imported, or the worker died.
        Exception: what the tool raised, with the worker's traceback in a note.
    """
    await _slots.acquire()
    try:
        request = request_for(tool, prepared, context)
        worker = await _take(tool)
        grace = GRACE if context.link is None else context.link.grace
        try:
            kind, body = await worker.call(request, context.report)
        except _WorkerLost:
            await worker.end(grace)
            if worker.killed_at_exit:
                await anyio.sleep_forever()
            raise ToolError(f"{tool}: its worker process {worker.fate} while it ran") from None
        except GeneratorExit:
            worker.drop()
            raise
        except BaseException:
            await worker.end(grace)
            raise
        _put_back(worker)
    finally:
        _slots.release()
    if kind == protocol.ERROR:
        raise error_from(tool, body)
    try:
        return pickle.loads(body)
    except Exception as error:
        raise ToolError(f"{tool}: its result cannot be unpickled here: {error!r}") from error


def limit_processes(*, max_processes: int | None = None, max_idle: int | None = None) -> None:
    """Set how many process tools run at once (the CPUs and 4), and how many idle workers are kept (the CPUs).

    Lowering one stops nothing that runs.

    Raises:
        ConfigurationError: less than one, or less than no idle worker.
    """
    if max_processes is not None:
        if max_processes < 1:
            raise ConfigurationError(f"max_processes is 1 or more, not {max_processes!r}")
        _slots.resize(max_processes)
    if max_idle is not None:
        if max_idle < 0:
            raise ConfigurationError(f"max_idle is 0 or more, not {max_idle!r}")
        _limits.max_idle = max_idle
        while len(_idle) > max_idle:
            with suppress(IndexError):
                _idle.popleft().drop()


def idle_workers() -> list[int]:
    """The process ids of the workers that are kept for the next call."""
    return [worker.pid for worker in _idle.copy()]


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Limits:
    max_idle: int


_limits = _Limits(max_idle=_cpus())
_slots = Slots(_cpus() + 4)
_idle: deque[_Worker] = deque()
_workers: dict[_Worker, None] = {}


class _WorkerLost(Exception):
    """The worker's end of the connection is closed."""


class _Worker:
    """A worker process, from our side."""

    def __init__(self) -> None:
        self.idle_since = time.monotonic()
        self._calls = 0
        self._buffer = bytearray()
        self._socket, theirs = socket.socketpair()
        ours: int | None = None
        try:
            self._socket.setblocking(False)
            lifeline, ours = os.pipe()
            try:
                self._group = ProcessGroup(
                    [*_python(), protocol.__file__, str(theirs.fileno()), str(lifeline)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), lifeline),
                )
            finally:
                os.close(lifeline)
        except BaseException:
            self._socket.close()
            if ours is not None:
                os.close(ours)
            raise
        finally:
            theirs.close()
        self._lifeline = ours
        self.pid = self._group.pid
        _workers[self] = None

    @property
    def usable(self) -> bool:
        """Whether the worker waits for a call, and will for long enough to get one."""
        idle = time.monotonic() - self.idle_since
        return self._group.returncode is None and idle < protocol.IDLE_SECONDS * 0.9

    @property
    def fate(self) -> str:
        """How the process ended."""
        code = self._group.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"

    @property
    def killed_at_exit(self) -> bool:
        """See `ProcessGroup`."""
        return self._group.killed_at_exit

    async def call(self, request: bytes, report: Callable[[Any], object]) -> tuple[int, bytes]:
        """Have a call made; what comes back is RESULT or ERROR, and its pickle. A cancel only stops the waiting."""
        self._calls += 1
        await self._send(protocol.HEADER.pack(protocol.CALL, self._calls, len(request)) + request)
        while True:
            kind, number, body = await self._receive()
            if number != self._calls:
                continue  # from a thread that an earlier call has left in the worker
            if kind != protocol.REPORT:
                return kind, body
            report(pickle.loads(body))

    async def end(self, grace: float) -> None:
        """See `ProcessGroup.end`."""
        with suppress(OSError):
            self._socket.shutdown(
                socket.SHUT_WR
            )  # a tool that handles TERM returns to a worker without a next call
        try:
            await self._group.end(grace)
        finally:
            self._close()

    def drop(self) -> None:
        """See `ProcessGroup.drop`."""
        self._group.drop()
        self._close()

    def forget(self) -> None:
        """In a forked child: it must not keep the parent's workers alive."""
        self._close()

    def _close(self) -> None:
        if _workers.pop(self, self) is None:
            self._socket.close()
            os.close(self._lifeline)

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError:
                raise _WorkerLost from None

    async def _receive(self) -> tuple[int, int, bytes]:
        size = protocol.HEADER.size
        await self._fill(size)
        kind, number, length = protocol.HEADER.unpack_from(self._buffer)
        await self._fill(size + length)
        body = bytes(self._buffer[size : size + length])
        del self._buffer[: size + length]
        return kind, number, body

    async def _fill(self, length: int) -> None:
        while len(self._buffer) < length:
            await anyio.wait_readable(self._socket)  # also where something is there: others want to run
            try:
                piece = self._socket.recv(max(length - len(self._buffer), 1 << 14))
            except BlockingIOError:
                continue
            except OSError:
                raise _WorkerLost from None
            if not piece:
                raise _WorkerLost
            self._buffer += piece


async def _take(tool: str) -> _Worker:
    """An idle worker, or a new one."""
    while True:
        try:
            worker = _idle.pop()
        except IndexError:
            break
        if worker.usable:
            return worker
        worker.drop()
    if _is_importing_main():
        raise ToolError(
            f"{tool}: not called while a worker process imports the main module; "
            'in a script, start agents below `if __name__ == "__main__":`'
        )
    started: list[_Worker] = []

    def start() -> None:
        started.append(_Worker())

    def keep() -> None:
        with suppress(IndexError):
            _put_back(started.pop())

    try:
        await run_in_thread(start, name=f"worker for {tool}", on_abandoned=lambda: keep)
    except OSError as error:
        raise ToolError(f"{tool}: no worker process could be started: {error}") from error
    except BaseException:
        keep()  # it was started, but the cancel came before the news of it
        raise
    return started.pop()


def _put_back(worker: _Worker) -> None:
    """Keep a worker that is done for the next call, and let go of those that were idle for too long."""
    worker.idle_since = time.monotonic()
    if len(_idle) < _limits.max_idle:
        _idle.append(worker)
    else:
        worker.drop()
    with suppress(IndexError):
        while not (oldest := _idle.popleft()).usable:
            oldest.drop()
        _idle.appendleft(oldest)


def _is_importing_main() -> bool:
    """Whether this is a worker, of ours or of multiprocessing's, that has not come to the end of its main module."""
    main = sys.modules.get("__mp_main__")
    return main is not None and main is not sys.modules.get("__main__")


def _python() -> list[str]:
    """The interpreter as this one was started. -P: the script's folder has modules of ours, not of the tool's."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise ConfigurationError(
            "isolation='process' needs a Python interpreter to start: sys.executable is none"
        )
    flags = [f"-W{option}" for option in sys.warnoptions]
    flags += [f"-X{key}" if value is True else f"-X{key}={value}" for key, value in sys._xoptions.items()]  # pyright: ignore[reportPrivateUsage] - documented
    flags += ["-O"] * sys.flags.optimize
    return [sys.executable, "-P", *flags]


def _forked() -> None:
    global _slots
    for worker in list(_workers):
        worker.forget()
    _idle.clear()
    _slots = Slots(_slots.number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
