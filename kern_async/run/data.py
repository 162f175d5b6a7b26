"""The bases of what a run is made of that can become JSON: events, outputs, messages.

Making the validators and serializers of all of them takes longer than all else that importing the runtime does, and
most programs validate and serialize few. So pydantic makes one when it is first needed: once, under a lock of its own,
whichever thread is first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel, ConfigDict


class Data(BaseModel):
    """A pydantic model whose validator and serializer are made when it first needs one."""

    model_config = ConfigDict(defer_build=True)


class FrozenData(BaseModel, frozen=True):
    """The same, and its fields cannot be set."""

    model_config = ConfigDict(defer_build=True)


# For a `default_factory` where time counts: `list[int]()`, say, takes ten times as long as `list()`.
new_list = cast("Callable[[], list[Any]]", list)
new_dict = cast("Callable[[], dict[Any, Any]]", dict)
