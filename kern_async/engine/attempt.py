"""One attempt at a run, and the claims that decide it.

A run that never pauses has one attempt: from its start to its terminal event. A pause ends an attempt, and the next
one goes on from there: it is there from that moment, so that a cancel or a person's answer has something to claim.

Every question that several parties may settle (who begins, how it ends, who publishes the end) is one
`dict.setdefault`, a single atomic step that a signal handler or a finalizer may interrupt without harm. The first
claim stands; everybody else asks and obeys.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from kern_async.run.base import CancellationStage, CancelledBy, RunStatus

CancelMode = Literal["now", "after_tools", "after_turn"]
Urgency = Literal["after_turn", "limit", "after_tools", "now"]
"""How soon a cancelled run is to stop, least urgent first.

`after_turn`: when this run's turn is over, with all that it has called. `limit`: as that, and nothing new begins
anywhere below. `after_tools`: when running tools have finished; answers are cut, here and below. `now`: at once.
"""
_RISING: dict[Urgency, int] = {"after_turn": 0, "limit": 1, "after_tools": 2, "now": 3}


class Outcome(NamedTuple):
    """How an attempt ends, decided once; times are seconds since the epoch. `mode` is how soon its claim wanted it."""

    status: RunStatus
    cancelled_by: CancelledBy | None = None
    reason: str | None = None
    stage: CancellationStage | None = None
    requested_at: float | None = None
    mode: Urgency = "now"


class Attempt:
    """From a start or a continuation to a terminal or paused event. `end` is what it left, once it has ended."""

    __slots__ = ("_slot", "end", "index", "number", "timeout")

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.end: dict[str, Any] | None = None
        self.index = -1
        """The `event_index` of its last event, once it has ended."""
        self.timeout: float | None = None
        """Seconds that this attempt may take; None: as many as the run's configuration says."""
        self._slot: dict[str, Any] = {}

    @property
    def outcome(self) -> Outcome | None:
        return self._slot.get("outcome")

    @property
    def cancelling(self) -> bool:
        """Whether it was cancelled and has claimed that end."""
        outcome = self._slot.get("outcome")
        return outcome is not None and outcome.status is RunStatus.cancelled

    def claim(self, outcome: Outcome) -> Outcome:
        """Ask for this end; what comes back is the end that stands."""
        return self._slot.setdefault("outcome", outcome)

    def urge(self, urgency: Urgency) -> None:
        """Have a cancelled attempt stop at least so soon."""
        self._slot[urgency] = True

    @property
    def urgency(self) -> Urgency | None:
        """How soon it is to stop; None while nobody has cancelled it."""
        outcome = self._slot.get("outcome")
        if outcome is None or outcome.status is not RunStatus.cancelled:
            return None
        if outcome.mode == "now":
            return "now"
        urged: list[Urgency] = [outcome.mode, *(each for each in _RISING if each in self._slot)]
        return max(urged, key=_RISING.__getitem__)

    def first(self, what: str) -> bool:
        """Whether the caller is the first to ask for `what`."""
        me = object()
        return self._slot.setdefault(what, me) is me

    def taken(self, what: str) -> bool:
        """Whether somebody has `what`."""
        return what in self._slot

    def release(self, what: str) -> None:
        """Give `what` back."""
        self._slot.pop(what, None)

    def kept(self, what: str) -> Any:
        """What somebody has made of this attempt and kept with it; None before."""
        return self._slot.get(what)

    def keep(self, what: str, made: Any) -> Any:
        """Keep what was made of this attempt; what comes back is what was kept first."""
        return self._slot.setdefault(what, made)

    def following(self) -> Attempt:
        """The attempt after this one."""
        return self.kept("following") or self.keep("following", Attempt(self.number + 1))
