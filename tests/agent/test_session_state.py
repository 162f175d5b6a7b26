"""What a run knows and keeps: session state, dependencies, metadata."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from kern_async import RunContext
from kern_async.run.base import RunStatus
from kern_async.testing import Status, Text, ToolCall

from .crew import Crew, events_of


def remember(what: str, context: RunContext) -> str:
    """Keep a word."""
    context.session_state.setdefault("words", []).append(what)
    return "kept"


async def test_a_tool_changes_the_state_of_its_run_only(crew: Crew) -> None:
    own: dict[str, Any] = {"words": ["first"]}
    given = {"more": {"deep": [1]}}
    agent = crew.agent("Solo", ToolCall("remember", {"what": "second"}), tools=[remember], session_state=own)
    output = await agent.arun("Go.", session_state=given)
    assert output.session_state == {"words": ["first", "second"], "more": {"deep": [1]}}
    assert own == {"words": ["first"]}
    assert given == {"more": {"deep": [1]}}
    assert (await agent.arun("Again.")).session_state == {"words": ["first"]}


async def test_two_runs_of_one_agent_at_once_share_no_state(crew: Crew) -> None:
    both = threading.Barrier(2)

    def meet(context: RunContext) -> str:
        """Write, then look when the other run has written too."""
        context.session_state["words"].append(context.run_id)
        context.session_state["run"] = context.run_id
        both.wait(5)
        return ",".join(context.session_state["words"])

    crew.script("Solo", ToolCall("meet"), ToolCall("meet"))
    agent = crew.agent(tools=[meet], session_state={"words": []})
    outputs: list[Any] = []

    async def run(run_id: str) -> None:
        outputs.append(await agent.arun("Go.", run_id=run_id))

    async with anyio.create_task_group() as group:
        group.start_soon(run, "one")
        group.start_soon(run, "two")
    for output in outputs:
        assert output.session_state == {"words": [output.run_id], "run": output.run_id}
        assert output.tools[0].result == output.run_id


async def test_the_model_changes_the_state_with_enable_agentic_state(any_crew: Crew) -> None:
    agent = any_crew.agent(
        "Solo",
        ToolCall("update_session_state", {"session_state_updates": {"mood": "good", "count": 2}}),
        enable_agentic_state=True,
        session_state={"count": 1, "kept": True},
    )
    events = await events_of(agent)
    assert any_crew.requests()[0].tool_names == ["update_session_state"]
    assert events[-1].session_state == {"count": 2, "kept": True, "mood": "good"}


async def test_without_enable_agentic_state_there_is_no_such_tool(crew: Crew) -> None:
    await crew.agent(session_state={"count": 1}).arun("Go.")
    assert crew.requests()[0].tools == []


async def test_a_failed_run_keeps_the_state_so_far(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("remember", {"what": "kept"}), Status(400), tools=[remember])
    output = await agent.arun("Go.")
    assert output.status is RunStatus.error
    assert output.session_state == {"words": ["kept"]}


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_tool_is_told_of_its_run(crew: Crew, kind: str) -> None:
    seen: list[RunContext] = []

    def look(context: RunContext) -> None:
        seen.append(context)

    async def alook(context: RunContext) -> None:
        seen.append(context)

    tool = look if kind == "sync" else alook
    agent = crew.agent("Solo", ToolCall(tool.__name__, id="call-1"), Text("Done."), tools=[tool])
    dependencies = {"client": object()}
    await agent.arun(
        "Go.",
        run_id="the-run",
        session_id="the-session",
        user_id="ada",
        dependencies=dependencies,
        metadata={"m": 1},
    )
    (context,) = seen
    assert (context.run_id, context.session_id, context.user_id) == ("the-run", "the-session", "ada")
    assert context.dependencies["client"] is dependencies["client"], "dependencies are not copied"
    assert context.metadata == {"m": 1}
    assert context.tool_call_id == "call-1"
    assert "context" not in crew.requests()[0].tools[0]["parameters"]["properties"]


async def test_ids_come_from_the_agent_where_the_run_says_none(crew: Crew) -> None:
    agent = crew.agent(session_id="of the agent", user_id="ada")
    output = await agent.arun("Go.")
    assert (output.session_id, output.user_id) == ("of the agent", "ada")
    fresh = await crew.agent().arun("Go.")
    other = await crew.agent().arun("Go.")
    assert fresh.session_id != other.session_id
