"""What a paused run waits for: one tool call each, and somebody's word on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, Self, cast
from uuid import uuid4

from pydantic import Field, field_validator, model_validator

from kern_async.exceptions import ConfigurationError

from .data import Data
from .message import now
from .tool import ToolExecution, UserInputField

__all__ = ["RunRequirement", "UserInputField"]

_KEPT_IN_THE_CALL = {
    "confirmation": "confirmed",
    "confirmation_note": "confirmation_note",
    "user_input_schema": "user_input_schema",
    "external_execution_result": "result",
}
"""Keys that the reference's clients send beside the tool call, and where the call keeps them."""


class RunRequirement(Data):
    """A tool call that waits for a confirmation, for the user's input, or to be executed elsewhere.

    What is decided is kept in `tool_execution`: the verbs here write it there, and whoever sets its fields directly
    is understood as well. `run_id` is the run that waits. When it is a team's member, `member_agent_id`,
    `member_agent_name` and `member_run_id` say which one.
    """

    id: str = Field(default_factory=lambda: uuid4().hex)
    tool_execution: ToolExecution
    created_at: int = Field(default_factory=now)
    run_id: str | None = None
    member_agent_id: str | None = None
    member_agent_name: str | None = None
    member_run_id: str | None = None

    @property
    def needs_confirmation(self) -> bool:
        """Whether `confirm()` or `reject()` is still to come."""
        return self.tool_execution.needs_confirmation

    @property
    def needs_user_input(self) -> bool:
        """Whether values for `user_input_schema` are still to come."""
        return self.tool_execution.needs_user_input

    @property
    def needs_external_execution(self) -> bool:
        """Whether `set_external_execution_result()` is still to come."""
        return self.tool_execution.needs_external_execution

    @property
    def user_input_schema(self) -> list[UserInputField] | None:
        """The form: the fields of the tool call itself, so setting their values is an answer too."""
        return self.tool_execution.user_input_schema

    @property
    def confirmation(self) -> bool | None:
        """True when confirmed, False when rejected, None before."""
        return self.tool_execution.confirmed

    @confirmation.setter
    def confirmation(self, confirmed: bool | None) -> None:
        self.tool_execution.confirmed = confirmed

    @property
    def confirmation_note(self) -> str | None:
        """What the model is told of a rejection."""
        return self.tool_execution.confirmation_note

    @confirmation_note.setter
    def confirmation_note(self, note: str | None) -> None:
        self.tool_execution.confirmation_note = note

    @property
    def external_execution_result(self) -> str | None:
        """The result that was handed in."""
        return self.tool_execution.result if self.tool_execution.external_execution_required else None

    @external_execution_result.setter
    def external_execution_result(self, result: str | None) -> None:
        self.tool_execution.result = result

    def is_resolved(self) -> bool:
        """Whether nothing is waited for any more: the run can go on."""
        return not self.tool_execution.is_paused

    def confirm(self) -> None:
        """Let the call be made.

        Raises:
            ConfigurationError: it needs no confirmation, or was confirmed or rejected already.
        """
        if not self.needs_confirmation:
            self._refuse("confirm()")
        self.tool_execution.confirmed = True

    def reject(self, note: str | None = None) -> None:
        """Have the call not be made; the model is told so, with the note.

        Raises:
            ConfigurationError: it needs no confirmation, or was confirmed or rejected already.
        """
        if not self.needs_confirmation:
            self._refuse("reject()")
        self.tool_execution.confirmed = False
        self.tool_execution.confirmation_note = note

    def provide_user_input(self, values: Mapping[str, Any]) -> None:
        """Fill fields of the form; call it again for more, or to correct one.

        The form is answered when every required field has a value, be it the model's suggestion: an empty mapping
        accepts all of them. Whether the values fit is checked when the run goes on; one that does not is an error
        that the model sees.

        Raises:
            ConfigurationError: the call needs no input of the user's, or has no field of such a name.
        """
        call = self.tool_execution
        if not call.requires_user_input:
            self._refuse("provide_user_input()")
        fields = {field.name: field for field in call.user_input_schema or []}
        if unknown := values.keys() - fields.keys():
            known = ", ".join(fields) or "none"
            raise ConfigurationError(
                f"{call.tool_name} asks for no field {min(unknown)!r}; its fields are: {known}"
            )
        for name, value in values.items():
            fields[name].value = value
        call.answered = True if not call.lacks_user_input else None

    def set_external_execution_result(self, result: Any) -> None:
        """Hand in what the call gave: text as it is, anything else as JSON.

        Raises:
            ConfigurationError: the call is not executed elsewhere, or has its result already.
        """
        if not self.needs_external_execution:
            self._refuse("set_external_execution_result()")
        text = result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)
        self.tool_execution.result = text

    def to_dict(self) -> dict[str, Any]:
        """The requirement as JSON data, without the fields that are None."""
        return self.model_dump(mode="json", exclude_none=True, fallback=str)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The requirement that `to_dict` gave."""
        return cls.model_validate(data)

    def _refuse(self, verb: str) -> NoReturn:
        call = self.tool_execution
        if self.needs_confirmation:
            need = "needs confirm() or reject()"
        elif self.needs_user_input:
            names = ", ".join(field.name for field in call.user_input_schema or [])
            need = f"needs provide_user_input() with values for {names}"
        elif self.needs_external_execution:
            need = "needs set_external_execution_result()"
        else:
            need = "is resolved and needs nothing more"
        raise ConfigurationError(f"{verb} does not fit: the call of {call.tool_name} {need}")

    @model_validator(mode="before")
    @classmethod
    def _as_the_reference_sends_it(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        call = given.get("tool_execution")
        beside = {
            inner: given[outer] for outer, inner in _KEPT_IN_THE_CALL.items() if given.get(outer) is not None
        }
        if not beside or not isinstance(call, dict):
            return given
        return given | {"tool_execution": cast("dict[str, Any]", call) | beside}

    @field_validator("created_at", mode="before")
    @classmethod
    def _in_seconds(cls, created_at: Any) -> Any:
        if isinstance(created_at, str) and not created_at.isdecimal():
            created_at = datetime.fromisoformat(created_at)
        return int(created_at.timestamp()) if isinstance(created_at, datetime) else created_at
