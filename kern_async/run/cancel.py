"""The cancelling verbs under the path where the reference's users look for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kern_async.engine.registry import acancel_run, cancel_run, get_active_runs

__all__ = ["acancel_run", "cancel_run", "get_active_runs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from kern_async.engine import registry  # this room is below the engine: only when somebody asks

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
