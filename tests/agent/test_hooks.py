"""Hooks before and after a run's work."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from kern_async import Agent, RunContext
from kern_async.exceptions import CheckTrigger, InputCheckError, OutputCheckError
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunInput, RunStatus
from kern_async.testing import Text

from .crew import Crew, events_of, names


async def test_hooks_are_called_in_their_order_round_the_work(crew: Crew) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("first")

    async def second() -> None:
        await anyio.lowlevel.checkpoint()
        order.append("second")

    def third(run_output: RunOutput) -> None:
        order.append(f"third after {run_output.content}")

    async def fourth() -> None:
        order.append("fourth")

    agent = crew.agent("Solo", Text("Hello."), pre_hooks=[first, second], post_hooks=[third, fourth])
    events = await events_of(agent)
    assert order == ["first", "second", "third after Hello.", "fourth"]
    assert names(events) == [
        "RunStarted",
        "PreHookStarted",
        "PreHookCompleted",
        "PreHookStarted",
        "PreHookCompleted",
        "ModelRequestStarted",
        "RunContent",
        "ModelRequestCompleted",
        "RunContentCompleted",
        "PostHookStarted",
        "PostHookCompleted",
        "PostHookStarted",
        "PostHookCompleted",
        "RunCompleted",
    ]
    hooks = [event.hook_name for event in events if event.event.endswith("HookStarted")]
    assert hooks == ["first", "second", "third", "fourth"]


async def test_a_hook_gets_what_it_declares(crew: Crew) -> None:
    got: dict[str, Any] = {}

    def some(user_id: str, metadata: dict[str, Any]) -> None:
        got["some"] = user_id, metadata

    def all_there_is(run_input: RunInput, **others: Any) -> None:
        got["input"] = run_input.input_content
        got["others"] = others

    class Judge:
        async def __call__(
            self, run_output: RunOutput, agent: Agent, run_context: RunContext, session: Any
        ) -> None:
            got["judge"] = run_output.content, agent, run_context.run_id, session

    agent = crew.agent("Solo", Text("Hello."), pre_hooks=[some, all_there_is], post_hooks=[Judge()])
    await agent.arun("Go.", user_id="ada", metadata={"m": 1}, run_id="the-run")
    assert got["some"] == ("ada", {"m": 1})
    assert got["input"] == "Go."
    assert set(got["others"]) == {"run_context", "agent", "session", "user_id", "metadata"}
    assert got["judge"] == ("Hello.", agent, "the-run", None)


async def test_a_sync_hook_does_not_block_the_event_loop(crew: Crew) -> None:
    threads: list[int] = []
    agent = crew.agent(pre_hooks=[lambda: threads.append(threading.get_ident())])
    await agent.arun("Go.")
    assert threads != [threading.get_ident()]


async def test_a_pre_hook_changes_what_the_model_is_asked(crew: Crew) -> None:
    def redact(run_input: RunInput) -> None:
        run_input.input_content = str(run_input.input_content).replace("secret", "***")

    output = await crew.agent(pre_hooks=[redact]).arun("My secret word.")
    assert crew.requests()[0].last_text == "My *** word."
    assert output.input is not None
    assert output.input.input_content == "My *** word."


async def test_a_pre_hook_changes_what_the_prompt_is_filled_with(crew: Crew) -> None:
    def look_up(run_context: RunContext) -> None:
        run_context.session_state["name"] = "Ada"

    output = await crew.agent(instructions="You serve {name}.", pre_hooks=[look_up]).arun("Go.")
    assert crew.requests()[0].instructions == "You serve Ada."
    assert output.session_state == {"name": "Ada"}


async def test_a_post_hook_changes_the_content(crew: Crew) -> None:
    def shout(run_output: RunOutput) -> None:
        run_output.content = str(run_output.content).upper()

    def ask(run_output: RunOutput) -> None:
        run_output.content += "?"

    events = await events_of(
        crew.agent("Solo", Text("hello"), post_hooks=[shout, ask]), yield_run_output=True
    )
    assert events[-2].content == events[-1].content == "HELLO?"


async def test_a_post_hook_sees_and_changes_the_parsed_object(crew: Crew) -> None:
    class Story(BaseModel):
        title: str

    def retitle(run_output: RunOutput) -> None:
        run_output.content = Story(title=run_output.content.title + "!")

    agent = crew.agent("Solo", Text('{"title": "Rain"}'), output_schema=Story, post_hooks=[retitle])
    assert (await agent.arun("Go.")).content == Story(title="Rain!")


async def test_a_refused_input_never_reaches_the_model(crew: Crew) -> None:
    def refuse(run_input: RunInput) -> None:
        raise InputCheckError("no politics", CheckTrigger.OFF_TOPIC, {"score": 0.9})

    events = await events_of(crew.agent(pre_hooks=[refuse]), yield_run_output=True)
    *_, end, output = events
    assert (end.event, output.status) == ("RunError", RunStatus.error)
    assert (output.error, output.error_type, output.content) == ("no politics", "InputCheckError", None)
    assert end.additional_data == {"score": 0.9}
    assert crew.requests() == []
    assert output.messages[0].content == "Go.", "the user's message is kept"


async def test_a_refused_output_is_an_error_that_keeps_the_text(crew: Crew) -> None:
    async def refuse() -> None:
        raise OutputCheckError("too long")

    output = await crew.agent("Solo", Text("A long story."), post_hooks=[refuse]).arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "OutputCheckError")
    assert (output.error, output.content) == ("too long", "A long story.")


@pytest.mark.parametrize("when", ["pre_hooks", "post_hooks"])
async def test_any_failure_of_a_hook_is_the_runs_error(crew: Crew, when: str) -> None:
    called: list[str] = []

    def fail() -> None:
        raise LookupError("no such thing")

    hooks: dict[str, Any] = {when: [fail, lambda: called.append("after it")]}
    agent = crew.agent("Solo", **hooks)
    output = await agent.arun("Go.")
    assert (output.status, output.error_type, output.error) == (
        RunStatus.error,
        "LookupError",
        "no such thing",
    )
    assert called == []
