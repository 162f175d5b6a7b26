"""Cancel a team's run from another thread, and handle what the stream says then.

One thread reads the run and learns its id from the first event; another one cancels it by that id some seconds
later. The reader leaves at the first `*RunCancelled`, which is a member's: nothing of the run is left behind.

    python examples/team_run_cancellation.py                   # cancelled after 8 seconds
    SECONDS=60 python examples/team_run_cancellation.py        # time enough to complete
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any

from kern_async.agent import Agent
from kern_async.models.openai import OpenAIResponses
from kern_async.run.agent import RunEvent
from kern_async.run.base import RunStatus
from kern_async.run.team import TeamRunEvent
from kern_async.team import Team

SECONDS = float(os.environ.get("SECONDS", "8"))


@dataclass
class Watched:
    """What the two threads tell each other."""

    run_id: str = ""
    started: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    status: str = "unknown"
    ended_with: str = ""
    content: str | None = None

    def note(self, status: str, end: Any) -> None:
        """Keep how the run ended, from the event that says so."""
        self.status, self.ended_with, self.content = status, end.event, end.content


def read_run(team: Team, watched: Watched) -> None:
    """Read the run to its end, or to the event that says it is cancelled."""
    chunk: Any
    final_response: Any = None
    try:
        for chunk in team.run("Write a very long story about a dragon who learns to code.", stream=True):
            if not watched.run_id:
                watched.run_id = chunk.run_id
                watched.started.set()
            if chunk.event in [TeamRunEvent.run_content, RunEvent.run_content]:
                print(chunk.content, end="", flush=True)
            elif chunk.event == RunEvent.run_cancelled:
                watched.note("cancelled", chunk)  # a member's, before its team's
                return
            elif chunk.event == TeamRunEvent.run_cancelled:
                watched.note("cancelled", chunk)  # no member was at work
                return
            elif hasattr(chunk, "status") and chunk.status == RunStatus.completed:
                final_response = chunk  # a member's or the team's: the team's is the last
        if final_response is not None:
            watched.note("completed", final_response)
    finally:
        watched.over.set()


def cancel_later(team: Team, watched: Watched) -> None:
    """Cancel the run some seconds after its start, unless it is over by then."""
    watched.started.wait()
    if not watched.over.wait(SECONDS):
        print(
            f"\n\ncancelling run {watched.run_id}\n", end="", flush=True
        )  # one write: the other thread prints too
        print("it will end cancelled" if team.cancel_run(watched.run_id) else "it had ended already")


def main() -> None:
    storyteller = Agent(
        name="StorytellerAgent",
        model=OpenAIResponses(id="gpt-5.2"),
        description="You are an agent that writes stories.",
    )
    editor = Agent(
        name="EditorAgent",
        model=OpenAIResponses(id="gpt-5.2"),
        description="You are an agent that reviews and improves stories.",
    )
    team = Team(
        name="Storytelling Team",
        members=[storyteller, editor],
        model=OpenAIResponses(id="gpt-5.2"),
        description="You lead a team that writes long stories. Let the storyteller write and the editor improve.",
    )

    watched = Watched()
    reader = threading.Thread(target=read_run, args=(team, watched))
    canceller = threading.Thread(target=cancel_later, args=(team, watched), daemon=True)
    reader.start()
    canceller.start()
    reader.join()
    canceller.join()

    print(f"\nstatus: {watched.status} ({watched.ended_with})")
    print(f"text: {len(watched.content or '')} characters")
    if watched.status == "cancelled":
        print("SUCCESS: the team's run was cancelled")
    else:
        print("the team's run was not cancelled")


if __name__ == "__main__":
    main()
