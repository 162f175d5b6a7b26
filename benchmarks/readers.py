"""The readers of a streamed response that ours stands beside: the bare client, and the least that we know."""

from __future__ import annotations

import httpx2
import openai
from pydantic_core import from_json

from kern_async.models.sse import SSESplitter

BODY = {"input": "go", "stream": True}


async def bare(client: openai.AsyncOpenAI, model: str) -> tuple[int, str]:
    """Deltas and text that the client's typed events have."""
    count, text = 0, list[str]()
    async with await client.responses.create(model=model, input="go", stream=True) as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                count += 1
                text.append(event.delta)
    return count, "".join(text)


async def floor(client: httpx2.AsyncClient, url: str, model: str) -> tuple[int, str]:
    """The same out of the bytes: an own splitter and nothing else."""
    count, text = 0, list[str]()
    splitter = SSESplitter()
    async with client.stream("POST", f"{url}/responses", json={**BODY, "model": model}) as response:
        async for chunk in response.aiter_bytes():
            for data in splitter.feed(chunk):
                event = from_json(data)
                if event["type"] == "response.output_text.delta":
                    count += 1
                    text.append(event["delta"])
    return count, "".join(text)
