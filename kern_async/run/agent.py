"""Events and output of an agent's run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from . import base


class RunEvent(StrEnum):
    """Names of an agent's events; an event's `event` field is the plain string."""

    run_started = "RunStarted"
    run_content = "RunContent"
    run_content_completed = "RunContentCompleted"
    run_completed = "RunCompleted"
    run_error = "RunError"
    run_cancelled = "RunCancelled"
    run_paused = "RunPaused"
    run_continued = "RunContinued"
    pre_hook_started = "PreHookStarted"
    pre_hook_completed = "PreHookCompleted"
    post_hook_started = "PostHookStarted"
    post_hook_completed = "PostHookCompleted"
    tool_call_started = "ToolCallStarted"
    tool_call_completed = "ToolCallCompleted"
    tool_call_error = "ToolCallError"
    reasoning_started = "ReasoningStarted"
    reasoning_content_delta = "ReasoningContentDelta"
    reasoning_completed = "ReasoningCompleted"
    model_request_started = "ModelRequestStarted"
    model_request_completed = "ModelRequestCompleted"
    custom_event = "CustomEvent"


class BaseRunEvent(base.BaseEvent, frozen=True):
    """The fields of every event of an agent's run."""

    agent_id: str
    agent_name: str | None = None


class RunStartedEvent(BaseRunEvent, base.Started, frozen=True):
    """The run began: the first event of every run."""

    event: Literal["RunStarted"] = "RunStarted"


class RunContentEvent(base.ContentDelta, BaseRunEvent, frozen=True):
    """Text of the answer: `content` is what was added."""

    event: Literal["RunContent"] = "RunContent"


class RunContentCompletedEvent(BaseRunEvent, frozen=True):
    """The answer's text is complete."""

    event: Literal["RunContentCompleted"] = "RunContentCompleted"


class RunCompletedEvent(BaseRunEvent, base.Ended, frozen=True):
    """The run ended as it should."""

    event: Literal["RunCompleted"] = "RunCompleted"
    session_state: dict[str, Any] | None = None


class RunErrorEvent(BaseRunEvent, base.Ended, base.Failed, frozen=True):
    """The run failed; `content` is the text until then."""

    event: Literal["RunError"] = "RunError"


class RunCancelledEvent(BaseRunEvent, base.Ended, base.Cancelled, frozen=True):
    """The run was cancelled; `content` is the text until then."""

    event: Literal["RunCancelled"] = "RunCancelled"


class RunPausedEvent(BaseRunEvent, base.Paused, base.Ended, frozen=True):
    """The run waits for somebody: its last event until it is continued or cancelled."""

    event: Literal["RunPaused"] = "RunPaused"


class RunContinuedEvent(BaseRunEvent, base.Started, frozen=True):
    """The run goes on: the first event of every further attempt."""

    event: Literal["RunContinued"] = "RunContinued"


class PreHookStartedEvent(BaseRunEvent, base.HookEvent, frozen=True):
    """A pre-hook began."""

    event: Literal["PreHookStarted"] = "PreHookStarted"


class PreHookCompletedEvent(BaseRunEvent, base.HookEvent, frozen=True):
    """A pre-hook returned."""

    event: Literal["PreHookCompleted"] = "PreHookCompleted"


class PostHookStartedEvent(BaseRunEvent, base.HookEvent, frozen=True):
    """A post-hook began."""

    event: Literal["PostHookStarted"] = "PostHookStarted"


class PostHookCompletedEvent(BaseRunEvent, base.HookEvent, frozen=True):
    """A post-hook returned."""

    event: Literal["PostHookCompleted"] = "PostHookCompleted"


class ToolCallStartedEvent(BaseRunEvent, base.ToolEvent, frozen=True):
    """A tool call began."""

    event: Literal["ToolCallStarted"] = "ToolCallStarted"


class ToolCallCompletedEvent(BaseRunEvent, base.ToolEvent, frozen=True):
    """A tool call returned; `content` is the text that the model is given."""

    event: Literal["ToolCallCompleted"] = "ToolCallCompleted"


class ToolCallErrorEvent(BaseRunEvent, base.ToolFailed, frozen=True):
    """A tool call failed or was cut."""

    event: Literal["ToolCallError"] = "ToolCallError"


class ReasoningStartedEvent(BaseRunEvent, frozen=True):
    """The model began to reason aloud."""

    event: Literal["ReasoningStarted"] = "ReasoningStarted"


class ReasoningContentDeltaEvent(BaseRunEvent, base.ReasoningDelta, frozen=True):
    """Text of the model's reasoning."""

    event: Literal["ReasoningContentDelta"] = "ReasoningContentDelta"


class ReasoningCompletedEvent(BaseRunEvent, base.ReasoningDelta, frozen=True):
    """The reasoning ended; `reasoning_content` is all of it."""

    event: Literal["ReasoningCompleted"] = "ReasoningCompleted"


class ModelRequestStartedEvent(BaseRunEvent, base.ModelRequested, frozen=True):
    """A request to the model's provider began."""

    event: Literal["ModelRequestStarted"] = "ModelRequestStarted"


class ModelRequestCompletedEvent(BaseRunEvent, base.ModelAnswered, frozen=True):
    """A request to the model's provider ended, in whatever way."""

    event: Literal["ModelRequestCompleted"] = "ModelRequestCompleted"


AgentEvent = (
    RunStartedEvent
    | RunContentEvent
    | RunContentCompletedEvent
    | RunCompletedEvent
    | RunErrorEvent
    | RunCancelledEvent
    | RunPausedEvent
    | RunContinuedEvent
    | PreHookStartedEvent
    | PreHookCompletedEvent
    | PostHookStartedEvent
    | PostHookCompletedEvent
    | ToolCallStartedEvent
    | ToolCallCompletedEvent
    | ToolCallErrorEvent
    | ReasoningStartedEvent
    | ReasoningContentDeltaEvent
    | ReasoningCompletedEvent
    | ModelRequestStartedEvent
    | ModelRequestCompletedEvent
    | base.CustomEvent
)
RunOutputEvent = Annotated[AgentEvent, Field(discriminator="event")]
"""Any event of an agent's run, as a union that pydantic tells apart by `event`."""


class RunOutput(base.BaseOutput):
    """What an agent's run leaves, whatever its end."""

    agent_id: str
    agent_name: str | None = None
    events: list[RunOutputEvent] | None = None
