"""Promises of the whole, each shown once from end to end with a strict provider."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kern_async import Agent, RunContext, RunLimits, RunStatus, abandoned, cancel_run
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.cancel import get_active_runs
from kern_async.run.message import Message
from kern_async.testing import Pause, ProviderServer, Reasoning, Request, Text, ToolCall, Usage
from kern_async.testing.replies import Steps

from ..agent.crew import Crew, delegate, results
from ..control.stage import by_name, tree
from ..engine.invariants import check_log, check_messages

PROTOCOLS = pytest.mark.parametrize("protocol", [OpenAIResponses, OpenAIChat], ids=["responses", "chat"])
TOOLS = {"quick": "at once", "slow": "at last", "thread": "counted", "pieces": "one two"}
"""The tools that are called side by side, and what they give."""


async def quick() -> str:
    await anyio.lowlevel.checkpoint()
    return "at once"


async def slow(context: RunContext) -> str:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    context.report("nearly")
    await anyio.sleep(0.002)
    return "at last"


def thread() -> str:
    return "counted"


def pieces() -> Generator[str]:
    yield "one "
    yield "two"


def answer(request: Request) -> Steps:
    """Four calls at once, then a text, and to whatever is said later another."""
    if request.last_text == "Go.":
        calls = [step for name in TOOLS for step in (Pause(0.001), ToolCall(name))]
        return [Reasoning("I see."), Text("Let me see. "), *calls]
    return Text("Fine." if request.last_text == "And now?" else "All is well.")


@PROTOCOLS
@settings(max_examples=40)
@given(
    seen=st.integers(0, 22),
    steps=st.integers(0, 30),
    mode=st.sampled_from(["now", "now", "after_tools", "after_turn"]),
    number=st.uuids(),
)
async def test_parallel_calls_cut_at_any_instant_leave_a_conversation_that_the_provider_takes(
    protocol: type[OpenAIResponses | OpenAIChat],
    provider: ProviderServer,
    seen: int,
    steps: int,
    mode: Any,
    number: Any,
) -> None:
    """The instant is so many steps of the event loop after so many events."""
    provider.default = answer
    model = protocol(id=str(number), api_key="key", base_url=provider.base_url, max_retries=0)
    agent = Agent(name="Solo", model=model, tools=[quick, slow, thread, pieces])
    events: list[Any] = []
    cut: list[bool] = []
    enough = anyio.Event()
    if not seen:
        enough.set()

    async def canceller() -> None:
        await enough.wait()
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        cut.append(cancel_run(stream.run_id, mode=mode))

    stream = agent.arun("Go.", stream=True, stream_events=True)
    async with anyio.create_task_group() as group:
        group.start_soon(canceller)
        async with stream:
            async for each in stream:
                events.append(each)
                if len(events) == seen:
                    enough.set()
        enough.set()

    output = stream.output
    assert output is not None
    assert output.status is (RunStatus.cancelled if cut == [True] else RunStatus.completed)
    check_log(events)
    check_messages(output.messages)
    finished = {e.tool.tool_name for e in events if e.event == "ToolCallCompleted"}
    answers = {str(m.tool_name): m.content for m in output.messages if m.role == "tool"}
    assert answers == {name: TOOLS[name] if name in finished else "cancelled" for name in answers}
    assert answers.keys() in (set(), TOOLS.keys()), "an answer that was cut calls nothing"
    event(f"{len(finished)} of {len(answers)} calls finished, {output.status}")

    later = await agent.arun([*output.messages, Message(role="user", content="And now?")])
    assert (later.status, later.content, later.error) == (RunStatus.completed, "Fine.", None)
    last = [request for request in provider.requests if request.model == str(number)][-1]
    assert sorted(results(last)) == sorted(map(str, answers.values()))
    with anyio.fail_after(5):
        while abandoned():  # noqa: ASYNC110 - a thread that was cut may be on its way out
            await anyio.sleep(0.001)
    assert not get_active_runs()


@PROTOCOLS
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "awaited"])
async def test_a_limit_on_tokens_stops_a_runaway_team_whose_counts_are_the_providers(
    protocol: type[OpenAIResponses | OpenAIChat], streamed: bool, provider: ProviderServer
) -> None:
    """Three members that call a tool for ever, at the same time, and a leader that would ask them again."""
    crew = Crew(provider, protocol)
    usages: list[tuple[str, Usage]] = []
    numbers = itertools.count(1)

    def reply(name: str, *steps: Any, request: Request) -> Any:
        number = next(numbers)
        usages.append((name, Usage(80 + number, 20 + number, reasoning=number, cached=2 * number)))
        return [usages[-1][1], *steps]

    names = ["One", "Two", "Three"]
    members = [crew.agent(name, tools=[quick]) for name in names]
    scripts: dict[str, list[Any]] = {name: [ToolCall("quick")] for name in names}
    scripts["Leader"] = [delegate(name.lower()) for name in names]
    for name, steps in scripts.items():
        provider.reply(
            lambda request, name=name, steps=steps: reply(name, *steps, request=request),
            when=lambda request, name=name: request.model == name,
            times=None,
        )
    team = crew.team(members=members)
    run = partial(team.arun, "Go.", limits=RunLimits(total_tokens=2000))
    if streamed:
        async with run(stream=True) as stream:
            async for _ in stream:
                pass
        output: Any = stream.output
    else:
        output = await run()

    assert (output.status, output.cancelled_by) == (RunStatus.cancelled, "limit")
    assert output.reason == "limit of 2000 total tokens"
    assert len(provider.requests) == len(usages)
    assert [request.outcome for request in provider.requests] == ["completed"] * len(usages)
    spent = [usage.input + usage.output for _, usage in usages]
    assert sum(spent) >= 2000
    # Each member may have had a request under way when the limit was passed; no other was begun.
    assert sum(spent[: -len(members)]) < 2000
    for each, whose in ((output, None), *((by_name(output)[name], name) for name in names)):
        said = [usage for name, usage in usages if whose in (None, name)]
        metrics = each.metrics
        assert metrics.model_requests == len(said)
        assert metrics.input_tokens == sum(usage.input for usage in said)
        assert metrics.output_tokens == sum(usage.output for usage in said)
        assert metrics.total_tokens == metrics.input_tokens + metrics.output_tokens
        assert metrics.reasoning_tokens == sum(usage.reasoning for usage in said)
        assert metrics.cache_read_tokens == sum(usage.cached for usage in said)
        assert not metrics.estimated
    for each in tree(output):
        check_messages(each.messages)
