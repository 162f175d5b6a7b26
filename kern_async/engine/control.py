"""Ways to control a live run that are not there yet: each says so by name."""

from __future__ import annotations

from typing import Any, NoReturn


def _missing(what: str) -> NoReturn:
    raise NotImplementedError(f"{what} is not there yet")


def cancel_tool_call(run_id: str, tool_call_id: str) -> bool:
    """End one tool call while its run goes on. Not there yet."""
    _missing("cancel_tool_call()")


async def acancel_tool_call(run_id: str, tool_call_id: str) -> bool:
    """End one tool call while its run goes on. Not there yet."""
    _missing("acancel_tool_call()")


def send_message(run_id: str, text: str) -> bool:
    """Put a user message into a live run before its next model call. Not there yet."""
    _missing("send_message()")


async def asend_message(run_id: str, text: str) -> bool:
    """Put a user message into a live run before its next model call. Not there yet."""
    _missing("asend_message()")


def get_session(session_id: str) -> NoReturn:
    """A stored session. Not there yet."""
    _missing("get_session()")


async def aget_session(session_id: str) -> NoReturn:
    """A stored session. Not there yet."""
    _missing("aget_session()")


def get_run_output(run_id: str, session_id: str | None = None) -> NoReturn:
    """A stored run. Not there yet."""
    _missing("get_run_output()")


async def aget_run_output(run_id: str, session_id: str | None = None) -> NoReturn:
    """A stored run. Not there yet."""
    _missing("aget_run_output()")


def continue_run(*_args: Any, **_options: Any) -> NoReturn:
    """Go on from a run that was paused, cancelled or failed. Not there yet."""
    _missing("continue_run()")


def acontinue_run(*_args: Any, **_options: Any) -> NoReturn:
    """Go on from a run that was paused, cancelled or failed. Not there yet."""
    _missing("acontinue_run()")
