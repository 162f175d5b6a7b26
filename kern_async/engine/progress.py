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
    prepared: bool = False
    """Whether its pre-hooks have run and its conversation has begun."""
    opened: bool = False
    """Whether what comes before the first model request is done."""
    rounds: int = 0
    exceeded: tuple[Run, str] | None = None
    """The limit that the turn would have passed, and the run whose it is."""
    stops: bool = False
    """Whether a finished call of the turn ends the loop, once the others are answered."""
