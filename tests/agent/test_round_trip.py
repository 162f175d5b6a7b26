"""Events and outputs as JSON, and back."""

from __future__ import annotations

import json
from typing import Any, get_args

import anyio
import pytest
from pydantic import BaseModel, TypeAdapter

from kern_async import RunContext, cancel_run
from kern_async.run.agent import AgentEvent, RunEvent, RunOutput, RunOutputEvent
from kern_async.run.base import RunStatus
from kern_async.run.team import TeamRunOutput
from kern_async.testing import Forever, Reasoning, Status, Text, ToolCall

from .crew import Crew, events_of

EVENT: TypeAdapter[Any] = TypeAdapter(RunOutputEvent)


def look(context: RunContext) -> str:
    """Look."""
    context.report("looking")
    return "rain"


def fail() -> str:
    """Fail."""
    raise ValueError("dry")


def hook() -> None:
    """A hook."""


async def completed(crew: Crew) -> list[Any]:
    calls = [Reasoning("Hm."), ToolCall("look"), ToolCall("fail")]
    agent = crew.agent(
        "Solo", calls, Text("It rains."), tools=[look, fail], pre_hooks=[hook], post_hooks=[hook]
    )
    return await events_of(agent, {"dish": "soup"}, yield_run_output=True, metadata={"m": 1})


async def failed(crew: Crew) -> list[Any]:
    return await events_of(crew.agent("Solo", Status(400)), yield_run_output=True)


async def cancelled(crew: Crew) -> list[Any]:
    items: list[Any] = []
    agent = crew.agent("Solo", Forever())
    async with agent.arun("Go.", stream=True, stream_events=True, yield_run_output=True) as events:
        async for event in events:
            items.append(event)
            if event.event == "RunContent":
                cancel_run(event.run_id, reason="enough")
    return items


@pytest.mark.parametrize("ending", [completed, failed, cancelled], ids=lambda ending: ending.__name__)
async def test_every_event_of_a_run_survives_json(crew: Crew, ending: Any) -> None:
    with anyio.fail_after(5):
        *events, _ = await ending(crew)
    for event in events:
        again = EVENT.validate_json(event.to_json())
        assert type(again) is type(event)
        assert again == event
        assert EVENT.validate_python(event.to_dict()) == event
        assert "\n" not in event.to_json()
        assert None not in event.to_dict().values()


@pytest.mark.parametrize("ending", [completed, failed, cancelled], ids=lambda ending: ending.__name__)
async def test_an_output_survives_json(crew: Crew, ending: Any) -> None:
    with anyio.fail_after(5):
        *_, output = await ending(crew)
    again = RunOutput.from_dict(output.to_dict())
    assert again == output
    assert again.status is output.status
    assert RunOutput.from_dict(json.loads(output.to_json())) == output


async def test_an_output_with_its_events_survives_json(crew: Crew) -> None:
    output = await crew.agent(store_events=True).arun("Go.")
    again = RunOutput.from_dict(output.to_dict())
    assert again.events == output.events
    assert again.events is not None
    assert [type(event) for event in again.events] == [type(event) for event in output.events or []]


async def test_an_output_with_an_object_survives_json_as_data(crew: Crew) -> None:
    class Story(BaseModel):
        title: str

    output = await crew.agent("Solo", Text('{"title": "Rain"}'), output_schema=Story).arun("Go.")
    data = output.to_dict()
    assert data["content"] == {"title": "Rain"}
    assert RunOutput.from_dict(data).to_dict() == data


def test_statuses_are_told_in_capitals() -> None:
    assert [status.value for status in RunStatus] == [
        "PENDING",
        "RUNNING",
        "COMPLETED",
        "PAUSED",
        "CANCELLED",
        "ERROR",
    ]


def test_events_are_told_apart_by_their_name() -> None:
    schema = EVENT.json_schema()
    mapping = schema["discriminator"]["mapping"]
    assert set(mapping) == {cls.model_fields["event"].default for cls in get_args(AgentEvent)}
    assert set(mapping) == set(RunEvent)


@pytest.mark.parametrize("kind", [RunOutput, TeamRunOutput])
def test_outputs_have_a_json_schema(kind: type[BaseModel]) -> None:
    assert "status" in kind.model_json_schema(mode="serialization").get("properties", {}) or "$defs" in (
        kind.model_json_schema(mode="serialization")
    )
    json.dumps(kind.model_json_schema())
