"""What answers in both protocols are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json

from kern_async.run.message import ToolCall


def text_of(value: object) -> str:
    """A text in an event.

    Raises:
        TypeError: it is no text.
    """
    if isinstance(value, str):
        return value
    raise TypeError(f"expected a text, got {value!r}")


def token_count(usage: Mapping[str, Any], *path: str) -> int:
    """A number of tokens in a usage object, 0 if the provider does not tell it."""
    value: Any = usage
    for name in path:
        value = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else 0


def whole_calls(calls: list[ToolCall]) -> list[ToolCall]:
    """The tool calls of an answer that was broken off whose arguments are all there."""
    return [call for call in calls if _is_json(call.arguments)]


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True
