"""Mode `broadcast`: all members at once, then the leader."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async.run.base import RunStatus
from kern_async.run.media import Image
from kern_async.run.message import Message
from kern_async.testing import Status, Text

from ..agent.crew import Crew, Together, events_of, in_order


@pytest.mark.parametrize("options", [{"mode": "broadcast"}, {"delegate_to_all_members": True}], ids=str)
async def test_all_members_get_the_input_at_the_same_time_and_the_leader_answers(
    any_crew: Crew, options: dict[str, Any]
) -> None:
    together = Together(3)
    members = [any_crew.agent(name, together.then(Text(f"{name}!"))) for name in ("A", "B", "C")]
    team = any_crew.team(Text("Well done."), members=members, **options)
    with anyio.fail_after(5):
        output = await team.arun("Say your name.")
    assert [request.model for request in any_crew.provider.requests][-1] == "Leader"
    assert {any_crew.requests(name)[0].last_text for name in "ABC"} == {"Say your name."}
    (leading,) = any_crew.requests("Leader")
    assert leading.tools == [], "models that cannot call tools can lead"
    assert leading.text.index("Say your name.") < leading.text.index("A:\nA!")
    assert (output.status, output.content) == (RunStatus.completed, "Well done.")
    assert sorted(str(member.content) for member in output.member_responses) == ["A!", "B!", "C!"]


async def test_the_leader_hears_the_members_in_their_order(crew: Crew) -> None:
    replies, finished = in_order("B", "A")
    members = [crew.agent(name, replies[name]) for name in ("A", "B")]
    with anyio.fail_after(5):
        await crew.team(members=members, mode="broadcast").arun("Go.")
    assert finished == ["B", "A"]
    told = crew.requests("Leader")[0].last_text
    assert told.index("A says so.") < told.index("B says so.")


async def test_the_leader_is_told_who_failed(crew: Crew) -> None:
    members = [crew.agent("A", Status(400, "bad luck")), crew.agent("B", Text("Here."))]
    output = await crew.team(Text("We tried."), members=members, mode="broadcast").arun("Go.")
    told = crew.requests("Leader")[0].last_text
    assert "Member A failed with ModelStatusError" in told
    assert "B:\nHere." in told
    assert (output.status, output.content) == (RunStatus.completed, "We tried.")


async def test_members_get_the_whole_message(crew: Crew) -> None:
    given = Message(role="user", content="What is it?", images=(Image(content=b"png"),))
    await crew.team(members=[crew.agent("A"), crew.agent("B")], mode="broadcast").arun(given)
    for name in ("A", "B", "Leader"):
        parts = crew.requests(name)[0].input[0]["content"]
        assert [part["type"] for part in parts] == ["input_text", "input_image"]


async def test_members_words_are_told_apart_in_the_stream(crew: Crew) -> None:
    members = [crew.agent("A", Text("I am A.")), crew.agent("B", Text("I am B."))]
    events = await events_of(crew.team(Text("Two."), members=members, mode="broadcast"), stream_events=False)
    said: dict[str, str] = {}
    for event in events:
        if event.event in ("RunContent", "TeamRunContent"):
            who = getattr(event, "agent_name", None) or event.team_name
            said[who] = said.get(who, "") + event.content
    assert said == {"A": "I am A.", "B": "I am B.", "Leader": "Two."}
    assert events[0].event == "TeamRunStarted"
    assert (events[-1].event, events[-1].content) == ("TeamRunCompleted", "Two.")
