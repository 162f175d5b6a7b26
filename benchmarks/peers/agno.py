"""Agno, the reference: an agent with `OpenAIResponses`, streamed by `arun(stream=True)`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cache
from importlib import import_module
from typing import Any
from uuid import uuid4

from benchmarks.systems import Told


class System:
    def __init__(self, url: str) -> None:
        self._agents: Any = import_module("agno.agent")
        models: Any = import_module("agno.models.openai")

        def model(name: str) -> Any:
            return models.OpenAIResponses(id=name, base_url=url, api_key="bench", max_retries=0)

        self._model = cache(model)
        self._agent = cache(self._made)

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        agent, run_id = self._agent(model), uuid4().hex

        async def read() -> None:
            async for event in agent.arun("go", stream=True, run_id=run_id):
                if event.event == "RunContent" and event.content:
                    told(event.content)

        return read(), lambda: agent.cancel_run(run_id)

    async def once(self, model: str) -> str:
        return (await self._agent(model).arun("go")).content

    def make(self) -> object:
        return self._made("burst 1")

    def _made(self, model: str) -> Any:
        return self._agents.Agent(name="bench", model=self._model(model), telemetry=False)

    async def close(self) -> None:
        pass
