"""A command in a process group of its own, with its output as it comes."""

from __future__ import annotations

import codecs
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO

import anyio

from kern_async.exceptions import ToolError
from kern_async.run.context import Command

from .group import ProcessGroup

LINGER = 0.5
"""Seconds that the pipes of a command that has ended may stay open: something in the background holds them."""

_PIECE = 1 << 16


async def run_command(
    command: Command,
    *,
    input: str | bytes | None,
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    timeout: float | None,
    check: bool,
    report: Callable[[str], object],
    grace: float,
) -> subprocess.CompletedProcess[str]:
    """See `RunContext.run_process`; `grace` is in seconds, between TERM and KILL."""
    group = _start(command, cwd=cwd, env=env, has_input=input is not None)
    stdin, stdout, stderr = group.pipes
    out, err = _Output(stdout, report), _Output(stderr, report)
    data = input.encode() if isinstance(input, str) else input or b""
    try:
        returncode = await _follow(group, out, err, data, timeout)
    except GeneratorExit:  # the event loop is closed: nothing can be awaited any more
        raise
    except BaseException:
        await group.end(grace)
        raise
    else:
        await group.end(grace)  # what it has left in the background
    finally:
        group.drop()
        for pipe in (stdin, stdout, stderr):
            if pipe is not None:
                pipe.close()
    if returncode is None:
        raise subprocess.TimeoutExpired(command, timeout or 0, out.text(), err.text())
    done = subprocess.CompletedProcess(command, returncode, out.text(), err.text())
    if check:
        done.check_returncode()
    return done


async def _follow(
    group: ProcessGroup, out: _Output, err: _Output, data: bytes, timeout: float | None
) -> int | None:
    """Write and read until the command has ended; its exit status, or None if `timeout` comes first."""
    returncode = None
    with anyio.move_on_after(timeout):
        async with anyio.create_task_group() as pumps:
            stdin = group.pipes[0]
            if stdin is not None:
                pumps.start_soon(_feed, stdin, data)
            for output in (out, err):
                pumps.start_soon(output.read)
            returncode = await group.wait()
            with anyio.move_on_after(LINGER):
                for output in (out, err):
                    await output.closed.wait()
            pumps.cancel_scope.cancel()
    return returncode


def _start(
    command: Command,
    *,
    cwd: str | os.PathLike[str] | None,
    env: Mapping[str, str] | None,
    has_input: bool,
) -> ProcessGroup:
    # Here and now, not in a thread: so it never happens after a cancel.
    try:
        return ProcessGroup(
            command,
            shell=isinstance(command, str),
            cwd=cwd,
            env=env,
            bufsize=0,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise ToolError(f"run_process: {command!r} could not be started: {error}") from error


class _Output:
    """What a command has written to one of its pipes."""

    def __init__(self, pipe: IO[bytes], report: Callable[[str], object]) -> None:
        self._pipe = pipe
        self._report = report
        self.closed = anyio.Event()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        os.set_blocking(pipe.fileno(), False)

    def text(self) -> str:
        """All of it so far."""
        self._add(b"", final=True)
        return "".join(self._pieces)

    async def read(self) -> None:
        """Read until nobody can write any more."""
        with suppress(OSError):
            while True:
                await anyio.wait_readable(self._pipe)
                with suppress(BlockingIOError):
                    data = os.read(self._pipe.fileno(), _PIECE)
                    if not data:
                        break
                    self._add(data)
        self.closed.set()

    def _add(self, data: bytes, *, final: bool = False) -> None:
        if piece := self._decoder.decode(data, final):
            self._pieces.append(piece)
            self._report(piece)


async def _feed(pipe: IO[bytes], data: bytes) -> None:
    os.set_blocking(pipe.fileno(), False)
    left = memoryview(data)
    with suppress(BrokenPipeError, ConnectionError):  # it does not read on, or has ended
        while left:
            await anyio.wait_writable(pipe)
            with suppress(BlockingIOError):
                left = left[os.write(pipe.fileno(), left) :]
    pipe.close()
