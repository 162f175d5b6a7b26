"""AgentOS: agents and teams over HTTP."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent_os import AgentOS
    from .jwt import JWTConfig
    from .sse import StreamSettings

__all__ = ["AgentOS", "JWTConfig", "StreamSettings"]

_FROM = {"AgentOS": ".agent_os", "JWTConfig": ".jwt", "StreamSettings": ".sse"}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .extras import need_server

    need_server()
    return getattr(import_module(_FROM[name], __name__), name)
