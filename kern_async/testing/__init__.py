"""What tests of agents need: a provider on loopback that answers what a test tells it to."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .provider import ProviderServer
    from .replies import (
        Call,
        Cut,
        End,
        Forever,
        Gate,
        Hang,
        Malformed,
        Pause,
        Reasoning,
        Refusal,
        Reply,
        Stall,
        Start,
        Status,
        Step,
        Text,
        ToolCall,
        Usage,
    )
    from .request import Request

__all__ = [
    "Call",
    "Cut",
    "End",
    "Forever",
    "Gate",
    "Hang",
    "Malformed",
    "Pause",
    "ProviderServer",
    "Reasoning",
    "Refusal",
    "Reply",
    "Request",
    "Stall",
    "Start",
    "Status",
    "Step",
    "Text",
    "ToolCall",
    "Usage",
]

_ELSEWHERE = {"ProviderServer": "provider", "Request": "request"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'replies')}"), name)
