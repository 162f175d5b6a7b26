"""What importing costs, each in a fresh process, one after the other in turn: CPU, the best of the rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.children import QUIET
from benchmarks.figures import Figure
from benchmarks.measure import Scale
from benchmarks.provider import ROOT

LOOPS = ("asyncio",)
TIMED = """
import time
began = time.process_time()
{}
print(time.process_time() - began)
"""
BARE = "import pydantic, anyio, structlog"
OURS = "from kern_async import Agent, Team"
BARE_USED = "import openai; openai.AsyncOpenAI(api_key='bench').responses"
OURS_USED = """
import asyncio
from kern_async import Agent, Team
from kern_async.models.clients import Endpoint, client_for
from kern_async.models.openai import OpenAIResponses
Agent(name='bench', model=OpenAIResponses('bench', api_key='bench'))
async def used():
    async with client_for(Endpoint(api_key='bench', base_url='http://127.0.0.1:9/v1')) as client:
        client.responses
asyncio.run(used())
"""
PEERS = {
    "agno": "from agno.agent import Agent; from agno.team import Team; from agno.models.openai import OpenAIResponses",
    "openai_agents": "from agents import Agent, Runner, OpenAIResponsesModel",
    "pydantic_ai": "from pydantic_ai import Agent; from pydantic_ai.models.openai import OpenAIResponsesModel",
    "langgraph": "from langchain.agents import create_agent; from langchain_openai import ChatOpenAI",
}


async def measure(scale: Scale) -> list[Figure]:
    statements = {"bare": BARE, "ours": OURS, "bare, used": BARE_USED, "ours, used": OURS_USED}
    costs: dict[str, float] = {}
    for _ in range(scale.of(9, 4)):
        for name, statement in statements.items():
            costs[name] = min(costs.get(name, 60), seconds(statement))
        for name, python in scale.peers.items():
            costs[name] = min(costs.get(name, 60), seconds(PEERS[name], python))
    return [
        Figure(
            part="imports",
            what="import Agent and Team, beside pydantic, anyio and structlog",
            unit="ms",
            ours=costs["ours"] * 1e3,
            bare=costs["bare"] * 1e3,
            goal=1.5,
            against="bare",
        ),
        Figure(
            part="imports",
            what="import them and a model, and make its client, beside openai and its `responses`",
            unit="ms",
            ours=costs["ours, used"] * 1e3,
            bare=costs["bare, used"] * 1e3,
            goal=1.15,
            against="bare",
            peers={name: costs[name] * 1e3 for name in scale.peers},
            note="the peers: imported only",
        ),
    ]


def seconds(statement: str, python: Path | None = None) -> float:
    """CPU of it in a fresh process."""
    command = [str(python or sys.executable), "-c", TIMED.format(statement)]
    environment = {**os.environ, **QUIET}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])
