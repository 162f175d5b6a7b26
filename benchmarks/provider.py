"""The provider's process, as a benchmark sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from kern_async.models.openai import OpenAIResponses

ROOT = Path(__file__).parent.parent


@dataclass
class Provider:
    url: str
    process: subprocess.Popen[str]

    def tell(self, command: str) -> dict[str, Any]:
        """What it answers to a command, see `servers/provider.py`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    async def atell(self, command: str) -> dict[str, Any]:
        return await asyncio.get_running_loop().run_in_executor(None, self.tell, command)


@contextlib.contextmanager
def provider() -> Generator[Provider]:
    """Start a provider, and end it."""
    command = [sys.executable, "-m", "benchmarks.servers.provider"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield Provider(process.stdout.readline().strip(), process)
        finally:
            process.kill()


def bare_client(url: str) -> openai.AsyncOpenAI:
    """What users have without a runtime."""
    return openai.AsyncOpenAI(base_url=url, api_key="bench", max_retries=0)


def model(name: str, url: str) -> OpenAIResponses:
    """The same provider for a run."""
    return OpenAIResponses(name, base_url=url, api_key="bench")
