"""What the test provider does with a request; all of it runs in the server's thread."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from .http import Exchange
from .playing import Player
from .refusing import fault
from .replies import Reply, Status, Step, Text, steps_of
from .request import Json, Request
from .responses import response_body
from .wire import dumps, error_body, new_id

BUILT_IN: Reply = Text("Hello from the test provider.")
_MODEL = {"id": "test-model", "object": "model", "created": 0, "owned_by": "test"}


@dataclass(eq=False)
class Rule:
    """A reply, for the next `times` requests that `when` holds for; None means any number, any request."""

    reply: Reply
    when: Callable[[Request], bool] | None
    times: int | None


class Service:
    """Routes requests, chooses replies and keeps the record; `changed` is called when the record grows.

    The lists may be read, and rules be added, from any thread.
    """

    def __init__(self, changed: Callable[[], None], *, strict: bool) -> None:
        self.rules: list[Rule] = []
        self.default = BUILT_IN
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.errors: list[BaseException] = []
        self._changed = changed
        self._strict = strict

    def forget(self) -> None:
        """Be as new."""
        self.default = BUILT_IN
        for record in (self.rules, self.requests, self.cancelled, self.errors):
            record.clear()

    async def answer(self, exchange: Exchange) -> None:
        """Answer one HTTP request; the task is cancelled when the client leaves."""
        match exchange.head.method, exchange.head.path.split("/")[1:]:
            case "POST", ["v1", "responses"] | ["v1", "chat", "completions"]:
                await self._generate(exchange)
            case "POST", ["v1", "responses", response_id, "cancel"]:
                self._cancel(exchange, response_id)
            case "GET", ["v1", "models"]:
                _respond(exchange, 200, {"object": "list", "data": [_MODEL]})
            case method, _:
                _refuse(exchange, 404, f"Invalid URL ({method} {exchange.head.path})")

    def _cancel(self, exchange: Exchange, response_id: str) -> None:
        self.cancelled.append(response_id)
        self._changed()
        for request in self.requests:
            if request.response_id == response_id:
                _respond(exchange, 200, response_body(request, "cancelled"))
                return
        _refuse(exchange, 404, f"Response with id '{response_id}' not found.")

    async def _generate(self, exchange: Exchange) -> None:
        request = _request(exchange)
        if request is None:
            _refuse(exchange, 400, "We could not parse the JSON body of your request.")
            return

        def first_byte() -> None:
            request.first_byte_at = time.perf_counter()

        def leave() -> None:
            request.settle("disconnected")
            self._changed()

        exchange.on_first_byte = first_byte
        exchange.on_leave = leave
        try:
            wrong = fault(request) if self._strict else None
            steps = self._steps_for(request, wrong)
            await Player(exchange, request, self._changed).play(steps)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  pytest's own outcomes are not Exceptions
            self._fail(exchange, request, error)

    def _steps_for(self, request: Request, wrong: str | None) -> tuple[Step, ...]:
        try:
            reply = Status(400, wrong) if wrong else self._choose(request)
        finally:
            self.requests.append(request)
            self._changed()
        return steps_of(reply(request) if callable(reply) else reply)

    def _choose(self, request: Request) -> Reply:
        for rule in list(self.rules):
            if rule.when is None or rule.when(request):
                if rule.times is not None:
                    rule.times -= 1
                    if rule.times <= 0:
                        self.rules.remove(rule)
                return rule.reply
        return self.default

    def _fail(self, exchange: Exchange, request: Request, error: BaseException) -> None:
        self.errors.append(error)
        request.settle("error")
        self._changed()
        if not exchange.started:  # else the connection ends with the answer unfinished
            # Not a 5xx: clients would try again.
            _refuse(exchange, 400, f"a function given to the test provider failed: {error!r}")


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


def _refuse(exchange: Exchange, status: int, message: str) -> None:
    _respond(exchange, status, error_body(message, code=None, kind="invalid_request_error"))
