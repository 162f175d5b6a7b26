"""A deadline is a cancel: the same end, said to be the deadline's, on virtual clocks (SPEC §4)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus, Team
from kern_async.run.base import Cancelled
from kern_async.testing.scripted import ScriptedModel, call

from .invariants import check_log, check_messages

pytestmark = pytest.mark.virtual_time


async def for_ever(_request: Any) -> None:
    await anyio.sleep_forever()


def hanging(name: str, **options: Any) -> Agent:
    return Agent(name=name, model=ScriptedModel(name, [["so far ", for_ever]]), **options)


def leader_of(*members: Agent | Team, **options: Any) -> Team:
    asked = [call("delegate_task_to_member", member_id=member.id, task="do") for member in members]
    return Team(name="t", members=members, model=ScriptedModel("t", [asked, "All told."]), **options)


@pytest.mark.parametrize("where", ["run", "agent"])
async def test_an_hour_s_deadline_ends_a_run_after_an_hour(where: str) -> None:
    agent = hanging("a", timeout=3600) if where == "agent" else hanging("a")
    began = anyio.current_time()
    output = await agent.arun("go", **({"timeout": 3600} if where == "run" else {}))
    assert anyio.current_time() - began == pytest.approx(3600, abs=1)
    assert output.status is RunStatus.cancelled
    assert output.cancelled_by == "deadline"
    assert output.reason == "timeout of 3600 s"
    assert output.content == "so far "


async def test_a_team_s_deadline_ends_its_members_as_their_team_s_end() -> None:
    team = leader_of(hanging("a"), leader_of(hanging("b")), timeout=5)
    async with team.arun("go", stream=True, stream_events=True) as stream:
        events = [event async for event in stream]
    check_log(events)
    ends = {event.run_id: event.cancelled_by for event in events if isinstance(event, Cancelled)}
    assert ends.pop(stream.run_id) == "deadline"
    assert set(ends.values()) == {"parent"}
    assert len(ends) == 3


async def test_a_member_s_own_deadline_ends_the_member_and_its_leader_goes_on() -> None:
    team = leader_of(hanging("a", timeout=5))
    output = await team.arun("go")
    assert output.status is RunStatus.completed
    assert output.content == "All told."
    (member,) = output.member_responses
    assert member.cancelled_by == "deadline"
    check_messages(output.messages)
    assert "cancelled (timeout of 5 s)" in str(output.messages[-2].content)


async def test_the_earliest_deadline_wins() -> None:
    output = await leader_of(hanging("a", timeout=50), timeout=5).arun("go")
    assert output.cancelled_by == "deadline"
    assert output.member_responses[0].cancelled_by == "parent"


async def test_a_tool_that_fails_while_the_deadline_cuts_it_does_not_undo_the_cut() -> None:
    async def tool() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("clean-up failed")

    agent = Agent(name="a", model=ScriptedModel("a", [call("tool"), "Never."]), tools=[tool], timeout=5)
    output = await agent.arun("go")
    assert output.status is RunStatus.cancelled
    assert output.cancelled_by == "deadline"
    check_messages(output.messages)


async def test_a_tool_knows_that_the_deadline_is_ending_its_run() -> None:
    seen: list[bool] = []

    async def tool(context: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(context.cancelled)

    from kern_async import RunContext

    tool.__annotations__["context"] = RunContext
    agent = Agent(name="a", model=ScriptedModel("a", [call("tool")]), tools=[tool], timeout=5)
    await agent.arun("go")
    assert seen == [True]
