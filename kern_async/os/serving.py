"""Serving an app, with the signals in our own hands.

uvicorn alone waits, after a signal, until all open streams have ended, then ends the lifespan, and exits with the
signal's own code. Here the live runs are ended first, which ends their streams, and the exit code is 0.
"""

from __future__ import annotations

import contextvars
import importlib.util
import itertools
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from uvicorn.importer import import_from_string

from kern_async.backend import current_loop
from kern_async.exceptions import ConfigurationError
from kern_async.observe import log

from .agent_os import OPEN
from .browser import LocalNames
from .sse import Abortable

if TYPE_CHECKING:
    from .agent_os import AgentOS

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_WORDS = 2
"""Seconds that connections have for their last bytes, once all runs have ended."""


class _Server(uvicorn.Server):
    """uvicorn's server, but that it leaves signals alone."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def serve(
    agent_os: AgentOS,
    app: Any,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], object] | None,
    options: dict[str, Any],
) -> None:
    """See `AgentOS.serve`."""
    for name in ("reload", "workers"):
        if options.pop(name, None):
            log("warning", "server.option_ignored", option=name)  # one process, which owns its signals
    if isinstance(app, str):
        app = import_from_string(app)
    sockets = _listen(host, port)
    try:
        agent_os.serving = True
        security = agent_os.security
        chosen: dict[str, Any] = {
            "log_level": "warning",
            "timeout_graceful_shutdown": _LAST_WORDS,
            "http": "h11",  # uvicorn's other parser reads headers of any size
            "h11_max_incomplete_event_size": security.max_header_bytes,
            **options,
        }
        if not (security.guarded or security.allow_unauthenticated):
            app = LocalNames(app)
        config = uvicorn.Config(Abortable(app), **chosen)
        anyio.run(
            _serve,
            agent_os,
            config,
            sockets,
            on_ready,
            backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None},
        )
    finally:
        agent_os.serving = False
        for each in sockets:
            each.close()


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of the host, all on one port.

    Raises:
        ConfigurationError: there is none, or the port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                each = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                continue  # the machine has no such addresses
            sockets.append(each)
            if sys.platform != "win32":
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound = sockets[0].getsockname()[1] if not port and len(sockets) > 1 else port
            try:
                each.bind((address[0], bound, *address[2:]))
                each.listen(2048)
            except OSError as error:
                if len(found) > 1 and family == socket.AF_INET6 and error.errno != 98:
                    sockets.remove(each)
                    each.close()
                    continue
                raise
        if not sockets:
            raise OSError("the machine has no such address")
    except OSError as error:
        for each in sockets:
            each.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another host= or port="
        ) from None
    return sockets


async def _serve(
    agent_os: AgentOS,
    config: uvicorn.Config,
    sockets: list[socket.socket],
    on_ready: Callable[[str], object] | None,
) -> None:
    server = _Server(config)
    asked: list[float | None] = []
    loop, bell = current_loop(), anyio.Event()

    def ask(grace: float | None) -> None:
        # On the loop, but in the context of whoever asks: a task cannot be started in it.
        asked.append(grace)
        bell.set()

    async def stop() -> None:
        nonlocal bell
        async with anyio.create_task_group() as stops:
            while True:
                await bell.wait()
                bell = anyio.Event()
                while asked:
                    stops.start_soon(end, asked.pop(0))

    async def end(grace: float | None) -> None:
        async with anyio.create_task_group() as ends:
            for each in {agent_os, *OPEN}:
                ends.start_soon(each.shutdown, grace)
        server.should_exit = True

    signals, failed = itertools.count(), False
    with _signals(lambda _number: ask(0.0 if next(signals) else None), chain=False):
        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            if on_ready is not None:
                group.start_soon(_tell, server, sockets, on_ready)
            agent_os.stopper = lambda grace: loop.soon(ask, grace)
            try:
                await server.serve(sockets)
            except SystemExit:
                failed = True
            finally:
                agent_os.stopper = None
            await agent_os.shutdown()
            group.cancel_scope.cancel()
    if failed:
        raise ConfigurationError("the application did not start; uvicorn's log says why")


async def _tell(
    server: uvicorn.Server, sockets: list[socket.socket], on_ready: Callable[[str], object]
) -> None:
    while not server.started:  # noqa: ASYNC110 - uvicorn says it nowhere else
        await anyio.sleep(0.01)
    address, port = sockets[0].getsockname()[:2]
    on_ready(f"http://{f'[{address}]' if ':' in address else address}:{port}")


@contextmanager
def _signals(on_signal: Callable[[int], object], *, chain: bool) -> Generator[None]:
    """Call it in the running event loop for each signal that ends a server; outside the main thread, nothing happens.

    `chain` says that whoever handled the signal before gets it, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = current_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handler(number: int, frame: FrameType | None) -> None:
        loop.soon(on_signal, number)
        then = before[signal.Signals(number)]
        if chain and callable(then):
            then(number, frame)

    for number in _SIGNALS:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, then in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, then)


@contextmanager
def chained_signals(agent_os: AgentOS) -> Generator[None]:
    """For an app that somebody else serves: shut down at a signal, and let its own handler have that, too.

    A second signal ends the grace. Where nothing handles the signal, it ends the process, as it would have, once the
    runs have ended.
    """
    loop, context, signals = current_loop(), contextvars.copy_context(), itertools.count()
    unhandled = {number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL}

    def on_signal(number: int) -> None:
        grace = 0.0 if next(signals) else None

        async def stop() -> None:
            await agent_os.shutdown(grace)
            if number in unhandled:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        # Nothing encloses it: the host's lifespan is suspended, and its requests go on.
        loop.spawn(stop, name="kern-shutdown", on_lost=lambda: None, context=context.copy())

    with _signals(on_signal, chain=True):
        yield
