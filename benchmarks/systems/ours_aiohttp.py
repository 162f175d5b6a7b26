"""An agent of ours over the aiohttp transport."""

from __future__ import annotations

from benchmarks.systems import ours
from kern_async.models.openai import OpenAIResponses


class System(ours.System):
    def model(self, name: str) -> OpenAIResponses:
        return OpenAIResponses(name, base_url=self._url, api_key="bench", max_retries=0, transport="aiohttp")
