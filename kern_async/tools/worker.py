"""What runs in a worker process: one call after the other, until its parent has no use for it or is gone.

It is run as a script, with nothing but the standard library, since it can import no more before it has the parent's
`sys.path`. It never asks whether to stop: a cancel is a signal from outside.
"""

from __future__ import annotations

import contextvars
import importlib
import importlib.util
import io
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

HEADER = struct.Struct("!BQQ")
"""Of a message: its kind, the number of the call, the length of the rest."""

CALL, REPORT, RESULT, ERROR = range(4)

IDLE_SECONDS = 300.0
"""How long a worker waits for its next call."""

THE_CONTEXT = "context"
"""Stands for the run's context in the pickled arguments."""


class _Parent:
    """The connection to the parent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._outgoing: deque[bytes] = deque()
        self._sender: dict[str, object] = {}

    def close(self) -> None:
        self._connection.close()

    def receive(self) -> tuple[int, bytes] | None:
        """The next call and its number; None if there is to be no other."""
        try:
            self._connection.settimeout(IDLE_SECONDS)
            head = self._read(HEADER.size)
            self._connection.settimeout(None)
            _, number, length = HEADER.unpack(head)
            return number, self._read(length)
        except (EOFError, OSError):
            return None

    def send(self, kind: int, number: int, body: bytes) -> None:
        """Send a message whole, whatever other threads send.

        Whoever comes while another thread sends leaves the message to that one. A lock could be held by the very
        code that a signal handler interrupts.
        """
        self._outgoing.append(HEADER.pack(kind, number, len(body)) + body)
        me = object()
        while self._outgoing and self._sender.setdefault("now", me) is me:
            try:
                while self._outgoing:
                    self._connection.sendall(self._outgoing.popleft())
            finally:
                del self._sender["now"]

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._connection.recv(min(length - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


class _Link:
    """A context's way to its run, from a worker: progress goes to the parent, a cancel comes as a signal."""

    stopping = False
    grace = 0.0

    def __init__(self, parent: _Parent, number: int, tool: str) -> None:
        self._parent = parent
        self._number = number
        self._tool = tool

    def report(self, content: Any, tool_call_id: str | None = None) -> None:
        try:
            body = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise _tool_error(
                f"{self._tool}: the progress {_kind(content)} that it reported cannot be pickled: {error}"
            ) from error
        self._parent.send(REPORT, self._number, body)

    async def run_process(self, *_: Any, **__: Any) -> Any:
        raise _tool_error(
            f"{self._tool} runs in a worker process, where run_process() is not there; "
            "use the module subprocess: what it starts is killed with the tool"
        )


class _Arguments(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, context: Callable[[], object]) -> None:
        super().__init__(file)
        self._context = context

    def persistent_load(self, pid: Any) -> object:
        return self._context()


class _Refused(Exception):
    """The call could not be made; the message is for the model."""


def _serve(parent: _Parent) -> None:
    while (call := parent.receive()) is not None:
        number, body = call
        kind, answer = contextvars.copy_context().run(_answer, parent, number, body)
        del body, call
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError, OSError):  # none, closed by the tool, or a broken pipe
                stream.flush()
        parent.send(kind, number, answer)


def _answer(parent: _Parent, number: int, body: bytes) -> tuple[int, bytes]:
    try:
        return RESULT, _result(parent, number, io.BytesIO(body))
    except _Refused as error:
        return ERROR, pickle.dumps((str(error), _traceback(error.__cause__), None))
    except BaseException as error:  # noqa: BLE001 - all of it is the parent's
        said = f"{type(error).__name__}: {error}"
        pickled = b""  # as good as one that cannot be unpickled
        with suppress(Exception):
            pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        return ERROR, pickle.dumps((said, _traceback(error), pickled))


