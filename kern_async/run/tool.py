"""What a run records of a tool call, and what such a call may wait for."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .data import Data
from .message import now


class UserInputField(Data):
    """One argument of a tool call that the user is asked for.

    `field_type` is the type as JSON schema names it ("string", "integer or null"). `value` is at first what the
    model suggested, or None, and then what the user gives. A field that is not `required` may stay None: the call
    is then made without it.
    """

    name: str
    field_type: str
    description: str | None = None
    value: Any = None
    required: bool = True


class ToolExecution(Data):
    """One tool call: what the model asked for and what came of it.

    `result` is the text that the model was given. `child_run_id` is the member's run, for a delegation. A call
    that waits for somebody says here for what, and takes the answer here: `confirmed` (and `confirmation_note`),
    the values in `user_input_schema` (and `answered`), or the `result` of what was executed elsewhere.
    """

    tool_call_id: str
    tool_name: str
    tool_args: dict[str, Any] = Field(default_factory=dict[str, Any])
    tool_call_error: bool = False
    result: str | None = None
    child_run_id: str | None = None
    stop_after_tool_call: bool = False
    requires_confirmation: bool = False
    confirmed: bool | None = None
    confirmation_note: str | None = None
    requires_user_input: bool = False
    user_input_schema: list[UserInputField] | None = None
    answered: bool | None = None
    external_execution_required: bool = False
    duration: float | None = None
    created_at: int = Field(default_factory=now)

    @property
    def needs_confirmation(self) -> bool:
        """Whether somebody still has to say yes or no."""
        return self.requires_confirmation and self.confirmed is None

    @property
    def needs_user_input(self) -> bool:
        """Whether the user still has to fill the form.

        It is filled when `answered` says so, or when every required field has a value and one of them is not what
        the model suggested: suggestions alone are no answer.
        """
        if not self.requires_user_input or self.answered:
            return False
        form = self.user_input_schema or []
        touched = any(field.value != self.tool_args.get(field.name) for field in form)
        return not touched or self.lacks_user_input

    @property
    def lacks_user_input(self) -> bool:
        """Whether a required field of the form has no value."""
        return any(field.required and field.value is None for field in self.user_input_schema or [])

    @property
    def needs_external_execution(self) -> bool:
        """Whether somebody still has to execute the call and hand in its result."""
        return self.external_execution_required and self.result is None

    @property
    def is_paused(self) -> bool:
        """Whether the call waits for somebody."""
        return self.needs_confirmation or self.needs_user_input or self.needs_external_execution
