"""What is tried again, and what never is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

from kern_async.run.base import RunStatus
from kern_async.testing import Cut, End, Malformed, Reasoning, Reply, Start, Status, Text, ToolCall

from .crew import Crew, events_of, names

FAULTS: dict[str, Reply] = {
    "429": Status(429),
    "500": Status(500),
    "cut": Cut(),
    "cut after the headers": [Start(), Cut()],
    "reset": Cut(reset=True),
    "malformed": Malformed(),
    "failed": End("failed"),
    "error": End("error"),
    "no end": End("missing"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_request_that_streamed_nothing_is_sent_again(any_crew: Crew, fault: Reply) -> None:
    agent = any_crew.agent(
        "Solo", fault, fault, Text("At last."), model=any_crew.model("Solo", max_retries=2)
    )
    output = await agent.arun("Go.")
    assert (output.status, output.content) == (RunStatus.completed, "At last.")
    first, *others = any_crew.requests()
    assert len(others) == 2
    assert all(other.body == first.body for other in others)


async def test_a_request_is_sent_max_retries_times_more(crew: Crew) -> None:
    agent = crew.agent("Solo", *[Status(500, "out of order")] * 3, model=crew.model("Solo", max_retries=1))
    events = await events_of(agent)
    assert len(crew.requests()) == 2
    assert (events[-1].event, events[-1].error_type) == ("RunError", "ModelStatusError")
    assert "500" in events[-1].error
    assert "out of order" in events[-1].error
    requests = [event for event in events if event.event == "ModelRequestCompleted"]
    assert len(requests) == 2
    assert all(request.error for request in requests)


@pytest.mark.parametrize("code", [400, 401, 404])
async def test_a_fault_that_stays_is_not_tried_again(crew: Crew, code: int) -> None:
    agent = crew.agent("Solo", Status(code), model=crew.model("Solo", max_retries=5))
    output = await agent.arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "ModelStatusError")
    assert len(crew.requests()) == 1


@pytest.mark.parametrize("headers", [{"retry-after": "0"}, {"retry-after-ms": "1"}], ids=["s", "ms"])
async def test_the_providers_wish_for_a_short_wait_is_followed(crew: Crew, headers: dict[str, str]) -> None:
    model = crew.model("Solo", max_retries=1, retry_delay=60)
    agent = crew.agent("Solo", Status(429, headers=headers), Text("At last."), model=model)
    with anyio.fail_after(5):
        assert (await agent.arun("Go.")).content == "At last."


async def test_the_providers_wish_for_a_longer_wait_is_followed(crew: Crew) -> None:
    refusal = Status(503, headers={"retry-after": "0.2"})
    agent = crew.agent("Solo", refusal, Text("At last."), model=crew.model("Solo", max_retries=1))
    assert (await agent.arun("Go.")).content == "At last."
    first, second = crew.requests()
    assert first.finished_at is not None
    assert second.received_at - first.finished_at >= 0.19


@pytest.mark.parametrize(
    "fault", [Cut(), Malformed(), End("failed"), End("missing")], ids=["cut", "malformed", "failed", "no end"]
)
async def test_nothing_is_tried_again_once_text_was_streamed(any_crew: Crew, fault: Any) -> None:
    model = any_crew.model("Solo", max_retries=5)
    events = await events_of(any_crew.agent("Solo", [Text("Once upon "), fault], model=model))
    assert len(any_crew.requests()) == 1
    assert (events[-1].event, events[-1].status) == ("RunError", RunStatus.error)
    assert events[-1].content == "Once upon "
    assert "".join(e.content for e in events if e.event == "RunContent") == "Once upon "


async def test_nothing_is_tried_again_once_reasoning_was_streamed(crew: Crew) -> None:
    model = crew.model("Solo", max_retries=5)
    output = await crew.agent("Solo", [Reasoning("I think "), Cut()], model=model).arun("Go.")
    assert output.status is RunStatus.error
    assert output.reasoning_content == "I think "
    assert len(crew.requests()) == 1


async def test_a_cut_call_that_nobody_saw_is_asked_for_again(any_crew: Crew) -> None:
    called: list[str] = []

    def note(word: str) -> str:
        called.append(word)
        return "noted"

    cut: Reply = [ToolCall("note", '{"word": "cu'), Cut()]
    whole = ToolCall("note", {"word": "whole"})
    model = any_crew.model("Solo", max_retries=1)
    output = await any_crew.agent("Solo", cut, whole, Text("Done."), tools=[note], model=model).arun("Go.")
    assert (output.content, called) == ("Done.", ["whole"])


async def test_a_run_goes_on_where_a_stream_was_cut(any_crew: Crew) -> None:
    called: list[str] = []

    def look() -> str:
        called.append("look")
        return "rain"

    agent = any_crew.agent(
        "Solo",
        [Text("Let me look. "), ToolCall("look")],
        [Text("It is "), Cut()],
        Text("raining."),
        tools=[look],
        retries=1,
        delay_between_retries=0,
    )
    events = await events_of(agent)
    assert called == ["look"]
    assert (events[-1].event, events[-1].content) == ("RunCompleted", "Let me look. It is raining.")
    assert "".join(e.content for e in events if e.event == "RunContent") == "Let me look. It is raining."
    assert names(events).count("RunStarted") == 1
    last = any_crew.requests()[-1]
    assert any_crew.told() == ["rain"]
    assert "It is" in last.text
    assert "repeat nothing" in last.last_text


async def test_a_run_gives_up_after_its_retries(crew: Crew) -> None:
    agent = crew.agent("Solo", *[Status(500)] * 5, retries=2, delay_between_retries=0)
    output = await agent.arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "ModelStatusError")
    assert len(crew.requests()) == 3


@pytest.mark.parametrize("exponential", [False, True])
async def test_the_wait_between_a_runs_retries(crew: Crew, exponential: bool) -> None:
    agent = crew.agent(
        "Solo",
        *[Status(500)] * 3,
        Text("At last."),
        retries=3,
        delay_between_retries=0.08,
        exponential_backoff=exponential,
    )
    assert (await agent.arun("Go.")).content == "At last."
    gaps = [late.received_at - early.received_at for early, late in pairwise(crew.requests())]
    expected = [0.08, 0.16, 0.32] if exponential else [0.08, 0.08, 0.08]
    assert all(gap >= least - 0.01 for gap, least in zip(gaps, expected, strict=True))
    assert exponential or gaps[2] < 0.3