def _result(parent: _Parent, number: int, body: io.BytesIO) -> bytes:
    _settle_in(pickle.load(body))
    tool, module, name, file, main = pickle.load(body)
    try:
        if main is not None:
            _import_main(main)
        function = _find(module, name, file)
    except Exception as error:
        raise _Refused(f"{tool}: the worker process cannot import {module}.{name}: {error!r}") from error
    link = _Link(parent, number, tool)

    def context() -> object:
        from kern_async.run.context import RunContext

        return RunContext(**fields, link=link)

    try:
        fields = pickle.load(body)
        arguments, keywords = _Arguments(body, context).load()
    except Exception as error:
        raise _Refused(f"{tool}: the worker process cannot unpickle its arguments: {error!r}") from error
    result = function(*arguments, **keywords)
    if isinstance(result, Generator):
        from kern_async.tools.result import drain

        result = drain(cast("Generator[Any, Any, Any]", result), report=link.report)
    try:
        return pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise _Refused(f"{tool}: its result {_kind(result)} cannot be pickled: {error}") from error


_surroundings: dict[str, Any] = {}


def _settle_in(surroundings: dict[str, Any]) -> None:
    """Have the parent's `sys.path`, arguments, environment and folder, as they are now."""
    if surroundings != _surroundings:
        _surroundings.update(surroundings)
        sys.path[:] = surroundings["sys_path"]
        sys.argv[:] = surroundings["sys_argv"]
        os.environ.clear()
        os.environ.update(surroundings["environ"])
    if surroundings["dir"] is not None:
        with suppress(OSError):
            os.chdir(surroundings["dir"])


_main_imported: dict[str, Any] = {}


def _import_main(main: dict[str, str]) -> None:
    if not _main_imported:
        from multiprocessing import spawn

        spawn.prepare(cast("dict[str, Any]", main))
        _main_imported.update(main)


def _find(module: str, name: str, file: str | None) -> Callable[..., Any]:
    from kern_async.tools.function import Function

    found = getattr(_import(module, file), name)
    while isinstance(found, Function):
        found = found.entrypoint
    return found


def _import(name: str, file: str | None) -> ModuleType:
    """Import a module, also one that the parent did not find on `sys.path`, as a test runner's."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None or not f"{name}.".startswith(f"{error.name}."):
            raise
    parts = name.split(".")
    path = Path(file)
    if path.stem == "__init__":
        path = path.parent
    if path.with_suffix("").parts[-len(parts) :] == tuple(parts):
        sys.path.append(str(path.parents[len(parts) - 1]))
        importlib.invalidate_caches()
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _traceback(error: BaseException | None) -> str:
    """What happened, from the tool's first frame on."""
    if error is None:
        return ""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _kind(value: object) -> str:
    return f"({type(value).__module__}.{type(value).__qualname__})".replace("(builtins.", "(")


def _tool_error(message: str) -> Exception:
    from kern_async.exceptions import ToolError

    return ToolError(message)


def _die() -> None:
    """End at once, with all that the tools have left in this group."""
    os.killpg(0, signal.SIGKILL)


def _die_with_parent(lifeline: int) -> None:
    """Nothing is ever written to this pipe: what can be read is that its other end is closed.

    On Linux the kernel is told to kill the group then, which needs no cooperation of a process that may be busy in
    C code, with the GIL held. (PR_SET_PDEATHSIG would come when the parent's *thread* ends that started this.)
    Elsewhere a thread watches, which a fork of the tool's has to live with.
    """
    try:
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(lifeline, cast(Any, fcntl).F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        threading.Thread(target=lambda: (os.read(lifeline, 1), _die()), daemon=True).start()
        return
    closed = select.poll()
    closed.register(lifeline, select.POLLIN)
    if closed.poll(0):  # before the kernel was told
        _die()


def _main() -> None:
    connection, lifeline = int(sys.argv[1]), int(sys.argv[2])
    # What the parent's thread blocks or ignores would be inherited, and the tool could not be ended in peace.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for descriptor in (connection, lifeline):
        os.set_inheritable(descriptor, False)
    _die_with_parent(lifeline)
    parent = _Parent(socket.socket(fileno=connection))
    # A fork of the tool's must not keep the connection open when the tool is dead.
    os.register_at_fork(after_in_child=parent.close)
    _serve(parent)
    _die()


if __name__ == "__main__":
    _main()
