"""A provider on loopback that speaks OpenAI's protocols and answers what a test tells it to."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import anyio

from .http import Connection, Exchange
from .playing import Player
from .replies import Reply, Step, Text, steps_of
from .request import Json, Request
from .responses import response_body
from .wire import dumps, error_body, new_id

_BUILT_IN: Reply = Text("Hello from the test provider.")
_ANSWERED = ("/v1/responses", "/v1/chat/completions")


@dataclass(eq=False)
class _Rule:
    reply: Reply
    when: Callable[[Request], bool] | None
    times: int | None


class ProviderServer:
    """A fake provider in a thread of its own: `with ProviderServer() as provider: ...`.

    It serves `POST /v1/responses` and `POST /v1/chat/completions`, streamed and not, `GET /v1/models` and
    `POST /v1/responses/{id}/cancel`, at `base_url`, for any number of connections. Every method may be called
    from any thread. The system chooses the port if it is 0.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._address = (host, port)
        self._rules: list[_Rule] = []
        self._default = _BUILT_IN
        self._requests: list[Request] = []
        self._cancelled: list[str] = []
        self._errors: list[BaseException] = []
        self._connections: set[Connection] = set()
        self._condition = threading.Condition()
        self._changes = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def start(self) -> None:
        """Listen; returns when clients can connect.

        Raises:
            OSError: the address cannot be listened to.
        """
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
        """Stop listening, drop every connection and end the thread; what was recorded stays."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def __enter__(self) -> ProviderServer:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
        if self._errors and exc is None:
            raise BaseExceptionGroup("a function given to the test provider failed", self._errors)

    @property
    def base_url(self) -> str:
        """What a client takes as its `base_url`."""
        host, port = self._address
        return f"http://{host}:{port}/v1"

    def reply(
        self, reply: Reply, *, when: Callable[[Request], bool] | None = None, times: int | None = 1
    ) -> None:
        """Answer a coming request with this reply: the first that `when` holds for, or the next one.

        Replies are tried in the order in which they were given; each serves `times` requests, None means any
        number. `when` and a reply that is a function are called in the server's thread and must not block.

        Raises:
            TypeError: it is no reply.
            ValueError: its steps are in an impossible order.
        """
        if not callable(reply):
            steps_of(reply)
        with self._condition:
            self._rules.append(_Rule(reply, when, times))

    @property
    def default(self) -> Reply:
        """What is answered when no reply is waiting for the request."""
        return self._default

    @default.setter
    def default(self, reply: Reply) -> None:
        if not callable(reply):
            steps_of(reply)
        self._default = reply

    @property
    def requests(self) -> list[Request]:
        """The requests for an answer so far, in the order of their arrival."""
        return list(self._requests)

    @property
    def cancelled_responses(self) -> list[str]:
        """The ids that `POST /v1/responses/{id}/cancel` was called with."""
        return list(self._cancelled)

    @property
    def errors(self) -> list[BaseException]:
        """What functions given to this server raised; leaving the `with` block raises them as a group."""
        return list(self._errors)

    @property
    def open_requests(self) -> int:
        """How many requests are being answered now."""
        return sum(request.outcome is None for request in self._requests)

    @property
    def open_connections(self) -> int:
        """How many connections are open now, idle ones too."""
        return len(self._connections)

    def wait_for_request(self, n: int = 1, timeout: float = 10.0) -> Request:
        """Block the calling thread until the n-th request, counted from 1, has arrived.

        Raises:
            TimeoutError: it has not after `timeout` seconds.
        """
        self._wait(lambda: len(self._requests) >= n, timeout, f"request {n}")
        return self._requests[n - 1]

    def wait_until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Block the calling thread until the predicate holds; it is asked whenever something happens here.

        Raises:
            TimeoutError: it does not hold after `timeout` seconds.
        """
        self._wait(predicate, timeout, "what the test waits for")

    async def await_for_request(self, n: int = 1, timeout: float = 10.0) -> Request:
        """Like `wait_for_request`, for a task; a cancel ends the waiting."""
        await self._await(lambda: len(self._requests) >= n, timeout, f"request {n}")
        return self._requests[n - 1]

    async def await_until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Like `wait_until`, for a task; a cancel ends the waiting."""
        await self._await(predicate, timeout, "what the test waits for")

    def reset(self) -> None:
        """Drop every connection and forget replies, requests and errors; the default is the built-in again."""
        with self._condition:
            self._rules.clear()
        if self._thread is not None:
            dropped: concurrent.futures.Future[None] = concurrent.futures.Future()

            def drop() -> None:
                self._drop()
                self._loop.call_soon(dropped.set_result, None)

            self._loop.call_soon_threadsafe(drop)
            dropped.result()
        self._default = _BUILT_IN
        self._requests.clear()
        self._cancelled.clear()
        self._errors.clear()

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
        arrived = [f"{request.path} {request.outcome or 'open'}" for request in self._requests]
        return TimeoutError(f"{what} did not come within {timeout} s; requests so far: {arrived or 'none'}")

    def _changed(self) -> None:
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    async def _serve(self, listening: concurrent.futures.Future[tuple[str, int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        host, port = self._address
        try:
            server = await self._loop.create_server(
                lambda: Connection(self._answer, self._connections), host, port, backlog=4096
            )
        except OSError as error:
            listening.set_exception(error)
            return
        try:
            listening.set_result((host, server.sockets[0].getsockname()[1]))
            await self._stop.wait()
        finally:
            server.close()
            while self._connections or len(asyncio.all_tasks()) > 1:  # some may be on their way in
                self._drop()
                await asyncio.sleep(0)

    def _drop(self) -> None:
        for request in self._requests:
            request.settle("error")
        for connection in list(self._connections):
            connection.abort()
        self._changed()

    async def _answer(self, exchange: Exchange) -> None:
        route = exchange.head.path
        method = exchange.head.method
        if method == "POST" and route in _ANSWERED:
            await self._answer_model_request(exchange)
        elif method == "POST" and route.startswith("/v1/responses/") and route.endswith("/cancel"):
            self._cancel(exchange, route.split("/")[3])
        elif method == "GET" and route == "/v1/models":
            model = {"id": "test-model", "object": "model", "created": 0, "owned_by": "test"}
            _respond(exchange, 200, {"object": "list", "data": [model]})
        else:
            kind = "invalid_request_error"
            _respond(exchange, 404, error_body(f"Invalid URL ({method} {route})", code=None, kind=kind))

    def _cancel(self, exchange: Exchange, response_id: str) -> None:
        self._cancelled.append(response_id)
        self._changed()
        for request in self._requests:
            if request.response_id == response_id:
                _respond(exchange, 200, response_body(request, "cancelled"))
                return
        message = f"Response with id '{response_id}' not found."
        _respond(exchange, 404, error_body(message, code=None, kind="invalid_request_error"))

    async def _answer_model_request(self, exchange: Exchange) -> None:
        request = _request(exchange)
        if request is None:
            message = "We could not parse the JSON body of your request."
            _respond(exchange, 400, error_body(message, code=None, kind="invalid_request_error"))
            return

        def first_byte() -> None:
            request.first_byte_at = time.perf_counter()

        def left() -> None:
            request.settle("disconnected")
            self._changed()

        exchange.on_first_byte = first_byte
        exchange.on_leave = left
        try:
            await Player(exchange, request, self._changed).play(self._steps_for(request))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failed(exchange, request, error)

    def _steps_for(self, request: Request) -> tuple[Step, ...]:
        try:
            reply = self._choose(request)
        finally:
            self._requests.append(request)
            self._changed()
        return steps_of(reply(request) if callable(reply) else reply)

    def _choose(self, request: Request) -> Reply:
        with self._condition:
            rules = list(self._rules)
        for rule in rules:
            if rule.when is None or rule.when(request):
                with self._condition:
                    if rule.times is not None:
                        rule.times -= 1
                        if rule.times <= 0 and rule in self._rules:
                            self._rules.remove(rule)
                return rule.reply
        return self._default

    def _failed(self, exchange: Exchange, request: Request, error: BaseException) -> None:
        self._errors.append(error)
        request.settle("error")
        self._changed()
        if exchange.started:
            exchange.cut(reset=False)
        else:
            # Not a 5xx, which clients try again.
            message = f"a function given to the test provider failed: {error!r}"
            _respond(exchange, 400, error_body(message, code="test_failed", kind="invalid_request_error"))


def _request(exchange: Exchange) -> Request | None:
    received_at = time.perf_counter()
    try:
        body: object = json.loads(exchange.body)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    path = exchange.head.path
    return Request(
        path=path,
        headers=exchange.head.headers,
        body=cast(Json, body),
        response_id=new_id("chatcmpl" if path.endswith("/chat/completions") else "resp"),
        received_at=received_at,
    )


def _respond(exchange: Exchange, status: int, body: Json) -> None:
    exchange.respond(status, dumps(body).encode(), {"content-type": "application/json"})


if __name__ == "__main__":
    from kern_async.testing.command import main

    main()
