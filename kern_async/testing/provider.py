"""A provider on loopback that speaks OpenAI's protocols and answers what a test tells it to."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio

from .http import Connection
from .replies import Reply, steps_of
from .request import Request
from .service import Rule, Service


class ProviderServer:
    """A fake provider in a thread of its own: `with ProviderServer() as provider: ...`.

    It serves `POST /v1/responses` and `POST /v1/chat/completions`, streamed and not, `GET /v1/models` and
    `POST /v1/responses/{id}/cancel`, for any number of connections. Every method may be called from any
    thread. The system chooses the port if it is 0. With `strict`, conversations that the real provider refuses
    (a tool call without its output, for instance) get its HTTP 400 and use up no reply.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, strict: bool = True) -> None:
        self._address = (host, port)
        self._service = Service(self._change, strict=strict)
        self._connections: set[Connection] = set()
        self._condition = threading.Condition()
        self._changes = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def start(self) -> None:
        """Listen; returns when clients can connect. After a `close` it is the same port again.

        Raises:
            OSError: the address cannot be listened to.
        """
        if self._thread is not None:
            return
        listening: concurrent.futures.Future[tuple[str, int]] = concurrent.futures.Future()
        thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="kern-test-provider", daemon=True
        )
        thread.start()
        try:
            self._address = listening.result()
        except OSError:
            thread.join()
            raise
        self._thread = thread

    def close(self) -> None:
        """Stop listening, drop every connection and end the thread; what was recorded stays.

        Raises:
            RuntimeError: it is called in the server's own thread.
        """
        if self._thread is not None:
            self._call(self._stop.set)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
        if self._service.errors and exc is None:
            raise BaseExceptionGroup("a function given to the test provider failed", self._service.errors)

    @property
    def base_url(self) -> str:
        """What a client takes as its `base_url`."""
        host, port = self._address
        return f"http://{host}:{port}/v1"

    def reply(
        self, reply: Reply, *, when: Callable[[Request], bool] | None = None, times: int | None = 1
    ) -> None:
        """Answer a coming request with this reply: the next one, or the next that `when` holds for.

        Replies are tried in the order in which they were given; each serves `times` requests, None means any
        number. `when`, and a reply that is a function, are called in the server's thread and must not block.

        Raises:
            TypeError: it is no reply.
            ValueError: its steps are in an impossible order.
        """
        self._service.rules.append(Rule(_checked(reply), when, times))

    @property
    def default(self) -> Reply:
        """What is answered when no reply is waiting for the request."""
        return self._service.default

    @default.setter
    def default(self, reply: Reply) -> None:
        self._service.default = _checked(reply)

    @property
    def requests(self) -> list[Request]:
        """The requests for an answer so far, in the order of their arrival."""
        return list(self._service.requests)

    @property
    def cancelled_responses(self) -> list[str]:
        """The ids that `POST /v1/responses/{id}/cancel` was called with."""
        return list(self._service.cancelled)

    @property
    def errors(self) -> list[BaseException]:
        """What functions given to this server raised; leaving the `with` block raises them as a group."""
        return list(self._service.errors)

    @property
    def open_requests(self) -> int:
        """How many requests are being answered now."""
        return sum(request.outcome is None for request in self.requests)

    @property
    def open_connections(self) -> int:
        """How many connections are open now, idle ones too."""
        return len(self._connections)

    def wait_for_request(self, n: int = 1, timeout: float = 10.0) -> Request:
        """Block the calling thread until the n-th request, counted from 1, has arrived.

        Raises:
            TimeoutError: it has not after `timeout` seconds.
        """
        self._wait(lambda: len(self._service.requests) >= n, timeout, f"request {n}")
        return self._service.requests[n - 1]

    def wait_until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Block the calling thread until the predicate holds; it is asked whenever something happens here.

        Raises:
            TimeoutError: it does not hold after `timeout` seconds.
        """
        self._wait(predicate, timeout, "what the test waits for")

    async def await_for_request(self, n: int = 1, timeout: float = 10.0) -> Request:
        """Like `wait_for_request`, for a task; a cancel ends the waiting."""
        await self._await(lambda: len(self._service.requests) >= n, timeout, f"request {n}")
        return self._service.requests[n - 1]

    async def await_until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Like `wait_until`, for a task; a cancel ends the waiting."""
        await self._await(predicate, timeout, "what the test waits for")

    def reset(self) -> None:
        """Drop every connection and forget replies, requests and errors; the default is the built-in again.

        Raises:
            RuntimeError: it is called in the server's own thread.
        """
        if self._thread is not None:
            forgotten: concurrent.futures.Future[None] = concurrent.futures.Future()

            def forget() -> None:
                self._drop()
                self._service.forget()
                self._loop.call_soon(forgotten.set_result, None)  # after the connections' own last calls

            self._call(forget)
            forgotten.result()
        self._service.forget()

    def _wait(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while True:
            seen = self._changes
            if predicate():
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._timed_out(what, timeout)
            with self._condition:
                if self._changes == seen:
                    # What a predicate asks about may change without us, so it is asked now and then in any case.
                    self._condition.wait(min(left, 0.02))

    async def _await(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() >= deadline:
                raise self._timed_out(what, timeout)
            await anyio.sleep(0.001)

    def _timed_out(self, what: str, timeout: float) -> TimeoutError:
        arrived = [f"{request.path} {request.outcome or 'open'}" for request in self._service.requests]
        return TimeoutError(f"{what} did not come within {timeout} s; requests so far: {arrived or 'none'}")

    def _change(self) -> None:
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    def _call(self, callback: Callable[[], object]) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("the test provider's own thread cannot wait for itself")
        self._loop.call_soon_threadsafe(callback)

    async def _serve(self, listening: concurrent.futures.Future[tuple[str, int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        host, port = self._address
        try:
            server = await self._loop.create_server(
                lambda: Connection(self._service.answer, self._connections), host, port, backlog=4096
            )
        except OSError as error:
            listening.set_exception(error)
            return
        try:
            listening.set_result((host, server.sockets[0].getsockname()[1]))
            await self._stop.wait()
        finally:
            # A closed asyncio server leaves a socket that it is accepting open; nothing tells when it has it.
            while self._accepts():  # noqa: ASYNC110
                await asyncio.sleep(0)
            server.close()
            while self._connections or len(asyncio.all_tasks()) > 1:  # some may be on their way in
                self._drop()
                await asyncio.sleep(0)

    def _accepts(self) -> bool:
        answers = {connection.task for connection in self._connections}
        return bool(asyncio.all_tasks() - answers - {asyncio.current_task()})

    def _drop(self) -> None:
        for request in self._service.requests:
            request.settle("error")
        for connection in list(self._connections):
            connection.abort()
        self._change()


def _checked(reply: Reply) -> Reply:
    return reply if callable(reply) else steps_of(reply)


if __name__ == "__main__":
    from kern_async.testing.command import main

    main()
