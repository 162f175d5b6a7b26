"""An asyncio-native runtime for agents and teams of agents in which stop means stop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_async.agent import Agent
    from kern_async.engine.background import set_background_max_concurrency
    from kern_async.engine.control import acancel_tool_call, asend_message, cancel_tool_call, send_message
    from kern_async.engine.registry import acancel_run, cancel_run
    from kern_async.engine.stragglers import abandoned
    from kern_async.engine.stream import RunStream, SyncRunStream
    from kern_async.exceptions import KernError
    from kern_async.run.agent import RunEvent, RunOutput
    from kern_async.run.base import RunStatus
    from kern_async.run.context import RunContext
    from kern_async.run.limits import RunLimits
    from kern_async.run.requirement import RunRequirement
    from kern_async.run.session import Session, SessionSummary
    from kern_async.run.team import TeamRunEvent, TeamRunOutput
    from kern_async.team import Team, TeamMode
    from kern_async.tools import tool

__version__ = "0.1.0"

_HOMES = {
    "Agent": "agent",
    "KernError": "exceptions",
    "RunContext": "run.context",
    "RunEvent": "run.agent",
    "RunLimits": "run.limits",
    "RunOutput": "run.agent",
    "RunRequirement": "run.requirement",
    "RunStatus": "run.base",
    "RunStream": "engine.stream",
    "Session": "run.session",
    "SessionSummary": "run.session",
    "SyncRunStream": "engine.stream",
    "Team": "team",
    "TeamMode": "team",
    "TeamRunEvent": "run.team",
    "TeamRunOutput": "run.team",
    "abandoned": "engine.stragglers",
    "acancel_run": "engine.registry",
    "acancel_tool_call": "engine.control",
    "asend_message": "engine.control",
    "cancel_run": "engine.registry",
    "cancel_tool_call": "engine.control",
    "send_message": "engine.control",
    "set_background_max_concurrency": "engine.background",
    "tool": "tools",
}

__all__ = [
    "Agent",
    "KernError",
    "RunContext",
    "RunEvent",
    "RunLimits",
    "RunOutput",
    "RunRequirement",
    "RunStatus",
    "RunStream",
    "Session",
    "SessionSummary",
    "SyncRunStream",
    "Team",
    "TeamMode",
    "TeamRunEvent",
    "TeamRunOutput",
    "abandoned",
    "acancel_run",
    "acancel_tool_call",
    "asend_message",
    "cancel_run",
    "cancel_tool_call",
    "send_message",
    "set_background_max_concurrency",
    "tool",
]


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next access is a plain one
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
