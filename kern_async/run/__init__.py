"""What a user sees of a run: statuses, events, outputs, and the context of its tools."""

from .context import RunContext

__all__ = ["RunContext"]
