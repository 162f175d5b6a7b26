"""Ways to steer a live run besides ending it."""

from __future__ import annotations

from typing import cast

from kern_async.exceptions import ConfigurationError

from . import registry


def cancel_tool_call(run_id: str, tool_call_id: str) -> bool:
    """End one tool call while its run goes on, from any thread, task or tool; returns at once.

    The model is told that the call was cancelled. A call that delegates ends its member's run. True means that the
    call was under way and will end so; False that there is no such call, or that its end was already decided.

    Args:
        run_id: the run whose call it is, or one above it.
        tool_call_id: as in its events.
    """
    run = registry.find(run_id)
    if run is None:
        return False
    for each in (run, *run.below()):
        if (call := each.calls.get(tool_call_id)) is not None:
            return call.cancel(each)
    return False


async def acancel_tool_call(run_id: str, tool_call_id: str) -> bool:
    """The same as `cancel_tool_call`, for async code; it does not wait either."""
    return cancel_tool_call(run_id, tool_call_id)


def send_message(run_id: str, text: str) -> bool:
    """Put a user's message into a run, before its next model request; from any thread, returns at once.

    A run that would have ended goes on for it. True means that it will be in the conversation, be it of a run that is
    cancelled before it comes to it. False means that there is no such run or that it makes no further request; then
    nothing changes.

    Args:
        run_id: of a live, created or paused run of this process; a member's is the member's own conversation.
        text: the message; not empty.

    Raises:
        ConfigurationError: `text` is no text, or empty.
    """
    if not isinstance(cast(object, text), str) or not text:
        raise ConfigurationError(f"a message is a text that is not empty, not {text!r}")
    run = registry.find(run_id)
    if run is None or run.ended or run.cancelling:
        return False
    return run.inbox.put(text)


async def asend_message(run_id: str, text: str) -> bool:
    """The same as `send_message`, for async code; it does not wait either."""
    return send_message(run_id, text)
