"""The least that we know: HTTP clients that share the streams, an own splitter, and no runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
from pydantic_core import from_json

from benchmarks.systems import Told
from kern_async.models.sse import SSESplitter

PER_CLIENT = 32


class System:
    def __init__(self, url: str) -> None:
        self._url = f"{url}/responses"
        self._context = httpx2.create_ssl_context()
        self._clients: list[httpx2.AsyncClient] = []
        self._streams: list[int] = []

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        running = list[asyncio.Task[object] | None]()

        async def read() -> None:
            running.append(asyncio.current_task())
            place = self._take()
            splitter = SSESplitter()
            try:
                async with self._asked(self._clients[place], model) as response:
                    async for chunk in response.aiter_bytes():
                        for data in splitter.feed(chunk):
                            event = from_json(data)
                            if event["type"] == "response.output_text.delta":
                                told(event["delta"])
            finally:
                self._streams[place] -= 1

        return read(), lambda: [task and task.cancel() for task in running]

    def _asked(self, client: httpx2.AsyncClient, model: str) -> AbstractAsyncContextManager[httpx2.Response]:
        return client.stream("POST", self._url, json={"model": model, "input": "go", "stream": True})

    async def once(self, model: str) -> str:
        place = self._take()
        try:
            response = await self._clients[place].post(self._url, json={"model": model, "input": "go"})
        finally:
            self._streams[place] -= 1
        return from_json(response.content)["output"][0]["content"][0]["text"]

    def _take(self) -> int:
        place = next((n for n, streams in enumerate(self._streams) if streams < PER_CLIENT), None)
        if place is None:
            place = len(self._clients)
            limits = httpx2.Limits(max_connections=None)
            self._clients.append(httpx2.AsyncClient(verify=self._context, limits=limits, timeout=60))
            self._streams.append(0)
        self._streams[place] += 1
        return place

    def make(self) -> object:
        return None

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
