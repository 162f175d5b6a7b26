"""An agent's run that waits for a person, and goes on with what was decided."""

from __future__ import annotations

from typing import Any

import pytest

from kern_async import Agent, RunStatus, cancel_run, tool
from kern_async.run.agent import RunOutput
from kern_async.run.cancel import get_active_runs
from kern_async.testing import Text, ToolCall

from ..agent.crew import Crew, events_of, names
from ..engine.invariants import check_messages
from .attempts import check_attempts

done: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_is_done_yet() -> None:
    done.clear()


@tool(requires_confirmation=True)
def delete(path: str) -> str:
    """Delete a file."""
    done.append(("delete", path))
    return f"deleted {path}"


@tool(requires_user_input=True, user_input_fields=["address"])
async def send(subject: str, address: str) -> str:
    """Send a mail.

    Args:
        subject: What it is about.
        address: Who gets it.
    """
    done.append(("send", subject, address))
    return f"sent to {address}"


@tool(external_execution=True)
def shell(command: str) -> str:
    """Run a command elsewhere."""
    raise AssertionError("it is executed elsewhere")


async def look() -> str:
    """Look."""
    done.append("look")
    return "nothing there"


async def paused(
    crew: Crew, *calls: ToolCall, then: str = "All done.", **options: Any
) -> tuple[Agent, RunOutput]:
    agent = crew.agent(
        "Solo", [Text("Let me see. "), *calls], Text(then), tools=[delete, send, shell, look], **options
    )
    output = await agent.arun("Go.", run_id="the-run")
    assert output.status is RunStatus.paused
    return agent, output


async def test_a_call_that_needs_confirmation_is_not_made_before_it_has_it(any_crew: Crew) -> None:
    agent, output = await paused(any_crew, ToolCall("delete", {"path": "a"}))
    assert output.is_paused
    assert output.event == "RunPaused"
    assert output.content == "Let me see. "
    assert done == []
    (requirement,) = output.active_requirements
    assert requirement.needs_confirmation
    assert requirement.tool_execution.tool_name == "delete"
    assert requirement.tool_execution.tool_args == {"path": "a"}
    assert requirement.run_id == "the-run"
    assert requirement.member_run_id is None
    assert output.tools_requiring_confirmation == [requirement.tool_execution]
    assert get_active_runs() == {"the-run": False}

    requirement.confirm()
    again = await agent.acontinue_run(run_id="the-run", requirements=output.requirements)
    assert (again.status, again.run_id) == (RunStatus.completed, "the-run")
    assert again.content == "Let me see. All done."
    assert done == [("delete", "a")]
    assert any_crew.told() == ["deleted a"]
    assert [(t.tool_name, t.result, t.confirmed) for t in again.tools] == [("delete", "deleted a", True)]
    assert again.metrics.tool_calls == 1
    assert again.metrics.model_requests == 2
    assert again.requirements is None
    check_messages(again.messages)
    assert not get_active_runs()
    assert not cancel_run("the-run")


async def test_a_rejection_and_its_note_go_to_the_model(any_crew: Crew) -> None:
    agent, output = await paused(any_crew, ToolCall("delete", {"path": "a"}))
    output.active_requirements[0].reject("never on a Friday")
    again = await agent.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert done == []
    assert "never on a Friday" in any_crew.told()[0]
    assert again.tools[0].tool_call_error
    assert again.tools[0].confirmed is False


async def test_the_user_fills_what_the_model_does_not_know(any_crew: Crew) -> None:
    agent, output = await paused(any_crew, ToolCall("send", {"subject": "Hi"}))
    offered = any_crew.requests()[0].body["tools"]
    assert "address" not in str([t for t in offered if "send" in str(t)])
    (requirement,) = output.active_requirements
    assert requirement.needs_user_input
    form = {field.name: field for field in requirement.user_input_schema or ()}
    assert form["address"].field_type == "string"
    assert form["address"].description == "Who gets it."
    requirement.provide_user_input({"address": "ann@example.org"})
    again = await agent.acontinue_run(output)
    assert done == [("send", "Hi", "ann@example.org")]
    assert any_crew.told() == ["sent to ann@example.org"]
    assert again.tools[0].tool_args == {"subject": "Hi", "address": "ann@example.org"}


