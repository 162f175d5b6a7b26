"""Putting other ids of runs and sessions into what was stored of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_NOT_OURS = frozenset(
    (
        "additional_data",
        "content",
        "input",
        "metadata",
        "provider_data",
        "result",
        "session_state",
        "tool_args",
        "value",
    )
)
"""Fields of outputs, tool calls and events that hold what users and models have said, whatever it looks like."""


def with_new_ids(value: Any, *, runs: Mapping[str, str], sessions: Mapping[str, str]) -> Any:
    """A copy of JSON data of ours in which each field for a run's or a session's id has its new one.

    Which field that is its name says. Values alone do not, for a run may be named like a role, or a status.
    """
    if isinstance(value, list):
        return [with_new_ids(item, runs=runs, sessions=sessions) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for name, inner in cast("dict[str, Any]", value).items():
        ids = (
            runs
            if name.endswith(("run_id", "run_ids"))
            else sessions
            if name.endswith("session_id")
            else None
        )
        if ids is not None:
            made[name] = _replaced(inner, ids)
        else:
            made[name] = inner if name in _NOT_OURS else with_new_ids(inner, runs=runs, sessions=sessions)
    return made


def with_new_ids_everywhere(value: Any, *, runs: Mapping[str, str], sessions: Mapping[str, str]) -> Any:
    """The same for data whose fields have other names: a text that is a run's id is taken for one, keys too."""
    return _replaced(with_new_ids(value, runs={}, sessions=sessions), runs)


def _replaced(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return ids.get(value, value)
    if isinstance(value, list):
        return [_replaced(item, ids) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {ids.get(key, key): _replaced(item, ids) for key, item in items}
    return value
