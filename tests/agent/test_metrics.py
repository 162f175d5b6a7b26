"""What a run counts."""

from __future__ import annotations

from kern_async.testing import Cut, End, Text, ToolCall, Usage

from .crew import Crew, events_of


async def test_the_providers_counts_are_summed_over_the_requests(any_crew: Crew) -> None:
    def look() -> str:
        return "rain"

    agent = any_crew.agent(
        "Solo",
        [Usage(10, 5, reasoning=3, cached=4), ToolCall("look")],
        [Usage(20, 7), Text("It rains.")],
        tools=[look],
    )
    events = await events_of(agent)
    metrics = events[-1].metrics
    assert (metrics.input_tokens, metrics.output_tokens, metrics.total_tokens) == (30, 12, 42)
    assert (metrics.reasoning_tokens, metrics.cache_read_tokens) == (3, 4)
    assert (metrics.model_requests, metrics.tool_calls, metrics.estimated) == (2, 1, False)
    requests = [event for event in events if event.event == "ModelRequestCompleted"]
    assert [(r.input_tokens, r.output_tokens, r.estimated) for r in requests] == [
        (10, 5, False),
        (20, 7, False),
    ]


async def test_times_are_seconds_of_the_run(crew: Crew) -> None:
    output = await crew.agent("Solo", Text("It rains.")).arun("Go.")
    first, whole = output.metrics.time_to_first_token, output.metrics.duration
    assert first is not None
    assert whole is not None
    assert 0 < first <= whole < 5


async def test_a_cut_answer_is_estimated_and_says_so(any_crew: Crew) -> None:
    agent = any_crew.agent("Solo", [Text("a" * 40), Cut()], instructions="b" * 80)
    output = await agent.arun("c" * 20)
    assert output.metrics.estimated
    assert (output.metrics.input_tokens, output.metrics.output_tokens) == (25, 10)
    assert output.metrics.total_tokens == 35


async def test_a_request_without_an_answer_costs_nothing(crew: Crew) -> None:
    agent = crew.agent(
        "Solo", End("missing"), [Usage(10, 5), Text("Done.")], model=crew.model("Solo", max_retries=1)
    )
    metrics = (await agent.arun("Go.")).metrics
    assert (metrics.total_tokens, metrics.estimated, metrics.model_requests) == (15, False, 2)
