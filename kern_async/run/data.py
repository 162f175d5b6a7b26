"""The base of what a run is made of that can become JSON: events, outputs, messages."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Data(BaseModel):
    """A pydantic model whose validator and serializer are made when it first needs one.

    Making those of all events takes longer than all other imports of the runtime, and most programs validate and
    serialize few of them. pydantic makes them once, under a lock of its own, whichever thread is first.
    """

    model_config = ConfigDict(defer_build=True)
