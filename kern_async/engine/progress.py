"""How far a run's loop has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .run import Run


@dataclass(eq=False, slots=True)
class Progress:
    """How far a run's loop has come: what a further attempt goes on from."""

    phase: Literal["model", "tools"] | None = None
    """What the turn is at; None between turns."""
    recalled: bool = False
    """Whether it knows what its session's earlier runs left."""
    prepared: bool = False
    """Whether its pre-hooks have run and its conversation has begun."""
    opened: bool = False
    """Whether what comes before the first model request is done."""
    told: int | None = None
    """Where a leader was told what its members had come to when a cancel cut them."""
    history_at: int | None = None
    """Where earlier turns stand in the conversation, or would."""
    spoken: int = 0
    """How many pieces of the run's text its finished model requests have said."""
    answer: int | None = None
    """Where in the run's text its last answer begins, once that is whole."""
    goes_on: int | None = None
    """Where in the run's text the answer begins that the next model request is to finish; None: a new one."""
    rounds: int = 0
    exceeded: tuple[Run, str] | None = None
    """The limit that the turn would have passed, and the run whose it is."""
    stops: bool = False
    """Whether a finished call of the turn ends the loop, once the others are answered."""

    def marks(self) -> tuple[object, ...]:
        """What tells whether it has come any further."""
        return self.phase, self.prepared, self.opened, self.rounds, self.stops, self.answer
