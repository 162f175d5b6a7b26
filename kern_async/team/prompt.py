"""What a team's leader is told of its members and its way of working."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from kern_async.agent.runnable import Runnable
from kern_async.run.base import BaseOutput, RunStatus

from .mode import TeamMode

if TYPE_CHECKING:
    from .team import Team

_WAYS = {
    TeamMode.coordinate: (
        "You lead a team. Give its members the parts of the work that suit them with delegate_task_to_member, "
        "several at once where they do not depend on each other. Then answer the user yourself."
    ),
    TeamMode.route: (
        "You lead a team. Choose the one member that suits the request and hand it over with "
        "delegate_task_to_member; that member's answer goes to the user. Answer yourself only if no member suits."
    ),
    TeamMode.broadcast: "You lead a team. All members have worked on the request; answer it from what they say.",
    TeamMode.tasks: (
        "You lead a team with a shared task list. Break the goal down with create_task, have members do tasks with "
        "execute_task or execute_tasks_parallel, and call mark_all_complete when the goal is reached. Then answer."
    ),
}


def team_parts(team: Team) -> list[str]:
    """The parts of the leader's system message that an agent's does not have."""
    return [_WAYS[TeamMode(team.mode or TeamMode.coordinate)], f"Members:\n{team.describe_members()}"]


def describe(members: Sequence[Runnable[Any, Any]], indent: str = "") -> str:
    """A line a member, members of a nested team below it."""
    lines: list[str] = []
    for member in members:
        what = member.role or member.description or ""
        lines.append(
            f"{indent}- {member.id}"
            + (f" ({member.name})" if member.name else "")
            + (f": {what}" if what else "")
        )
        nested: Sequence[Runnable[Any, Any]] = getattr(member, "members", ())
        if nested:
            lines.append(describe(nested, indent + "  "))
    return "\n".join(lines)


def members_said(answers: Sequence[tuple[str, str]]) -> str:
    """The message by which the leader hears what the members made of a broadcast."""
    return "\n\n".join(["The members' answers:", *(f"{name}:\n{text}" for name, text in answers)])


def earlier_turns(outputs: Sequence[BaseOutput]) -> str:
    """What members are told of the team's earlier runs: what the user asked and the team answered, as text."""
    told = ["Earlier in this conversation:"]
    for output in outputs:
        asked = output.input.messages() if output.input is not None else []
        told += [
            f"User: {message.content}" for message in asked if message.role == "user" and message.content
        ]
        cut = "" if output.status is RunStatus.completed else " (cut off)"
        told.append(f"Team{cut}: {text_of(output.content) or '(no answer)'}")
    return "\n\n".join(told)


def text_of(content: Any) -> str:
    """The content of a run, or its input, as text; JSON if it is an object."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, BaseModel):
        return content.model_dump_json()
    return json.dumps(content, default=str, ensure_ascii=False)
