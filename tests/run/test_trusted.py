"""What the runtime makes without validating is what validating makes (run/trusted.py)."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from kern_async.run import agent, team
from kern_async.run.base import CancellationStage, CustomEvent, RunInput, RunMetrics, RunStatus, Work
from kern_async.run.message import Message
from kern_async.run.requirement import RunRequirement
from kern_async.run.tool import ToolExecution
from kern_async.run.trusted import trusted

WAITING = ToolExecution(tool_call_id="c", tool_name="look", requires_confirmation=True, created_at=1)
VALUES: dict[str, Any] = {
    "run_id": "r",
    "parent_run_id": None,
    "session_id": "s",
    "created_at": 1,
    "event_index": 7,
    "agent_id": "a",
    "agent_name": None,
    "team_id": "t",
    "team_name": "T",
    "model": "m",
    "model_provider": "p",
    "status": RunStatus.cancelled,
    "metrics": RunMetrics(input_tokens=3),
    "error": "broken",
    "error_type": "ValueError",
    "cancelled_by": "request",
    "cancellation_stage": CancellationStage.executing,
    "requested_at": 1.5,
    "settled_at": 2.5,
    "interrupted": [Work(kind="tool", name="look", run_id="r", tool_call_id="c")],
    "hook_name": "hook",
    "tool": ToolExecution(tool_call_id="c", tool_name="look", created_at=1),
    "tools": [WAITING],
    "requirements": [RunRequirement(id="q", tool_execution=WAITING, created_at=1)],
    "iteration": 1,
    "max_iterations": 2,
    "tasks": [team.TaskState(task_id="1", title="x")],
    "task": team.TaskState(task_id="1", title="x"),
    "input": RunInput(input_content="go"),
    "messages": [Message(role="user", content="go", created_at=1)],
    "role": "assistant",
}
CLASSES: list[type[BaseModel]] = [*get_args(team.TeamEvent), agent.RunOutput, team.TeamRunOutput, Message]


@pytest.mark.parametrize(
    "cls", CLASSES, ids=lambda cls: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
)
def test_an_object_made_of_trusted_values_is_the_validated_one(cls: type[BaseModel]) -> None:
    values = {name: VALUES[name] for name in cls.model_fields if name in VALUES}
    made, validated = trusted(cls, values), cls(**values)
    assert made == validated
    assert made.model_dump_json() == validated.model_dump_json()
    assert made.model_fields_set == validated.model_fields_set
    assert repr(made) == repr(validated)
    assert TypeAdapter(cls).validate_json(made.model_dump_json()) == validated
    assert made.model_copy() == made


def test_defaults_that_are_made_anew_are_not_shared() -> None:
    one, other = trusted(Message, {"role": "user"}), trusted(Message, {"role": "user"})
    assert one.tool_calls is not other.tool_calls


def test_progress_that_is_no_json_is_still_an_event_on_the_wire() -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

    event = CustomEvent(run_id="r", session_id="s", content=Thing())
    assert '"content":"a thing"' in event.to_json()
    assert event.to_dict()["content"] == "a thing"
