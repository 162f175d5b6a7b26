"""`kern-async demo`: two storytellers at work, stopped in the middle of their sentences.

The team's run is read in one thread and cancelled from another; then a table says what the cancel did and how long
it took. With OPENAI_API_KEY set the model is OpenAI's (OPENAI_MODEL names it), otherwise a small one that runs here.
Ctrl-C cancels the run that is going on and shows the same table. It needs no extra but `local` or a key, and runs
without typer as `python -m kern_async.cli.demo`, as `scripts/demo` does.

Exit code: 0 if the first run COMPLETED and the second was CANCELLED, 130 after Ctrl-C, 2 without a model, else 1.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, field

import anyio

from kern_async.agent import Agent
from kern_async.agent.printing import RunView, summary
from kern_async.exceptions import KernError
from kern_async.models.base import Model
from kern_async.models.llamacpp import LlamaCpp
from kern_async.models.openai import OpenAIResponses
from kern_async.run.base import RunStatus
from kern_async.run.team import TeamEvent, TeamRunOutput
from kern_async.team import Team, TeamMode

from .exits import Exit
from .signals import stopping

STOP_AFTER = 2.5  # seconds from the moment when every member speaks
SPEAKING, STOP, CTRL_C, ENDED = "speaking", "stop", "ctrl-c", "ended"


def main() -> Exit:
    """Run both acts and return the exit code."""
    local = not os.environ.get("OPENAI_API_KEY")
    say("kern_async: a team of agents tells a story, is asked to stop, and stops.", "")
    if local:
        say(
            "The model is SmolLM2, which runs on this machine and needs no key. It has 135 million parameters:",
            "expect fluent nonsense. Set OPENAI_API_KEY for a real storyteller.",
            "",
        )
        if not start(LlamaCpp()):
            return Exit.refused
    first = show(
        team(allowance(80, local)),
        "Tell a story about a lighthouse, in three sentences.",
        "1. A run that completes",
    )
    if first.interrupted:
        return Exit.cancelled
    second = show(
        team(allowance(1500, local)),
        "Tell a very long story about a ship that is lost at sea.",
        f"2. A run that is cancelled {STOP_AFTER} s after every member has begun to speak",
        stop_after=STOP_AFTER,
    )
    if second.interrupted:
        return Exit.cancelled
    return verdict(first.output, second.output)


def allowance(tokens: int, local: bool) -> Model:
    """The model, with room for so many tokens; OpenAI's get none, as they think in tokens, too."""
    if local:
        return LlamaCpp(max_output_tokens=tokens)
    return OpenAIResponses(os.environ.get("OPENAI_MODEL") or "gpt-5-mini")


def team(model: Model) -> Team:
    """The team of both acts. All members are asked at once, then the leader answers."""
    storyteller = Agent(
        name="StorytellerAgent",
        model=model,
        description="You are a storyteller.",
        instructions="Tell the story in simple words. Begin with the hero.",
    )
    editor = Agent(
        name="EditorAgent",
        model=model,
        description="You are an editor.",
        instructions="Describe how the story should be told: its place, its hero, its mood.",
    )
    return Team(
        name="Storytelling Team",
        members=[storyteller, editor],
        model=model,
        mode=TeamMode.broadcast,
        instructions="Tell the story in two sentences.",
    )


