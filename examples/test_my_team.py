"""Tests of a team of one's own, without a key or a network: `pytest examples/test_my_team.py`.

`ScriptedModel` says what the test tells it to, inside the process. `ProviderServer` speaks OpenAI's protocol on a
real socket, and sees when a client leaves. Asynchronous tests are run by anyio's pytest plugin, which comes with it.
"""

from __future__ import annotations

import anyio
import pytest

from kern_async import Agent, RunEvent, RunStatus, Team, TeamRunEvent
from kern_async.models.base import Model
from kern_async.models.openai import OpenAIResponses
from kern_async.run.team import TeamEvent
from kern_async.testing import Hang, ProviderServer
from kern_async.testing.leaks import LeakCheck
from kern_async.testing.scripted import ScriptedModel, call

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def my_team(leader: Model, writer: Model) -> Team:
    return Team(name="Desk", model=leader, members=[Agent(name="Writer", model=writer)])


async def test_the_writer_writes_and_the_leader_answers() -> None:
    leader = ScriptedModel(
        "leader", [call("delegate_task_to_member", member_id="writer", task="A haiku."), "Done."]
    )
    writer = ScriptedModel("writer", [["An old ", "silent pond"]])

    output = await my_team(leader, writer).arun("Write a haiku.")

    assert output.status is RunStatus.completed
    assert output.content == "Done."
    assert output.member_responses[0].content == "An old silent pond"
    assert writer.requests[0].messages[-1].content == "A haiku."


async def test_a_cancel_keeps_what_the_writer_had_written() -> None:
    begun = anyio.Event()

    async def be_slow(request: object) -> None:
        begun.set()
        await anyio.sleep_forever()

    leader = ScriptedModel("leader", [call("delegate_task_to_member", member_id="writer", task="A novel.")])
    writer = ScriptedModel("writer", [["It was a dark ", be_slow, "and stormy night"]])
    team = my_team(leader, writer)
    check = LeakCheck()

    async def stop(run_id: str) -> None:
        await begun.wait()
        assert team.cancel_run(run_id, reason="too long")

    events = team.arun("Write a novel.", stream=True)
    seen: list[TeamEvent] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop, events.run_id)
        seen += [event async for event in events]

    assert [event.event for event in seen[-2:]] == [RunEvent.run_cancelled, TeamRunEvent.run_cancelled]
    assert seen[-2].content == "It was a dark "
    assert events.output is not None
    assert events.output.reason == "too long"
    await check.asettle()  # no task, socket, thread or live run is left


async def test_a_provider_that_never_answers_is_left_at_the_deadline() -> None:
    with ProviderServer() as provider:
        provider.default = Hang()
        model = OpenAIResponses(id="gpt-5.2", base_url=provider.base_url, api_key="test")
        output = await my_team(model, model).arun("Write a haiku.", timeout=0.2)
        assert output.cancelled_by == "deadline"
        await provider.await_until(lambda: provider.open_requests == 0)
        assert [request.outcome for request in provider.requests] == ["disconnected"]
        await model.aclose()
