"""The `openai` client and tasks: what a user has without a runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import openai

from benchmarks.systems import Told


class System:
    def __init__(self, url: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=url, api_key="bench", max_retries=0)

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        running = list[asyncio.Task[object] | None]()

        async def read() -> None:
            running.append(asyncio.current_task())
            async with await self._client.responses.create(model=model, input="go", stream=True) as events:
                async for event in events:
                    if event.type == "response.output_text.delta":
                        told(event.delta)

        return read(), lambda: [task and task.cancel() for task in running]

    async def once(self, model: str) -> str:
        return (await self._client.responses.create(model=model, input="go")).output_text

    def make(self) -> object:
        return None

    async def close(self) -> None:
        await self._client.close()