@dataclass
class Act:
    """A run on the stage, and what was measured of its end; times are those of `time.perf_counter`."""

    team: Team
    run_id: str
    stop_after: float | None
    wishes: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue[str])  # a signal handler may put
    accepted: bool | None = None
    asked_at: float = 0.0
    ended_at: float = 0.0
    silent_at: float | None = None
    interrupted: bool = False
    output: TeamRunOutput | None = None
    _have_spoken: set[str] = field(default_factory=set[str])
    _all_speak: bool = False

    def watch_events(self, event: TeamEvent) -> None:
        """Notice when every member has said something, or the leader has: then there is something to stop."""
        if event.event in ("RunContent", "TeamRunContent") and not self._all_speak:
            self._have_spoken.add(event.run_id)
            self._all_speak = (
                len(self._have_spoken) == len(self.team.members) or event.event == "TeamRunContent"
            )
            if self._all_speak:
                self.wishes.put(SPEAKING)

    def press_stop(self) -> None:
        """Cancel the run when it is time to, and see how long the model goes on. In a thread of its own."""
        wish = self.wishes.get()
        if wish == SPEAKING:
            try:
                wish = self.wishes.get(timeout=self.stop_after)
            except queue.Empty:
                wish = STOP
        if wish == ENDED:
            return
        self.interrupted = wish == CTRL_C
        self.asked_at = time.perf_counter()
        reason = "Ctrl-C" if self.interrupted else "the stop button of the demo"
        self.accepted = self.team.cancel_run(self.run_id, reason=reason)
        self._wait_for_silence()

    def _wait_for_silence(self) -> None:
        model = self.team.model
        while isinstance(model, LlamaCpp) and time.perf_counter() < self.asked_at + 10:
            if not model.slots():
                self.silent_at = time.perf_counter()
                return
            time.sleep(0.002)


def show(team: Team, prompt: str, title: str, *, stop_after: float | None = None) -> Act:
    """Run the team in this thread, live, with another thread that may stop it; then tell what came of it."""
    say("", title, f'   "{prompt}"', "")
    events = team.run(prompt, stream=True)
    act = Act(team, events.run_id, stop_after)
    stopper = threading.Thread(target=act.press_stop, name="stop button", daemon=True)
    with stopping(lambda: act.wishes.put(CTRL_C)), RunView() as view:
        stopper.start()
        try:
            for event in events:
                view.show(event)
                act.watch_events(event)
            act.ended_at = time.perf_counter()
        finally:
            act.wishes.put(ENDED)
    stopper.join()
    act.output = events.output
    if act.output:
        say("", summary(act.output))
    if act.accepted is not None:
        say(*measures(act))
    return act


def measures(act: Act) -> list[str]:
    """How quickly the stop worked, in lines of text."""
    silence = "not measurable with OpenAI"
    if isinstance(act.team.model, LlamaCpp):
        silence = milliseconds(act.silent_at - act.asked_at) if act.silent_at else "more than 10 s"
    return [
        f"cancel_run(...) returned {act.accepted}",
        f"from cancel to the last event     {milliseconds(act.ended_at - act.asked_at)}",
        f"from cancel to an idle model      {silence}",
    ]


def milliseconds(seconds: float) -> str:
    """Seconds as a text in milliseconds; what happened before the cancel took none."""
    return f"{max(0.0, seconds) * 1000:.0f} ms"


def verdict(first: TeamRunOutput | None, second: TeamRunOutput | None) -> Exit:
    """Compare the ends with what was promised."""
    for name, output, promised in (
        ("first", first, RunStatus.completed),
        ("second", second, RunStatus.cancelled),
    ):
        status = output.status if output else None
        if status is not promised:
            error = f": {output.error_type}: {output.error}" if output and output.error else ""
            complain(f"FAILED: the {name} run was to end {promised.value}, and ended {status}{error}")
            return Exit.failed
    say("", "As promised: the first run COMPLETED, the second was CANCELLED, and what it had said was kept.")
    return Exit.done


def start(model: LlamaCpp) -> bool:
    """Start the local model's server, telling how long it takes."""
    sys.stdout.write("starting the model ... ")
    sys.stdout.flush()
    began = time.perf_counter()
    try:
        anyio.run(model.start)
    except KernError as error:
        say("")
        complain(f"FAILED: {error}")
        return False
    say(f"ready after {time.perf_counter() - began:.1f} s")
    return True


def say(*lines: str) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        complain("\nstopped")
        sys.exit(Exit.cancelled)
