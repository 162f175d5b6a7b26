"""How much a run may use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from kern_async.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How many model requests, tool calls, tokens and members' runs a run and all below it may use together.

    None is no limit. With N, N are allowed: the next one is not begun, and the whole tree ends CANCELLED with
    `cancelled_by="limit"`. With 0 not one is. Tokens are known when a model request has ended, so the request that
    goes past `total_tokens` is finished and the next is not begun.

    Raises:
        ConfigurationError: a limit is not None and not a whole number of 0 or more.
    """

    model_requests: int | None = None
    tool_calls: int | None = None
    total_tokens: int | None = None
    member_runs: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigurationError(
                    f"RunLimits({field.name}=...) is a whole number of 0 or more, or None for no limit, not {value!r}"
                )
