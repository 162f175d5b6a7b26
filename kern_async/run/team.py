"""Events and output of a team's run. A team's stream also carries the events of all its members' runs."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from . import agent, base
from .data import Data


class TeamRunEvent(StrEnum):
    """Names of a team's own events; an event's `event` field is the plain string."""

    run_started = "TeamRunStarted"
    run_content = "TeamRunContent"
    run_content_completed = "TeamRunContentCompleted"
    run_completed = "TeamRunCompleted"
    run_error = "TeamRunError"
    run_cancelled = "TeamRunCancelled"
    run_paused = "TeamRunPaused"
    run_continued = "TeamRunContinued"
    pre_hook_started = "TeamPreHookStarted"
    pre_hook_completed = "TeamPreHookCompleted"
    post_hook_started = "TeamPostHookStarted"
    post_hook_completed = "TeamPostHookCompleted"
    tool_call_started = "TeamToolCallStarted"
    tool_call_completed = "TeamToolCallCompleted"
    tool_call_error = "TeamToolCallError"
    reasoning_started = "TeamReasoningStarted"
    reasoning_content_delta = "TeamReasoningContentDelta"
    reasoning_completed = "TeamReasoningCompleted"
    model_request_started = "TeamModelRequestStarted"
    model_request_completed = "TeamModelRequestCompleted"
    task_iteration_started = "TeamTaskIterationStarted"
    task_iteration_completed = "TeamTaskIterationCompleted"
    task_state_updated = "TeamTaskStateUpdated"
    task_created = "TeamTaskCreated"
    task_updated = "TeamTaskUpdated"
    custom_event = "CustomEvent"


class BaseTeamRunEvent(base.BaseEvent, frozen=True):
    """The fields of every event of a team's run."""

    team_id: str
    team_name: str | None = None


class RunStartedEvent(BaseTeamRunEvent, base.Started, frozen=True):
    """The run began: the first event of every run."""

    event: Literal["TeamRunStarted"] = "TeamRunStarted"


class RunContentEvent(base.ContentDelta, BaseTeamRunEvent, frozen=True):
    """Text of the answer: `content` is what was added.

    In `route` the text is a member's, and `member_run_id` is that member's run.
    """

    event: Literal["TeamRunContent"] = "TeamRunContent"
    member_run_id: str | None = None


class RunContentCompletedEvent(BaseTeamRunEvent, frozen=True):
    """The answer's text is complete."""

    event: Literal["TeamRunContentCompleted"] = "TeamRunContentCompleted"


class RunCompletedEvent(BaseTeamRunEvent, base.Ended, frozen=True):
    """The run ended as it should."""

    event: Literal["TeamRunCompleted"] = "TeamRunCompleted"
    session_state: dict[str, Any] | None = None


class RunErrorEvent(BaseTeamRunEvent, base.Ended, base.Failed, frozen=True):
    """The run failed; `content` is the text until then."""

    event: Literal["TeamRunError"] = "TeamRunError"


class RunCancelledEvent(BaseTeamRunEvent, base.Ended, base.Cancelled, frozen=True):
    """The run was cancelled; `content` is the text until then."""

    event: Literal["TeamRunCancelled"] = "TeamRunCancelled"


class RunPausedEvent(BaseTeamRunEvent, base.Paused, base.Ended, frozen=True):
    """The run waits for somebody: its last event until it is continued or cancelled."""

    event: Literal["TeamRunPaused"] = "TeamRunPaused"


class RunContinuedEvent(BaseTeamRunEvent, base.Started, frozen=True):
    """The run goes on: the first event of every further attempt."""

    event: Literal["TeamRunContinued"] = "TeamRunContinued"


class PreHookStartedEvent(BaseTeamRunEvent, base.HookEvent, frozen=True):
    """A pre-hook began."""

    event: Literal["TeamPreHookStarted"] = "TeamPreHookStarted"


class PreHookCompletedEvent(BaseTeamRunEvent, base.HookEvent, frozen=True):
    """A pre-hook returned."""

    event: Literal["TeamPreHookCompleted"] = "TeamPreHookCompleted"


class PostHookStartedEvent(BaseTeamRunEvent, base.HookEvent, frozen=True):
    """A post-hook began."""

    event: Literal["TeamPostHookStarted"] = "TeamPostHookStarted"


class PostHookCompletedEvent(BaseTeamRunEvent, base.HookEvent, frozen=True):
    """A post-hook returned."""

    event: Literal["TeamPostHookCompleted"] = "TeamPostHookCompleted"


