"""An agent of ours, with the client that its model makes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.systems import Told
from kern_async.agent import Agent
from kern_async.models.openai import OpenAIResponses


class System:
    def __init__(self, url: str) -> None:
        self._url = url
        self._agents: dict[str, Agent] = {}

    def stream(self, model: str, told: Told) -> tuple[Coroutine[Any, Any, object], Callable[[], object]]:
        agent = self._agent(model)
        stream = agent.arun("go", stream=True)

        async def read() -> None:
            async with stream:
                async for event in stream:
                    if event.event == "RunContent":
                        told(str(event.content))

        return read(), lambda: agent.cancel_run(stream.run_id)

    async def once(self, model: str) -> str:
        return str((await self._agent(model).arun("go")).content)

    def make(self) -> object:
        return Agent(name="bench", model=self._agent("burst 1").model)

    def _agent(self, model: str) -> Agent:
        found = self._agents.get(model)
        if found is None:
            found = self._agents[model] = Agent(name="bench", model=self.model(model))
        return found

    def model(self, name: str) -> OpenAIResponses:
        return OpenAIResponses(name, base_url=self._url, api_key="bench", max_retries=0)

    async def close(self) -> None:
        pass
