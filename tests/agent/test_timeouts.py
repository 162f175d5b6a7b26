"""A provider that is silent for too long; what counts as a sign of life, and what does not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async.run.base import RunStatus
from kern_async.testing import Hang, Pause, Reasoning, Reply, Stall, Start, Text, ToolCall

from .crew import Crew, events_of

SHORT = 0.1


@pytest.mark.parametrize(
    "silence", [Hang(), [Start(), Hang()], Stall(keepalive=0.01)], ids=["nothing", "headers", "keep-alives"]
)
async def test_no_first_token_in_time_is_a_timeout(any_crew: Crew, silence: Reply) -> None:
    agent = any_crew.agent("Solo", silence, model=any_crew.model("Solo", first_token_timeout=SHORT))
    with anyio.fail_after(5):
        output = await agent.arun("Go.")
    assert (output.status, output.error_type, output.content) == (RunStatus.error, "ModelTimeout", None)
    assert f"first_token_timeout={SHORT}" in str(output.error)
    await any_crew.provider.await_until(lambda: any_crew.provider.open_requests == 0)


async def test_a_request_without_a_first_token_is_sent_again(crew: Crew) -> None:
    model = crew.model("Solo", first_token_timeout=0.3, max_retries=1)
    agent = crew.agent("Solo", Hang(), Text("At last."), model=model)
    with anyio.fail_after(5):
        output = await agent.arun("Go.")
    assert (output.status, output.content) == (RunStatus.completed, "At last.")
    assert crew.requests()[0].outcome == "disconnected"


async def test_no_further_content_in_time_is_a_timeout_that_keeps_the_text(any_crew: Crew) -> None:
    model = any_crew.model("Solo", idle_timeout=SHORT, max_retries=5)
    agent = any_crew.agent("Solo", [Text("Once upon "), Stall(keepalive=0.01)], model=model)
    with anyio.fail_after(5):
        events = await events_of(agent)
    assert (events[-1].event, events[-1].error_type) == ("RunError", "ModelTimeout")
    assert f"idle_timeout={SHORT}" in events[-1].error
    assert events[-1].content == "Once upon "
    assert len(any_crew.requests()) == 1


async def test_the_idle_timeout_does_not_count_before_the_first_token(crew: Crew) -> None:
    agent = crew.agent(
        "Solo", [Start(), Pause(4 * SHORT), Text("Done.")], model=crew.model("Solo", idle_timeout=SHORT)
    )
    assert (await agent.arun("Go.")).content == "Done."


async def test_the_first_token_timeout_does_not_count_after_it(crew: Crew) -> None:
    answer = [Text("Well, "), Pause(0.8), Text("done.")]
    agent = crew.agent("Solo", answer, model=crew.model("Solo", first_token_timeout=0.4))
    assert (await agent.arun("Go.")).content == "Well, done."


@pytest.mark.parametrize(
    "talk",
    [
        Reasoning(["thought "] * 9, interval=0.08),
        ToolCall("note", '{"word": "a b c d e f g h"}', interval=0.08),
        Text(["word "] * 9, interval=0.08),
    ],
    ids=["reasoning", "arguments", "text"],
)
async def test_every_delta_is_a_sign_of_life(crew: Crew, talk: Any) -> None:
    def note(word: str) -> str:
        return word

    patience = {"idle_timeout": 0.4, "first_token_timeout": 0.4}
    agent = crew.agent("Solo", [talk, Text("Done.")], tools=[note], model=crew.model("Solo", **patience))
    output = await agent.arun("Go.")
    assert output.error is None
    assert output.status is RunStatus.completed


async def test_a_slow_reader_is_no_fault_of_the_provider(crew: Crew) -> None:
    model = crew.model("Solo", idle_timeout=0.3)
    agent = crew.agent("Solo", [Text(["word "] * 600, burst=True), Text("Done.")], model=model)
    async with agent.arun("Go.", stream=True) as events:
        first = await anext(events)
        await crew.provider.await_for_request()
        await anyio.sleep(0.7)  # more than the model is given, while the run waits for this reader
        rest = [event async for event in events]
    assert first.event == "RunStarted"
    assert rest[-1].event == "RunCompleted"
    assert rest[-1].content == "word " * 600 + "Done."
