from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from kern_async import RunLimits
from kern_async.exceptions import ConfigurationError

NAMES = ["model_requests", "tool_calls", "total_tokens", "member_runs"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, 0, 1, 10**9])
def test_a_limit_is_none_or_a_whole_number(name: str, value: int | None) -> None:
    limits = RunLimits(**{name: value})
    assert getattr(limits, name) == value
    assert all(getattr(limits, other) is None for other in NAMES if other != name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, 1.0, "1", True])
def test_anything_else_is_refused_with_the_limits_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.*not {value!r}"):
        RunLimits(**{name: value})


def test_limits_do_not_change_under_a_run() -> None:
    with pytest.raises(FrozenInstanceError):
        RunLimits().tool_calls = 1  # type: ignore[misc]
