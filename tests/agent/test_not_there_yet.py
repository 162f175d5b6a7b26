"""What is not built yet says so, by name, instead of doing something else."""

from __future__ import annotations

from typing import Any

import pytest

from kern_async import Agent, Team

from .crew import Crew


@pytest.mark.parametrize(
    "options",
    [
        {"db": object()},
        {"checkpoint": "tool-batch"},
        {"add_history_to_context": True},
        {"num_history_runs": 3},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("kind", ["agent", "team"])
def test_a_keyword_that_is_not_there_yet_names_itself(kind: str, options: dict[str, Any]) -> None:
    (keyword,) = options
    with pytest.raises(NotImplementedError, match=f"{keyword}="):
        if kind == "agent":
            Agent(name="Solo", **options)
        else:
            Team(name="Team", members=[Agent(name="Solo")], **options)


def test_a_teams_keyword_that_is_not_there_yet_names_itself() -> None:
    with pytest.raises(NotImplementedError, match="add_team_history_to_members="):
        Team(members=[Agent(name="Solo")], add_team_history_to_members=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_runs_keyword_that_is_not_there_yet_names_itself(crew: Crew, stream: bool) -> None:
    with pytest.raises(NotImplementedError, match="background="):
        crew.agent().arun("Go.", stream=stream, background=True)
