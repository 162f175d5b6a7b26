"""LangGraph: LangChain's `create_agent` with `ChatOpenAI` and the Responses API, streamed as messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cache
from importlib import import_module
from typing import Any

from benchmarks.systems import Told

ASKED = {"messages": [{"role": "user", "content": "go"}]}


class System:
    def __init__(self, url: str) -> None:
        self._chain: Any = import_module("langchain.agents")
        models: Any = import_module("langchain_openai")

        def model(name: str) -> Any:
            return models.ChatOpenAI(
                model=name, base_url=url, api_key="bench", max_retries=0, use_responses_api=True
            )

        self._model = cache(model)
        self._agent = cache(self._made)

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        running = list[asyncio.Task[object] | None]()

        async def read() -> None:
            running.append(asyncio.current_task())
            # `text` is a property in this version, and a chunk without text has an empty one.
            async for chunk, _ in self._agent(model).astream(ASKED, stream_mode="messages"):
                if chunk.text:
                    told(str(chunk.text))

        return read(), lambda: [task and task.cancel() for task in running] and None

    async def once(self, model: str) -> str:
        return str((await self._agent(model).ainvoke(ASKED))["messages"][-1].text)

    def make(self) -> object:
        return self._made("burst 1")

    def _made(self, model: str) -> Any:
        return self._chain.create_agent(self._model(model), tools=[])

    async def close(self) -> None:
        pass
