"""Teams."""

from .mode import TeamMode
from .team import Team

__all__ = ["Team", "TeamMode"]
