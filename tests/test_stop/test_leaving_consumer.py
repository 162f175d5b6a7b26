"""A consumer that returns at a member's `RunCancelled`, before its team's end, leaves nothing running."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from typing import Any

import anyio
import pytest

from kern_async import Agent, RunEvent, Team, TeamRunEvent, abandoned
from kern_async.models.openai import OpenAIResponses
from kern_async.run.cancel import get_active_runs
from kern_async.testing import Forever, ProviderServer, Stall, Text, ToolCall

from ..as_a_user import environment

SCRIPT = """
import threading

from kern_async.agent import Agent
from kern_async.models.openai import OpenAIResponses
from kern_async.run.agent import RunEvent
from kern_async.run.base import RunStatus
from kern_async.run.team import TeamRunEvent
from kern_async.team import Team

team = Team(
    name="Storytelling Team",
    members=[Agent(name="Storyteller", model=OpenAIResponses(id="teller"))],
    model=OpenAIResponses(id="leader"),
)
shared = {}
heard = threading.Event()


def consume():
    for chunk in team.run("Tell a very long story.", stream=True):
        shared.setdefault("run_id", chunk.run_id)
        if chunk.event in [TeamRunEvent.run_content, RunEvent.run_content]:
            if chunk.event == RunEvent.run_content:
                heard.set()
        elif chunk.event in [TeamRunEvent.run_cancelled, RunEvent.run_cancelled]:
            shared["result"] = chunk.event
            return
        elif hasattr(chunk, "status") and chunk.status == RunStatus.completed:
            shared["result"] = chunk.status


def cancel():
    heard.wait(20)
    shared["cancelled"] = team.cancel_run(shared["run_id"])


threads = [threading.Thread(target=consume), threading.Thread(target=cancel)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("cancelled" if shared["cancelled"] else "not cancelled", "at", shared["result"], flush=True)
"""


def storytelling_team(provider: ProviderServer) -> Team:
    asked = [Text("I ask them. "), *(ToolCall("delegate_task_to_member", ask(name)) for name in ("a", "b"))]
    provider.reply(asked, when=lambda request: request.model == "leader")
    provider.reply(Forever("word ", 0.001), when=lambda request: request.model == "a", times=None)
    provider.reply([Text("Once "), Stall()], when=lambda request: request.model == "b", times=None)

    def model(name: str) -> OpenAIResponses:
        return OpenAIResponses(id=name, base_url=provider.base_url, api_key="test")

    return Team(members=[Agent(name=name, model=model(name)) for name in ("a", "b")], model=model("leader"))


def ask(member: str) -> dict[str, str]:
    return {"member_id": member, "task": "Tell a very long story."}


def assert_left(provider: ProviderServer) -> None:
    assert not get_active_runs()
    assert not abandoned()
    assert {r.model for r in provider.requests if r.outcome == "disconnected"} == {"a", "b"}
    assert len(provider.requests) == 3


async def test_async_consumer_that_returns_at_a_members_end_leaves_nothing(provider: ProviderServer) -> None:
    team = storytelling_team(provider)
    heard: set[str] = set()

    async def consume() -> Any:
        run_id, cancelled = "", False
        async for chunk in team.arun("Tell a very long story.", stream=True):
            run_id = run_id or chunk.run_id
            if chunk.event == RunEvent.run_content:
                heard.add(chunk.run_id)
                if len(heard) == 2 and not cancelled:
                    cancelled = team.cancel_run(run_id)
                    assert cancelled
            elif chunk.event in (RunEvent.run_cancelled, TeamRunEvent.run_cancelled):
                return chunk
        return None

    with anyio.fail_after(10):
        chunk = await consume()
        assert chunk.event == RunEvent.run_cancelled
        await provider.await_until(lambda: not get_active_runs() and provider.open_requests == 0, timeout=1)
    assert_left(provider)


def test_sync_consumer_that_returns_at_a_members_end_leaves_nothing(provider: ProviderServer) -> None:
    team = storytelling_team(provider)
    known: dict[str, str] = {}
    both_told = threading.Event()

    def consume() -> Any:
        heard: set[str] = set()
        for chunk in team.run("Tell a very long story.", stream=True):
            known.setdefault("run_id", chunk.run_id)
            if chunk.event == RunEvent.run_content:
                heard.add(chunk.run_id)
                if len(heard) == 2:
                    both_told.set()
            elif chunk.event in (RunEvent.run_cancelled, TeamRunEvent.run_cancelled):
                return chunk
        return None

    def cancel() -> None:
        both_told.wait(10)
        team.cancel_run(known["run_id"])

    canceller = threading.Thread(target=cancel)
    canceller.start()
    chunk = consume()
    canceller.join()
    assert chunk.event == RunEvent.run_cancelled
    provider.wait_until(lambda: not get_active_runs() and provider.open_requests == 0, timeout=1)
    assert_left(provider)


def test_sync_consumer_that_breaks_out_ends_its_run(provider: ProviderServer) -> None:
    team = storytelling_team(provider)
    for chunk in team.run("Tell a very long story.", stream=True):
        if chunk.event == RunEvent.run_content:
            break
    gc.collect()
    provider.wait_until(lambda: not get_active_runs() and provider.open_requests == 0, timeout=2)
    assert not abandoned()


@pytest.mark.slow
def test_program_whose_consumer_returns_at_a_members_end_exits_at_once(provider: ProviderServer) -> None:
    asked = ToolCall("delegate_task_to_member", ask("storyteller"))
    provider.reply([Text("I ask. "), asked], when=lambda request: request.model == "leader")
    provider.reply(Forever("word ", 0.001), when=lambda request: request.model == "teller")
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env=environment(OPENAI_BASE_URL=provider.base_url, OPENAI_API_KEY="test"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        said = program.stdout.readline()
        printed_at = time.perf_counter()
        program.wait(20)
        took = time.perf_counter() - printed_at
        assert program.stderr.read() == ""
    assert said == "cancelled at RunCancelled\n"
    assert program.returncode == 0
    assert took < 2, "the exit of the interpreter waits for no run"
    assert [request.model for request in provider.requests] == ["leader", "teller"]
    assert provider.requests[1].outcome == "disconnected"
