"""Sessions: the conversations that runs belong to, as they are stored."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from .agent import RunOutput
from .base import BaseOutput
from .data import Data
from .message import Message
from .team import TeamRunOutput


class SessionSummary(Data):
    """A session without its runs, as `list_sessions` gives it.

    It is of the agent or the team whose run began it, or that it was made for; the other id is None. Times are
    seconds since the epoch; `updated_at` is when it, or a run of it, was last written. `run_count` does not count
    members' runs.
    """

    session_id: str
    session_name: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    team_id: str | None = None
    metadata: dict[str, Any] | None = None
    session_state: dict[str, Any] = Field(default_factory=dict[str, Any])
    created_at: float
    updated_at: float
    run_count: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON data, without the fields that are None."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The summary that `to_dict` gave."""
        return cls.model_validate(data)


class Session(Data):
    """A session with its state and all its runs, members' too, in the order in which they began.

    It is of the agent or the team whose run began it, or that it was made for; the other id is None. Times are
    seconds since the epoch; `updated_at` is when it, or a run of it, was last written. It is a copy: changing it
    changes nothing that is stored.
    """

    session_id: str
    session_name: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    team_id: str | None = None
    metadata: dict[str, Any] | None = None
    session_state: dict[str, Any] = Field(default_factory=dict[str, Any])
    runs: list[RunOutput | TeamRunOutput] = Field(default_factory=list["RunOutput | TeamRunOutput"])
    created_at: float
    updated_at: float

    def get_run(self, run_id: str) -> RunOutput | TeamRunOutput | None:
        """The run of this id, a member's too; None if it is not in this session."""
        return next((run for run in self.runs if run.run_id == run_id), None)

    def get_messages(self, last_n_runs: int | None = None) -> list[Message]:
        """The conversation: the messages of its runs (the last ones), without members' and system messages."""
        roots = [run for run in self.runs if run.parent_run_id is None]
        chosen = roots if last_n_runs is None else roots[max(0, len(roots) - last_n_runs) :]
        return [message for run in chosen for message in own_messages(run)]

    def to_dict(self) -> dict[str, Any]:
        """The session as JSON data, without the fields that are None; what is no JSON is its `str`."""
        return self.model_dump(mode="json", exclude_none=True, fallback=str)

    def to_json(self) -> str:
        """The session as JSON, without the fields that are None; what is no JSON is its `str`."""
        return self.model_dump_json(exclude_none=True, fallback=str)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The session that `to_dict` gave."""
        return cls.model_validate(data)


def own_messages(output: BaseOutput) -> list[Message]:
    """A run's own part of the conversation: no system messages, and nothing that earlier runs brought into it."""
    return [message for message in output.messages if message.role != "system" and not message.from_history]
