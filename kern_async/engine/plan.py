"""What a run is to do: the agent's or team's configuration, resolved for one run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from kern_async.guardrails import BaseGuardrail
from kern_async.models.base import Model
from kern_async.run.message import Message
from kern_async.tools import Function, Toolkit

from .history import TrimHook
from .run import Run

Hook = Callable[..., Any]
RunHook = Hook | BaseGuardrail
"""What `pre_hooks` and `post_hooks` take."""


@dataclass(kw_only=True, eq=False, slots=True)
class Plan:
    """Everything the loop needs to work on one run.

    `owner` is the agent or team as the hooks see it. `inner` names the tools that are the runtime's own:
    coroutines that take the cancel well and that run in the run's own task, such as delegating to a member.
    """

    owner: Any
    model: Model
    messages: Callable[[Run, Sequence[Message]], list[Message]]
    """Builds the conversation, after the pre-hooks, with what the model is told of earlier runs."""
    tools: dict[str, Function] = field(default_factory=dict[str, Function])
    remote: Sequence[Toolkit] = ()
    """Toolkits whose tools are fetched when the run begins, such as MCP servers'."""
    inner: frozenset[str] = frozenset()
    tool_choice: str | dict[str, Any] | None = None
    tool_call_limit: int | None = None
    output_schema: type[BaseModel] | dict[str, Any] | None = None
    tool_hooks: Sequence[Hook] = ()
    pre_hooks: Sequence[RunHook] = ()
    post_hooks: Sequence[RunHook] = ()
    retries: int = 0
    delay_between_retries: float = 1.0
    exponential_backoff: bool = False
    open: Callable[[Run], Awaitable[None]] | None = None
    """What comes before the first model request: broadcast asks all members here."""
    next_round: Callable[[Run, int], str | None] | None = None
    """Asked with 1, 2, ... when the model has no more calls: what to tell it for another round, or None."""
    tells_history: bool = False
    """Whether the model is told of earlier runs of the session."""
    num_history_runs: int | None = None
    """Of how many at most."""
    trim_history: int | TrimHook | None = None
    team_history_runs: int = 0
    """Of how many earlier runs of the root's team members are told."""
