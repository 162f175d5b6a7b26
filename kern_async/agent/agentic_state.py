"""The tool by which a model changes its session state (`enable_agentic_state`)."""

from __future__ import annotations

from typing import Any

from kern_async.run.context import RunContext


def update_session_state(session_state_updates: dict[str, Any], context: RunContext) -> str:
    """Change the session state.

    Args:
        session_state_updates: The keys to set, with their new values.
    """
    context.session_state.update(session_state_updates)
    return f"Session state is now {context.session_state}."
