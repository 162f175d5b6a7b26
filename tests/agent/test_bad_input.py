"""What cannot work is refused with a clear error, at the call where that can be."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Agent, RunStatus
from kern_async.exceptions import ConfigurationError, KernError, RunIdInUse
from kern_async.models.openai import OpenAIResponses
from kern_async.testing import Forever, Gate, Malformed, Status, Text, ToolCall

from .crew import Crew

KEY_VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL")


def test_an_unknown_keyword_of_an_agent_is_named() -> None:
    with pytest.raises(TypeError, match="instrctions"):
        Agent(instrctions="typo")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["run", "arun"])
def test_an_unknown_keyword_of_a_run_is_named_at_the_call(crew: Crew, method: str, stream: bool) -> None:
    with pytest.raises(TypeError, match="stream_steps"):
        getattr(crew.agent(), method)("Go.", stream=stream, stream_steps=True)
    assert crew.requests() == []


def test_telemetry_is_accepted_and_means_nothing(crew: Crew) -> None:
    assert crew.agent(telemetry=True).id == "solo"


def test_an_unknown_keyword_of_a_model_is_named() -> None:
    with pytest.raises(TypeError, match="temprature"):
        OpenAIResponses(id="m", temprature=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1.5},
        {"timeout": float("nan")},
        {"timeout": "3"},
        {"cancel_grace": -1},
        {"model": "gpt-5.2"},
    ],
    ids=str,
)
def test_an_agent_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    (keyword,) = options
    with pytest.raises(ConfigurationError, match=keyword):
        Agent(name="Solo", **options)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": -1}, {"timeout": "3"}, {"run_id": ""}, {"run_id": 7}],
    ids=str,
)
@pytest.mark.parametrize("method", ["run", "arun"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_cannot_be_is_refused_at_the_call(
    crew: Crew, options: dict[str, Any], method: str, stream: bool
) -> None:
    (keyword,) = options
    with pytest.raises(ConfigurationError, match=keyword):
        getattr(crew.agent(), method)("Go.", stream=stream, **options)


def test_an_agent_without_a_model_says_how_to_give_one() -> None:
    with pytest.raises(ConfigurationError, match="model=OpenAIResponses"):
        Agent(name="Solo").arun("Go.")  # pyright: ignore[reportUnusedCoroutine]


@pytest.mark.parametrize("holder", ["created", "live"])
async def test_a_second_live_run_of_an_id_is_refused(crew: Crew, holder: str) -> None:
    agent = crew.agent("Solo", Forever())
    async with anyio.create_task_group() as group:
        stream = agent.arun("Go.", stream=True, run_id="the-run")
        if holder == "live":
            group.start_soon(stream.__anext__)
            await crew.provider.await_for_request()
        with pytest.raises(RunIdInUse, match="the-run"):
            agent.arun("Again.", stream=True, run_id="the-run")
        with pytest.raises(RunIdInUse):
            agent.run("Again.", stream=True, run_id="the-run")
        second = agent.arun("Again.", run_id="the-run")
        with pytest.raises(RunIdInUse):
            await second
        await stream.aclose()
    assert len(crew.requests()) == (1 if holder == "live" else 0)
    crew.provider.default = Text("Free again.")
    crew.provider.reset()
    assert (await agent.arun("Go.", run_id="the-run")).status is RunStatus.completed


async def test_an_id_is_free_when_its_stream_is_dropped(crew: Crew) -> None:
    agent = crew.agent()
    stream = agent.arun("Go.", stream=True, run_id="the-run")
    del stream
    assert (await agent.arun("Go.", run_id="the-run")).status is RunStatus.completed


async def test_a_refused_run_does_not_touch_the_live_one(crew: Crew) -> None:
    gate = Gate()
    agent = crew.agent("Solo", [gate, Text("Mine.")])
    outputs: list[Any] = []

    async def first() -> None:
        outputs.append(await agent.arun("Go.", run_id="the-run"))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await crew.provider.await_for_request()
        with pytest.raises(RunIdInUse):
            await agent.arun("Again.", run_id="the-run")
        gate.open()
    assert [(o.run_id, o.content) for o in outputs] == [("the-run", "Mine.")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_missing_key_is_the_runs_error_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    for variable in KEY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    agent = Agent(name="Solo", model=OpenAIResponses(id="gpt-5.2"))
    if stream:
        async with agent.arun("Go.", stream=True) as events:
            output: Any = [event async for event in events][-1]
    else:
        output = await agent.arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "ModelKeyMissing")
    assert "OPENAI_API_KEY" in str(output.error)
    assert "LlamaCpp" in str(output.error)


@pytest.mark.parametrize(
    "answer",
    [
        Malformed("{not json"),
        Malformed("[]"),
        Status(200, body="not json at all"),
        Status(200, headers={"content-type": "text/html"}, body="<html>A portal</html>"),
        Status(200, headers={"content-type": "text/event-stream"}, body="data: nonsense\n\n"),
    ],
    ids=["event", "no object", "body", "page", "stream"],
)
async def test_an_answer_that_is_not_the_protocol_is_an_error(any_crew: Crew, answer: Any) -> None:
    with anyio.fail_after(5):
        output = await any_crew.agent("Solo", answer).arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "ModelProtocolError")
    assert output.error


def test_run_on_the_background_loop_itself_is_refused(crew: Crew) -> None:
    inner = crew.agent("Inner")

    async def nested() -> str:
        inner.run("Go.")
        return "never"

    output = crew.agent("Outer", ToolCall("nested"), Text("I see."), tools=[nested]).run("Go.")
    assert output.status is RunStatus.completed
    assert output.tools[0].tool_call_error
    assert "arun" in (output.tools[0].result or "")
    assert crew.requests("Inner") == []


def test_every_refusal_is_a_kern_error() -> None:
    assert issubclass(ConfigurationError, KernError)
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(RunIdInUse, ConfigurationError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_hooks": [42]}, "tool_hooks is"),
        ({"pre_hooks": ["no"]}, "pre_hooks is"),
        ({"post_hooks": print}, "post_hooks is"),
        ({"tools": [len, len]}, "two tools are called 'len'|does not know the parameters"),
        ({"tools": [42]}, "callable"),
        ({"cancel_grace": float("inf")}, "cancel_grace is inf"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"timeout": -1}, "timeout is -1"),
        ({"limits": {"tool_calls": 1}}, "RunLimits"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Agent(name="Solo", **options)


def test_none_is_as_good_as_nothing_where_the_reference_has_none() -> None:
    options: Any = {"tools": None, "tool_hooks": None, "pre_hooks": None, "post_hooks": None}
    assert Agent(name="Solo", **options).tools == ()
