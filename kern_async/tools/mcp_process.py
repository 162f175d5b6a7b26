"""An MCP server in a child process: messages through its pipes, and an end that leaves nothing of it.

The pipes are read and written by the event loop's own waiting for descriptors, and the process is not handed to the
loop's subprocess support: so it is the same on every loop, in every thread, and a process whose loop has gone can
still be ended.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

_AFTER_EOF = 1.0
"""Seconds that a server has to end by itself once its input is closed; the protocol's polite way."""
_AFTER_TERM = 1.0
_FOR_CHILDREN = 0.25
_AFTER_KILL = 1.0
_AT_EXIT = 0.5
_TO_DIE = 0.2
_POLL = 0.005
_CHUNK = 65536


@dataclass(frozen=True)
class Command:
    """How a server is started: a program that is there, with its arguments."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None

    def __str__(self) -> str:
        return self.argv[0]


class ServerProcess:
    """A running server and the two streams that the SDK's session talks through.

    `pump_in` and `pump_out` must run in tasks; `on_eof` is called when the server's output has ended.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, command: Command, on_eof: Callable[[], object]) -> None:
        self._popen = subprocess.Popen(
            command.argv,
            env=get_default_environment() | dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # so that its children can be ended with it
        )
        self._owner = os.getpid()
        self._on_eof = on_eof
        self._input, self._output = self._pipes()
        self._arrived, self.received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self.to_send, self._leaving = anyio.create_memory_object_stream[SessionMessage](0)
        _running.add(self)

    def _pipes(self) -> tuple[int, int]:
        ends: list[int] = []
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is None:
                raise OSError("the server was started without pipes")
            os.set_blocking(pipe.fileno(), False)
            ends.append(pipe.fileno())
        return ends[0], ends[1]

    async def __aenter__(self) -> tuple[Any, Any]:
        """The transport that the SDK's client enters: what is received, and where to send."""
        return self.received, self.to_send

    async def __aexit__(self, *_exc: object) -> None:
        """Nothing: `stop` is called when the client has left."""

    async def epitaph(self) -> str:
        """What is to be said of a server whose output has ended."""
        await _holds(self._has_ended, _AFTER_EOF)
        if (status := self._popen.poll()) is None:
            return "closed its output"
        return f"ended with exit status {status}"

    async def pump_out(self) -> None:
        """Take the server's messages from its output until that ends."""
        rest = b""
        try:
            while chunk := await self._read():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        await self._arrived.send(_parsed(line))
            self._on_eof()  # before its session hears of it, which then knows what happened
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the client has left
        finally:
            self._arrived.close()

    async def pump_in(self) -> None:
        """Write the client's messages to the server's input until one of them leaves."""
        with self._leaving:
            async for message in self._leaving:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await self._write(line.encode() + b"\n")
                except OSError:  # it reads no more, so there is nothing more to expect of it
                    self._on_eof()
                    return

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._output, _CHUNK)
            except BlockingIOError:
                await anyio.wait_readable(self._output)
            except OSError:
                return b""

    async def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._input, left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._input)

    async def stop(self) -> None:
        """End the server and its children: close its input, then TERM, then KILL, each with its time.

        The pumps must have ended. A cancel cuts it short: then KILL comes at once.
        """
        try:
            self._close(self._popen.stdin)
            if not await _holds(self._has_ended, _AFTER_EOF):
                self._signal(signal.SIGTERM)
                await _holds(self._has_ended, _AFTER_TERM)
            elif not self._is_gone():
                self._signal(signal.SIGTERM)
                await _holds(self._is_gone, _FOR_CHILDREN)
        finally:
            self.kill()
            self.release()
        await _holds(self._has_ended, _AFTER_KILL)

    def kill(self) -> None:
        """KILL what is left of it, from any thread."""
        self._signal(signal.SIGKILL)
        self._reap()
        _running.discard(self)

    def release(self) -> None:
        """Close the pipes and streams: when nothing waits for them any more, for their numbers are used again."""
        self._close(self._popen.stdin)
        self._close(self._popen.stdout)
        for stream in (self._arrived, self.received, self.to_send, self._leaving):
            with suppress(RuntimeError):  # its loop is closed
                stream.close()

    def terminate(self) -> None:
        """Ask it and its children to end."""
        self._signal(signal.SIGTERM)

    def end_at_exit(self, until: float) -> None:
        """Wait for its end, blocking, `until` on the monotonic clock; then KILL."""
        while not self._is_gone() and time.monotonic() < until:
            time.sleep(_POLL)
        self._signal(signal.SIGKILL)
        self._reap()

    def _has_ended(self) -> bool:
        """Whether the server has ended, if not its children."""
        return self._popen.poll() is not None

    def _is_gone(self) -> bool:
        """Whether nothing of its process group is left; a child that nobody has waited for is."""
        return self._has_ended() and not self._signal(0)

    def _signal(self, number: int) -> bool:
        """Whether there was somebody to signal."""
        if self._owner != os.getpid():  # a fork has copies of everything, but the server is the parent's
            return False
        try:
            os.killpg(self._popen.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _reap(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_TO_DIE)

    @staticmethod
    def _close(pipe: Any) -> None:
        with suppress(OSError):
            pipe.close()


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error  # as the SDK's own transports do: the session goes on


async def _holds(condition: Callable[[], bool], patience: float) -> bool:
    with anyio.move_on_after(patience):
        while not condition():  # noqa: ASYNC110 - no event says that a process group has ended
            await anyio.sleep(_POLL)
        return True
    return False


_running: set[ServerProcess] = set()


def _end_all() -> None:
    servers = list(_running)
    for server in servers:
        server.terminate()
    until = time.monotonic() + _AT_EXIT
    for server in servers:
        server.end_at_exit(until)


atexit.register(_end_all)
