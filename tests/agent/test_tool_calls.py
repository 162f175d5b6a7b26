"""Tool calls: what is called, side by side, and what the model is told of it."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from kern_async import tool
from kern_async.exceptions import ConfigurationError
from kern_async.run.base import RunStatus
from kern_async.testing import Text, ToolCall
from kern_async.tools import Toolkit

from .crew import Crew, events_of, names


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def aadd(a: int, b: int) -> int:
    """Add two numbers."""
    await anyio.lowlevel.checkpoint()
    return a + b


class Calculator(Toolkit):
    def __init__(self) -> None:
        super().__init__(tools=[self.total])
        self.base = 40

    def total(self, a: int) -> int:
        return self.base + a


@pytest.mark.parametrize(
    ("tools", "call", "result"),
    [
        ([add], ToolCall("add", {"a": 40, "b": 2}), "42"),
        ([aadd], ToolCall("aadd", {"a": 40, "b": 2}), "42"),
        ([Calculator()], ToolCall("total", {"a": 2}), "42"),
        ([tool(name="plus")(add)], ToolCall("plus", {"a": 40, "b": 2}), "42"),
    ],
    ids=["sync", "async", "toolkit", "decorated"],
)
async def test_the_model_gets_the_result_of_its_call(
    any_crew: Crew, tools: list[Any], call: ToolCall, result: str
) -> None:
    agent = any_crew.agent("Solo", call, Text("It is 42."), tools=tools)
    output = await agent.arun("What is 40 + 2?")
    assert (output.status, output.content) == (RunStatus.completed, "It is 42.")
    assert any_crew.told() == [result]
    (execution,) = output.tools
    assert (execution.tool_name, execution.tool_args) == (call.name, call.arguments)
    assert (execution.result, execution.tool_call_error) == (result, False)
    assert [m.role for m in output.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("kind", ["sync", "async", "mixed"])
async def test_calls_of_one_turn_run_at_the_same_time(crew: Crew, kind: str) -> None:
    inside: list[str] = []
    both = threading.Event()

    def enter(name: str) -> None:
        inside.append(name)
        if len(inside) == 2:
            both.set()

    def first() -> bool:
        enter("first")
        return both.wait(5)

    def second() -> bool:
        enter("second")
        return both.wait(5)

    async def await_both(name: str) -> bool:
        enter(name)
        with anyio.move_on_after(5):
            while not both.is_set():  # noqa: ASYNC110 - a thread may be the one that sets it
                await anyio.sleep(0.001)
        return both.is_set()

    async def afirst() -> bool:
        return await await_both("first")

    async def asecond() -> bool:
        return await await_both("second")

    one, two = {"sync": (first, second), "async": (afirst, asecond), "mixed": (first, asecond)}[kind]
    agent = crew.agent("Solo", [ToolCall(one.__name__), ToolCall(two.__name__)], tools=[one, two])
    await agent.arun("Go.")
    assert crew.told() == ["true", "true"]


async def test_results_stand_in_the_order_of_the_calls(any_crew: Crew) -> None:
    done = anyio.Event()
    finished: list[str] = []

    async def slow() -> str:
        await done.wait()
        finished.append("slow")
        return "slow"

    async def quick() -> str:
        finished.append("quick")
        done.set()
        return "quick"

    agent = any_crew.agent("Solo", [ToolCall("slow"), ToolCall("quick")], tools=[slow, quick])
    with anyio.fail_after(5):
        output = await agent.arun("Go.")
    assert finished == ["quick", "slow"]
    assert any_crew.told() == ["slow", "quick"]
    assert [m.content for m in output.messages if m.role == "tool"] == ["slow", "quick"]


def fail() -> str:
    """Fail."""
    raise ValueError("the well is dry")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (ToolCall("missing", {"a": 1}), ["There is no tool 'missing'", "add, fail"]),
        (ToolCall("add", {"a": "x", "b": 2}), ["a:", "integer"]),
        (ToolCall("add", {"a": 1}), ["b: required"]),
        (ToolCall("add", {"a": 1, "b": 2, "c": 3}), ["c: there is no such argument"]),
        (ToolCall("add", '{"a": 1,'), ["not valid JSON"]),
        (ToolCall("add", "[1, 2]"), ["one JSON object"]),
        (ToolCall("fail"), ["the well is dry"]),
    ],
    ids=["unknown", "wrong type", "missing", "too many", "no JSON", "no object", "raises"],
)
async def test_the_model_sees_what_is_wrong_and_the_run_goes_on(
    crew: Crew, call: ToolCall, says: list[str]
) -> None:
    agent = crew.agent("Solo", call, Text("I see."), tools=[add, fail])
    events = await events_of(agent)
    (told,) = crew.told()
    assert all(words in told for words in says), told
    assert (events[-1].event, events[-1].content) == ("RunCompleted", "I see.")
    (failed,) = [event for event in events if event.event == "ToolCallError"]
    assert failed.error == told
    assert failed.tool.tool_call_error
    assert "ToolCallCompleted" not in names(events)


async def test_one_calls_failure_leaves_the_others_alone(crew: Crew) -> None:
    agent = crew.agent("Solo", [ToolCall("fail"), ToolCall("add", {"a": 1, "b": 1})], tools=[add, fail])
    output = await agent.arun("Go.")
    assert output.status is RunStatus.completed
    assert crew.told() == ["the well is dry", "2"]


async def test_a_run_ends_with_the_tool_that_stops_it(crew: Crew) -> None:
    @tool(stop_after_tool_call=True)
    def finish() -> str:
        return "All done."

    agent = crew.agent("Solo", [Text("Well: "), ToolCall("finish")], tools=[finish])
    output = await agent.arun("Go.")
    assert len(crew.requests()) == 1
    assert (output.status, output.content) == (RunStatus.completed, "Well: All done.")
    assert output.messages[-1].role == "tool"


async def test_a_stopping_tool_may_keep_its_result_to_itself(crew: Crew) -> None:
    @tool(stop_after_tool_call=True, show_result=False)
    def finish() -> str:
        return "secret"

    output = await crew.agent("Solo", ToolCall("finish"), tools=[finish]).arun("Go.")
    assert len(crew.requests()) == 1
    assert (output.status, output.content) == (RunStatus.completed, None)


async def test_a_stopping_tool_that_fails_does_not_stop_the_run(crew: Crew) -> None:
    stopping = tool(stop_after_tool_call=True)(fail)
    output = await crew.agent("Solo", ToolCall("fail"), Text("I see."), tools=[stopping]).arun("Go.")
    assert output.content == "I see."


async def test_a_shown_result_is_part_of_the_answer(crew: Crew) -> None:
    @tool(show_result=True)
    def table() -> str:
        return "| 1 |\n"

    agent = crew.agent("Solo", ToolCall("table"), Text("That is all."), tools=[table])
    events = await events_of(agent)
    deltas = [event.content for event in events if event.event == "RunContent"]
    assert "".join(deltas) == events[-1].content == "| 1 |\nThat is all."
    assert deltas[0] == "| 1 |\n"
    assert crew.told() == ["| 1 |\n"]


async def test_calls_past_the_limit_are_refused(any_crew: Crew) -> None:
    called: list[int] = []

    def count(n: int) -> str:
        called.append(n)
        return "counted"

    def calls(*numbers: int) -> list[ToolCall]:
        return [ToolCall("count", {"n": n}) for n in numbers]

    agent = any_crew.agent(
        "Solo", calls(1), calls(2, 3), calls(4), Text("Enough."), tools=[count], tool_call_limit=2
    )
    output = await agent.arun("Go.")
    assert called == [1, 2]
    assert output.content == "Enough."
    told = any_crew.told()
    assert told[:2] == ["counted", "counted"]
    assert all("2 tool calls" in text for text in told[2:])
    failed = {t.tool_args["n"]: t.tool_call_error for t in output.tools}
    assert failed == {1: False, 2: False, 3: True, 4: True}


async def test_a_tool_without_a_result_is_answered_all_the_same(any_crew: Crew) -> None:
    def nothing() -> None:
        """Do nothing."""

    await any_crew.agent("Solo", ToolCall("nothing"), tools=[nothing]).arun("Go.")
    assert any_crew.told() == [""]


async def test_text_beside_a_call_stays_in_the_answer(any_crew: Crew) -> None:
    agent = any_crew.agent(
        "Solo", [Text("Let me see. "), ToolCall("add", {"a": 1, "b": 1})], Text("It is 2."), tools=[add]
    )
    events = await events_of(agent)
    assert events[-1].content == "Let me see. It is 2."
    deltas = [event.content for event in events if event.event == "RunContent"]
    assert "".join(deltas) == "Let me see. It is 2."
    assert "Let me see." in any_crew.requests()[1].text


@pytest.mark.parametrize("tools", [[add, add], [3], [Toolkit(tools=[add]), add], [{"type": "web_search"}]])
async def test_tools_that_cannot_be_are_refused_at_the_call(crew: Crew, tools: list[Any]) -> None:
    with pytest.raises(ConfigurationError):
        await crew.agent(tools=tools).arun("Go.")
    assert crew.requests() == []
