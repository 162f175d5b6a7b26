"""What agents' and teams' runs have in common: status, metrics, and the fields of their events and outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from kern_async.exceptions import RunCancelled, RunFailed

from .data import Data, FrozenData
from .message import Message, now, text_message
from .requirement import RunRequirement
from .tool import ToolExecution


class RunStatus(StrEnum):
    """Where a run stands. A run ends COMPLETED, CANCELLED or ERROR, once."""

    pending = "PENDING"
    running = "RUNNING"
    completed = "COMPLETED"
    paused = "PAUSED"
    cancelled = "CANCELLED"
    error = "ERROR"


class CancellationStage(StrEnum):
    """How far a cancelled run had come."""

    pending = "PENDING"
    executing = "EXECUTING"
    paused = "PAUSED"


CancelledBy = Literal["request", "deadline", "limit", "consumer", "caller", "parent", "shutdown"]
"""Who ended a cancelled run.

`request`: a `cancel_run` call. `deadline`: its `timeout`. `limit`: its `limits`. `consumer`: who read the
stream left it. `caller`: the task that awaited or read it was cancelled. `parent`: its team ended.
`shutdown`: its event loop or server stopped.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A piece of a run's work: something that a cancel cut, or that outlived its run.

    `kind` is `model`, `tool`, `thread` (a sync tool or hook), `hook`, `member`, `backoff` or `run` (a run whose
    event loop was gone). `run_id` is the run the work was done for; a member's is the member's own.
    """

    kind: Literal["model", "tool", "thread", "hook", "member", "backoff", "run"]
    name: str
    run_id: str
    tool_call_id: str | None = None


@dataclass(slots=True, kw_only=True)
class RunMetrics:
    """What a run used. Times are seconds; a team's figures include its members'.

    `estimated` says that part of the tokens is an estimate: a provider never reports the usage of a
    generation that was cut.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    model_requests: int = 0
    tool_calls: int = 0
    time_to_first_token: float | None = None
    duration: float | None = None
    estimated: bool = False

    def add(self, other: RunMetrics, *, less: RunMetrics | None = None) -> None:
        """Count `other` in, `less` what was counted before: sums of what is countable; own times stay."""
        for name in _COUNTED:
            more = getattr(other, name) - (getattr(less, name) if less is not None else 0)
            if more:
                setattr(self, name, getattr(self, name) + more)
        self.estimated = self.estimated or other.estimated


_COUNTED = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "reasoning_tokens",
    "cache_read_tokens",
    "model_requests",
    "tool_calls",
)


class RunInput(Data):
    """What a run was asked. A pre-hook may change `input_content`."""

    input_content: str | Message | list[Message] | dict[str, Any] | SerializeAsAny[BaseModel] = Field(
        union_mode="left_to_right"  # what looks like a message was one
    )

    def messages(self) -> list[Message]:
        """The input as messages; an object is given to the model as JSON."""
        content = self.input_content
        if isinstance(content, Message):
            return [content]
        if isinstance(content, list):
            return list(content)
        if isinstance(content, BaseModel):
            content = content.model_dump_json()
        elif isinstance(content, dict):
            content = json.dumps(content, default=str, ensure_ascii=False)
        return [text_message("user", content)]

    @property
    def message_count(self) -> int:
        """How many messages it is."""
        return len(self.input_content) if isinstance(self.input_content, list) else 1


class BaseEvent(FrozenData, frozen=True):
    """The fields of every event of every run.

    `event_index` counts 0, 1, 2, ... in the log of the root run, over all runs of its tree; `created_at` is in
    whole seconds since the epoch.
    """

    event: str
    run_id: str
    parent_run_id: str | None = None
    session_id: str
    created_at: int = Field(default_factory=now)
    event_index: int = 0
    content: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON data, without the fields that are None; what is no JSON is its `str`."""
        return self.model_dump(mode="json", exclude_none=True, fallback=str)

    def to_json(self) -> str:
        """The event as one line of JSON, without the fields that are None; what is no JSON is its `str`."""
        return self.model_dump_json(exclude_none=True, fallback=str)


class Started(FrozenData, frozen=True):
    """Fields of `*RunStarted` and `*RunContinued`."""

    model: str | None = None
    model_provider: str | None = None


class ContentDelta(FrozenData, frozen=True):
    """Fields of `*RunContent`: `content` is the text that was added."""

    content: str = ""


class Ended(FrozenData, frozen=True):
    """Fields of every terminal or paused event. `content` is all the text of the run, None when there is none."""

    status: RunStatus
    metrics: RunMetrics | None = None
    stored: bool | None = None
    """Whether the run's row was committed before this event; None without a `db`."""
    store_error: str | None = None


class Failed(FrozenData, frozen=True):
    """Fields of `*RunError`."""

    error: str
    error_type: str
    additional_data: dict[str, Any] | None = None


class Cancelled(FrozenData, frozen=True):
    """Fields of `*RunCancelled`; the times are seconds since the epoch."""

    reason: str | None = None
    cancelled_by: CancelledBy
    cancellation_stage: CancellationStage
    requested_at: float
    settled_at: float
    interrupted: list[Work] = Field(default_factory=list[Work])
    """What the cancel cut."""
    abandoned: list[Work] = Field(default_factory=list[Work])
    """What was still going when the run ended; `kern_async.abandoned()` lists it until it ends."""
    error: str | None = None
    """An error that happened while the run was ending."""
    error_type: str | None = None