async def test_what_is_executed_elsewhere_comes_back_as_the_result(any_crew: Crew) -> None:
    agent, output = await paused(any_crew, ToolCall("shell", {"command": "ls"}))
    (requirement,) = output.active_requirements
    assert requirement.needs_external_execution
    requirement.set_external_execution_result("a.txt")
    again = await agent.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert any_crew.told() == ["a.txt"]


async def test_finished_calls_keep_their_results_and_several_wait_at_once(any_crew: Crew) -> None:
    calls = [
        ToolCall("delete", {"path": "a"}),
        ToolCall("look"),
        ToolCall("shell", {"command": "ls"}),
        ToolCall("delete", {"path": "b"}),
    ]
    agent, output = await paused(any_crew, *calls)
    assert done == ["look"]
    assert [t.result for t in output.tools] == [None, "nothing there", None, None]
    first, second, third = output.active_requirements
    first.confirm()
    again = await agent.acontinue_run(output)
    assert again.status is RunStatus.paused, "two are still open"
    assert done == ["look", ("delete", "a")]
    assert [r.id for r in again.active_requirements] == [second.id, third.id]
    assert len(any_crew.requests()) == 1

    second.set_external_execution_result("x")
    third.reject()
    last = await agent.acontinue_run(run_id="the-run")
    assert last.status is RunStatus.completed
    assert done == ["look", ("delete", "a")]
    check_messages(last.messages)
    assert [t.result for t in last.tools][:3] == ["deleted a", "nothing there", "x"]
    assert last.metrics.tool_calls == 4


async def test_the_events_of_each_attempt_are_whole(crew: Crew) -> None:
    agent = crew.agent(
        "Solo", [Text("Now. "), ToolCall("delete", {"path": "a"})], Text("Done."), tools=[delete]
    )
    first = await events_of(agent, run_id="the-run")
    assert names(first) == [
        "RunStarted",
        "ModelRequestStarted",
        "RunContent",
        "ModelRequestCompleted",
        "RunPaused",
    ]
    end = first[-1]
    assert end.status is RunStatus.paused
    assert end.content == "Now. "
    assert end.metrics.model_requests == 1
    assert [t.tool_name for t in end.tools] == ["delete"]
    end.requirements[0].confirm()
    async with agent.acontinue_run(
        run_id="the-run",
        requirements=end.requirements,
        stream=True,
        stream_events=True,
        yield_run_output=True,
    ) as stream:
        second = [event async for event in stream]
    output = second.pop()
    assert names(second) == [
        "RunContinued",
        "ToolCallStarted",
        "ToolCallCompleted",
        "ModelRequestStarted",
        "RunContent",
        "ModelRequestCompleted",
        "RunContentCompleted",
        "RunCompleted",
    ]
    assert isinstance(output, RunOutput)
    assert stream.output == output
    check_attempts([*first, *second])
    assert not end.requirements[0].needs_confirmation
    assert first[-1].tools[0].result is None, "an event does not change when the run goes on"


async def test_without_events_the_pause_and_the_continuation_are_delivered(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("delete", {"path": "a"}), Text("Done."), tools=[delete])
    first = await events_of(agent, stream_events=False)
    assert names(first) == ["RunStarted", "RunPaused"]
    first[-1].requirements[0].confirm()
    async with agent.acontinue_run(
        run_id=first[0].run_id, requirements=first[-1].requirements, stream=True
    ) as stream:
        assert names([event async for event in stream]) == ["RunContinued", "RunContent", "RunCompleted"]


