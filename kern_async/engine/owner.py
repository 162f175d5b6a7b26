"""Whose run it is, and the events that such a run has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kern_async.run import agent, team
from kern_async.run.base import BaseEvent, CustomEvent


def _by_name(*events: type[BaseEvent]) -> dict[str, type[BaseEvent]]:
    return {str(event.model_fields["event"].default).removeprefix("Team"): event for event in events}


EVENTS = {
    "agent": _by_name(*get_args(agent.AgentEvent)),
    "team": _by_name(*get_args(team.TeamOwnEvent), CustomEvent),
}
"""Each kind's events, under the names of the agent's."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The agent or team whose run it is."""

    kind: Literal["agent", "team"]
    id: str
    name: str | None
