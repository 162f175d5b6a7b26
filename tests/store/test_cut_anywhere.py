"""A run that is cut at any step, and again at any step of what follows, says in the end what an uncut one does.

The strict provider refuses any conversation in which a call has no answer, so the end would not be COMPLETED.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async import Agent, RunStatus, Team
from kern_async.db.in_memory import InMemoryDb
from kern_async.engine.resume import GO_ON
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.base import BaseOutput
from kern_async.run.message import Message
from kern_async.run.team import TeamRunOutput
from kern_async.testing import ProviderServer, Request, Text, ToolCall

from ..agent.crew import Crew, delegate
from ..engine.invariants import check_messages
from .parts import check_stored_as_seen, new_process, tree

SCRIPTS: dict[str, list[tuple[str, list[Any]]]] = {
    "Solo": [
        ("I look. ", [ToolCall("look", {"what": "a"}, "c1"), ToolCall("look", {"what": "b"}, "c2")]),
        ("Now again. ", [ToolCall("look", {"what": "c"}, "c3")]),
        ("All seen, it is fine.", []),
    ],
    "One": [("First I look. ", [ToolCall("look", {"what": "d"}, "c4")]), ("One is done.", [])],
    "Two": [("Two is done, too.", [])],
    "Leader": [("I ask them. ", [delegate("one"), delegate("two")]), ("Both are done.", [])],
}
looked: list[str] = []


async def look(what: str) -> str:
    """Look."""
    looked.append(what)
    return f"saw {what}"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def answering(request: Request) -> Any:
    """What is left to say of the script, as the conversation stands: a real model would see the same."""
    said = "".join(_text(item.get("content")) for item in request.input if item.get("role") == "assistant")
    results = sum(
        item.get("role") == "tool" or item.get("type") == "function_call_output" for item in request.input
    )
    script = SCRIPTS[request.model]
    before = 0
    for text, calls in script:
        needed = before + len(calls)
        whole = "".join(t for t, _ in script[: script.index((text, calls)) + 1])
        if len(said) < len(whole) or (calls and results < needed):
            return [Text(whole[len(said) :]), *calls] if len(said) < len(whole) else list(calls)
        before = needed
    return Text(" ")


def made(crew: Crew, db: Any, mode: str) -> Agent | Team:
    crew.provider.reset()
    crew.provider.default = answering
    solo = Agent(name="Solo", model=crew.model("Solo"), tools=[look], db=db)
    if mode == "agent":
        return solo
    members = [
        Agent(name="One", model=crew.model("One"), tools=[look]),
        Agent(name="Two", model=crew.model("Two")),
    ]
    return Team(members, name="Leader", model=crew.model("Leader"), db=db, store_events=True)


CONTENT = {
    "agent": "I look. Now again. All seen, it is fine.",
    "team": "I ask them. Both are done.",
}


@pytest.mark.parametrize("protocol", [OpenAIResponses, OpenAIChat], ids=["responses", "chat"])
@pytest.mark.parametrize("mode", CONTENT)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
@settings(max_examples=12)
@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=3), fresh=st.booleans())
async def test_it_says_in_the_end_what_an_uncut_run_says(
    provider: ProviderServer, protocol: Any, mode: str, cuts: list[int], fresh: bool
) -> None:
    looked.clear()
    db = InMemoryDb()
    crew = Crew(provider, protocol)
    who = made(crew, db, mode)
    stream: Any = who.arun("Go.", stream=True, stream_events=True)
    seen: list[Any] = []
    output: Any = None
    for cut in [*cuts, None]:
        count = 0
        async with stream:
            async for event in stream:
                seen.append(event)
                count += 1
                if count == cut:
                    stream.cancel()
        output = stream.output
        for each in tree(output):
            check_messages([m for m in each.messages if m.role != "system"])
        await check_stored_as_seen(who, output)
        if output.status is not RunStatus.cancelled:
            break
        if fresh:
            new_process()
            who = made(crew, db, mode)
        stream = who.acontinue_run(run_id=output.run_id, stream=True, stream_events=True)
    await db.aclose()
    assert output.status is RunStatus.completed, output.error
    assert output.content.rstrip() == CONTENT[mode]  # a model that had said all says a space
    if isinstance(
        output, TeamRunOutput
    ):  # a call that was cut before its member began is the leader's to repeat
        for each in output.member_responses:
            assert each.status is RunStatus.completed
            assert str(each.content).rstrip() in ("First I look. One is done.", "Two is done, too.")
    assert [event.event_index for event in seen] == list(range(len(seen)))
    check_each_call_once(output)


def check_each_call_once(output: BaseOutput) -> None:
    for each in tree(output):
        ids = [m.tool_call_id for m in each.messages if m.role == "tool"]
        assert len(set(ids)) == len(ids)
        assert GO_ON not in [
            m.content for m in each.messages if isinstance(m, Message) and m.role == "assistant"
        ]