class Paused(FrozenData, frozen=True):
    """Fields of `*RunPaused`, the last event of an attempt that waits for somebody."""

    status: RunStatus = RunStatus.paused
    requirements: list[RunRequirement] = Field(default_factory=list[RunRequirement])
    """What the run waits for, its members' included."""
    tools: list[ToolExecution] = Field(default_factory=list[ToolExecution])
    """The tool calls that wait."""
    session_state: dict[str, Any] | None = None


class HookEvent(FrozenData, frozen=True):
    """Fields of `*PreHook*` and `*PostHook*`."""

    hook_name: str


class ToolEvent(FrozenData, frozen=True):
    """Fields of `*ToolCall*`."""

    tool: ToolExecution


class ToolFailed(ToolEvent, frozen=True):
    """Fields of `*ToolCallError`; `error` is "cancelled" for a call that a cancel cut."""

    error: str


class ReasoningDelta(FrozenData, frozen=True):
    """Fields of `*ReasoningContentDelta`."""

    reasoning_content: str = ""


class ModelRequested(FrozenData, frozen=True):
    """Fields of `*ModelRequestStarted`."""

    model: str
    model_provider: str


class ModelAnswered(ModelRequested, frozen=True):
    """Fields of `*ModelRequestCompleted`; times are seconds."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    time_to_first_token: float | None = None
    estimated: bool = False
    error: str | None = None


class CustomEvent(BaseEvent, frozen=True):
    """Progress that a tool reported with `ctx.report()`; the same for agents and teams."""

    event: Literal["CustomEvent"] = "CustomEvent"
    agent_id: str | None = None
    agent_name: str | None = None
    team_id: str | None = None
    team_name: str | None = None
    tool_call_id: str | None = None


class BaseOutput(Data):
    """What a run leaves, whatever its end."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    run_id: str
    parent_run_id: str | None = None
    session_id: str
    user_id: str | None = None
    status: RunStatus
    event: str | None = None
    """Name of the terminal event."""
    event_index: int | None = None
    """The index of that event; None for a member's run."""
    input: RunInput | None = None
    content: Any = None
    """All the text of the run, or the parsed `output_schema`; None when there is none."""
    content_type: str = "str"
    reasoning_content: str | None = None
    messages: list[Message] = Field(default_factory=list[Message])
    """This run's own conversation; what it was told of earlier runs is in their outputs."""
    metrics: RunMetrics = Field(default_factory=RunMetrics)
    tools: list[ToolExecution] = Field(default_factory=list[ToolExecution])
    requirements: list[RunRequirement] | None = None
    """What the run waited for when it paused, its members' included."""
    model: str | None = None
    model_provider: str | None = None
    session_state: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    created_at: int = Field(default_factory=now)
    reason: str | None = None
    cancelled_by: CancelledBy | None = None
    cancellation_stage: CancellationStage | None = None
    requested_at: float | None = None
    settled_at: float | None = None
    interrupted: list[Work] = Field(default_factory=list[Work])
    abandoned: list[Work] = Field(default_factory=list[Work])
    error: str | None = None
    error_type: str | None = None
    stored: bool | None = None
    store_error: str | None = None
    forked_from_run_id: str | None = None
    """The run that this one is a copy of, in a session that was forked."""
    forked_from_session_id: str | None = None

    @property
    def is_cancelled(self) -> bool:
        return self.status is RunStatus.cancelled

    @property
    def is_paused(self) -> bool:
        return self.status is RunStatus.paused

    @property
    def active_requirements(self) -> list[RunRequirement]:
        """The requirements that are not resolved."""
        return [requirement for requirement in self.requirements or [] if not requirement.is_resolved()]

    @property
    def tools_requiring_confirmation(self) -> list[ToolExecution]:
        """The tool calls that wait for a yes or no: set `confirmed`."""
        return [waiting.tool_execution for waiting in self.active_requirements if waiting.needs_confirmation]

    @property
    def tools_requiring_user_input(self) -> list[ToolExecution]:
        """The tool calls that wait for the user: set the values in `user_input_schema`."""
        return [waiting.tool_execution for waiting in self.active_requirements if waiting.needs_user_input]

    @property
    def tools_awaiting_external_execution(self) -> list[ToolExecution]:
        """The tool calls that are executed elsewhere: set `result`."""
        return [
            waiting.tool_execution for waiting in self.active_requirements if waiting.needs_external_execution
        ]

    def raise_for_status(self) -> Self:
        """Return this output if the run COMPLETED or is PAUSED; raise what happened otherwise.

        Raises:
            RunCancelled: the run was cancelled.
            RunFailed: the run ended with an error.
        """
        if self.status is RunStatus.cancelled:
            raise RunCancelled(
                f"run {self.run_id} was cancelled by {self.cancelled_by}"
                + (f": {self.reason}" if self.reason else ""),
                self,
            )
        if self.status is RunStatus.error:
            raise RunFailed(f"run {self.run_id} failed with {self.error_type}: {self.error}", self)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The output as JSON data, without the fields that are None."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self) -> str:
        """The output as JSON, without the fields that are None."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The output that `to_dict` gave."""
        return cls.model_validate(data)
