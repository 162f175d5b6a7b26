"""How a team works together."""

from __future__ import annotations

from enum import StrEnum


class TeamMode(StrEnum):
    """How a team's leader and members share the work.

    `coordinate`: the leader delegates tasks and answers. `route`: the leader chooses a member, whose answer is the
    team's. `broadcast`: all members get the task at once, then the leader answers. `tasks`: the leader works
    through a shared task list.
    """

    coordinate = "coordinate"
    route = "route"
    broadcast = "broadcast"
    tasks = "tasks"
