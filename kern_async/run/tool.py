"""What a run records of a tool call."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from .message import now


class ToolExecution(BaseModel):
    """One tool call: what the model asked for and what came of it.

    `result` is the text that the model was given. `child_run_id` is the member's run, for a delegation.
    """

    tool_call_id: str
    tool_name: str
    tool_args: dict[str, Any] = Field(default_factory=dict[str, Any])
    tool_call_error: bool = False
    result: str | None = None
    child_run_id: str | None = None
    stop_after_tool_call: bool = False
    duration: float | None = None
    created_at: int = Field(default_factory=now)