class ToolCallStartedEvent(BaseTeamRunEvent, base.ToolEvent, frozen=True):
    """A tool call began."""

    event: Literal["TeamToolCallStarted"] = "TeamToolCallStarted"


class ToolCallCompletedEvent(BaseTeamRunEvent, base.ToolEvent, frozen=True):
    """A tool call returned; `content` is the text that the model is given."""

    event: Literal["TeamToolCallCompleted"] = "TeamToolCallCompleted"


class ToolCallErrorEvent(BaseTeamRunEvent, base.ToolFailed, frozen=True):
    """A tool call failed or was cut."""

    event: Literal["TeamToolCallError"] = "TeamToolCallError"


class ReasoningStartedEvent(BaseTeamRunEvent, frozen=True):
    """The model began to reason aloud."""

    event: Literal["TeamReasoningStarted"] = "TeamReasoningStarted"


class ReasoningContentDeltaEvent(BaseTeamRunEvent, base.ReasoningDelta, frozen=True):
    """Text of the model's reasoning."""

    event: Literal["TeamReasoningContentDelta"] = "TeamReasoningContentDelta"


class ReasoningCompletedEvent(BaseTeamRunEvent, base.ReasoningDelta, frozen=True):
    """The reasoning ended; `reasoning_content` is all of it."""

    event: Literal["TeamReasoningCompleted"] = "TeamReasoningCompleted"


class ModelRequestStartedEvent(BaseTeamRunEvent, base.ModelRequested, frozen=True):
    """A request to the model's provider began."""

    event: Literal["TeamModelRequestStarted"] = "TeamModelRequestStarted"


class ModelRequestCompletedEvent(BaseTeamRunEvent, base.ModelAnswered, frozen=True):
    """A request to the model's provider ended, in whatever way."""

    event: Literal["TeamModelRequestCompleted"] = "TeamModelRequestCompleted"


class TaskState(Data):
    """One task of a team's shared list (mode `tasks`)."""

    task_id: str
    title: str
    description: str = ""
    status: Literal["pending", "in_progress", "completed", "failed", "blocked"] = "pending"
    assignee: str | None = None
    depends_on: list[str] = Field(default_factory=list[str])
    notes: list[str] = Field(default_factory=list[str])
    result: str | None = None


class TaskIterationStartedEvent(BaseTeamRunEvent, frozen=True):
    """The leader begins another round over the task list."""

    event: Literal["TeamTaskIterationStarted"] = "TeamTaskIterationStarted"
    iteration: int
    max_iterations: int


class TaskIterationCompletedEvent(BaseTeamRunEvent, frozen=True):
    """A round over the task list ended."""

    event: Literal["TeamTaskIterationCompleted"] = "TeamTaskIterationCompleted"
    iteration: int
    max_iterations: int


class TaskStateUpdatedEvent(BaseTeamRunEvent, frozen=True):
    """The whole task list, after it changed."""

    event: Literal["TeamTaskStateUpdated"] = "TeamTaskStateUpdated"
    tasks: list[TaskState]


class TaskCreatedEvent(BaseTeamRunEvent, frozen=True):
    """A task was added."""

    event: Literal["TeamTaskCreated"] = "TeamTaskCreated"
    task: TaskState


class TaskUpdatedEvent(BaseTeamRunEvent, frozen=True):
    """A task changed."""

    event: Literal["TeamTaskUpdated"] = "TeamTaskUpdated"
    task: TaskState


TeamOwnEvent = (
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
    | TaskIterationStartedEvent
    | TaskIterationCompletedEvent
    | TaskStateUpdatedEvent
    | TaskCreatedEvent
    | TaskUpdatedEvent
)
TeamEvent = TeamOwnEvent | agent.AgentEvent
TeamRunOutputEvent = Annotated[TeamEvent, Field(discriminator="event")]
"""Any event in a team's stream, members' included, as a union that pydantic tells apart by `event`."""


@cache
def event_reader() -> TypeAdapter[base.BaseEvent]:
    """What makes an event of any kind of its data again; made at the first call, for that takes a while."""
    return TypeAdapter(TeamRunOutputEvent)


class TeamRunOutput(base.BaseOutput):
    """What a team's run leaves, whatever its end; `content` is the leader's answer only."""

    team_id: str
    team_name: str | None = None
    member_responses: list[TeamRunOutput | agent.RunOutput] = Field(
        default_factory=list["TeamRunOutput | agent.RunOutput"]
    )
    events: list[TeamRunOutputEvent] | None = None
