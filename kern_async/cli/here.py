"""`kern-async run`: a run in this process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kern_async.exceptions import KernError
from kern_async.run.base import BaseEvent

from .exits import Exit, Refused
from .imports import load_runnable
from .showing import Showing
from .signals import stopping

if TYPE_CHECKING:
    from kern_async.agent.options import RunOptions

CANCELS = "Ctrl-C cancels the run"
LEAVES = "cancelling; Ctrl-C again leaves at once"
REASON = "Ctrl-C"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be run, and how."""

    prompt: str
    session_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    timeout: float | None = None
    as_json: bool = False

    @property
    def options(self) -> RunOptions:
        """The options of `run`."""
        return {
            "session_id": self.session_id,
            "user_id": self.user_id,
            "run_id": self.run_id,
            "timeout": self.timeout,
            "stream_events": True,
        }


def prompt_of(argument: str) -> str:
    """The prompt; "-" reads it from stdin.

    Raises:
        Refused: it says nothing.
    """
    text = sys.stdin.read() if argument == "-" else argument
    if not text.strip():
        raise Refused("the prompt is empty")
    return text.rstrip("\n")


def run_here(spec: str, wish: Wish, *, debug: bool = False) -> Exit:
    """Run an agent or a team of a module, show it, and return what its end is as an exit code.

    Raises:
        Refused: there is no such agent or team, or it cannot be run like this.
    """
    runnable = load_runnable(spec, debug=debug)
    try:
        events = runnable.run(wish.prompt, stream=True, **wish.options)
    except KernError as error:
        raise Refused(str(error)) from None
    showing = Showing(events.run_id, as_json=wish.as_json, hint=CANCELS)

    def stop() -> None:
        events.cancel(reason=REASON)
        showing.urge(LEAVES)

    with stopping(stop), showing, events:
        for each in events:
            event = cast(BaseEvent, each)
            showing.show(event, event.to_json() if wish.as_json else "")
    showing.remark()
    return showing.code