async def test_arguments_that_do_not_fit_are_the_model_s_to_mend_before_anybody_is_asked(crew: Crew) -> None:
    agent = crew.agent(
        "Solo",
        ToolCall("delete", {"folder": "a"}),
        ToolCall("delete", {"path": "b"}),
        Text("Done."),
        tools=[delete],
    )
    output = await agent.arun("Go.")
    assert output.is_paused
    assert "no such argument" in crew.told()[0]
    output.active_requirements[0].confirm()
    assert (await agent.acontinue_run(output)).status is RunStatus.completed
    assert done == [("delete", "b")]


async def test_a_word_on_one_call_is_no_word_on_a_later_one_of_the_same_id(crew: Crew) -> None:
    """Some providers begin to count anew in every answer."""
    agent = crew.agent(
        "Solo",
        ToolCall("delete", {"path": "a"}, id="call_1"),
        ToolCall("delete", {"path": "b"}, id="call_1"),
        Text("Done."),
        tools=[delete],
    )
    output = await agent.arun("Go.")
    output.active_requirements[0].confirm()
    again = await agent.acontinue_run(output)
    assert again.is_paused
    assert done == [("delete", "a")]
    again.active_requirements[0].confirm()
    assert (await agent.acontinue_run(again)).status is RunStatus.completed
    assert done == [("delete", "a"), ("delete", "b")]


async def test_two_calls_of_one_turn_with_one_id_need_two_words(crew: Crew) -> None:
    agent = crew.agent(
        "Solo",
        [ToolCall("delete", {"path": "a"}, id="call_1"), ToolCall("delete", {"path": "b"}, id="call_1")],
        Text("Done."),
        tools=[delete],
    )
    crew.provider.default = Text("Done.")
    output = await agent.arun("Go.")
    for requirement in output.active_requirements:
        requirement.confirm()
    await agent.acontinue_run(output)
    assert done == [("delete", "a")]


async def test_a_run_may_pause_more_than_once(crew: Crew) -> None:
    turns = [ToolCall("delete", {"path": str(number)}) for number in range(4)]
    agent = crew.agent("Solo", *turns, Text("Done."), tools=[delete])
    output = await agent.arun("Go.")
    for number in range(4):
        assert output.is_paused
        assert done == [("delete", str(n)) for n in range(number)]
        output.active_requirements[0].confirm()
        output = await agent.acontinue_run(output)
    assert output.status is RunStatus.completed
    assert output.metrics.tool_calls == 4
    assert output.metrics.model_requests == 5


async def test_input_and_messages_are_heard_when_it_goes_on(crew: Crew) -> None:
    agent, output = await paused(crew, ToolCall("delete", {"path": "a"}))
    assert agent.send_message("the-run", "Be careful.")
    output.active_requirements[0].confirm()
    again = await agent.acontinue_run(output, input="And quick.")
    assert [m.content for m in again.messages if m.role == "user"] == ["Go.", "Be careful.", "And quick."]
    check_messages(again.messages)


async def test_a_tool_that_stops_the_run_stops_it_after_the_others_were_answered(crew: Crew) -> None:
    @tool(stop_after_tool_call=True)
    async def answer() -> str:
        """Give the answer."""
        return "42"

    agent = crew.agent(
        "Solo", [ToolCall("answer"), ToolCall("delete", {"path": "a"})], tools=[answer, delete]
    )
    output = await agent.arun("Go.")
    assert output.is_paused
    output.active_requirements[0].confirm()
    again = await agent.acontinue_run(output)
    assert again.status is RunStatus.completed
    assert again.content == "42"
    assert len(crew.requests()) == 1


def test_the_same_without_an_event_loop(crew: Crew) -> None:
    agent = crew.agent("Solo", ToolCall("delete", {"path": "a"}), Text("Done."), tools=[delete])
    output = agent.run("Go.")
    assert output.is_paused
    output.active_requirements[0].confirm()
    with agent.continue_run(output, stream=True, stream_events=True) as events:
        seen = names(list(events))
    assert seen[0] == "RunContinued"
    assert seen[-1] == "RunCompleted"
    assert events.output is not None
    assert events.output.content == "Done."
