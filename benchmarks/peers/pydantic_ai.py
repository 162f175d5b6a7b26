"""Pydantic AI: `OpenAIResponsesModel`, streamed by `run_stream` and `stream_text(delta=True)` without debouncing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache
from importlib import import_module
from typing import Any

import openai

from benchmarks.systems import Told


class System:
    def __init__(self, url: str) -> None:
        self._ai: Any = import_module("pydantic_ai")
        models: Any = import_module("pydantic_ai.models.openai")
        providers: Any = import_module("pydantic_ai.providers.openai")
        self._client = openai.AsyncOpenAI(base_url=url, api_key="bench", max_retries=0)
        provider = providers.OpenAIProvider(openai_client=self._client)

        def model(name: str) -> Any:
            return models.OpenAIResponsesModel(name, provider=provider)

        self._model = cache(model)
        self._agent = cache(self._made)

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        token = self._ai.CancellationToken()

        async def read() -> None:
            async with self._agent(model).run_stream("go", cancellation_token=token) as result:
                async for delta in result.stream_text(delta=True, debounce_by=None):
                    told(delta)

        return read(), token.cancel

    async def once(self, model: str) -> str:
        return (await self._agent(model).run("go")).output

    def make(self) -> object:
        return self._made("burst 1")

    def _made(self, model: str) -> Any:
        return self._ai.Agent(self._model(model), name="bench")

    async def close(self) -> None:
        await self._client.close()
