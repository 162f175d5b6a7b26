"""The OpenAI Agents SDK: `OpenAIResponsesModel`, streamed by `Runner.run_streamed`, without its tracing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache
from importlib import import_module
from typing import Any

import openai

from benchmarks.systems import Told


class System:
    def __init__(self, url: str) -> None:
        self._agents: Any = import_module("agents")
        self._agents.set_tracing_disabled(True)
        self._client = openai.AsyncOpenAI(base_url=url, api_key="bench", max_retries=0)

        def model(name: str) -> Any:
            return self._agents.OpenAIResponsesModel(model=name, openai_client=self._client)

        self._model = cache(model)
        self._agent = cache(self._made)

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        running: list[Any] = []

        async def read() -> None:
            result = self._agents.Runner.run_streamed(self._agent(model), "go")
            running.append(result)
            async for event in result.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    told(event.data.delta)

        return read(), lambda: [result.cancel(mode="immediate") for result in running] and None

    async def once(self, model: str) -> str:
        return (await self._agents.Runner.run(self._agent(model), "go")).final_output

    def make(self) -> object:
        return self._made("burst 1")

    def _made(self, model: str) -> Any:
        return self._agents.Agent(name="bench", model=self._model(model))

    async def close(self) -> None:
        await self._client.close()
