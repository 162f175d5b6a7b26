"""The keywords of a run, and of a run that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar

from pydantic import BaseModel

from kern_async.run.limits import RunLimits
from kern_async.run.message import Message
from kern_async.run.requirement import RunRequirement

Input = str | Message | list[Message] | dict[str, Any] | BaseModel
Schema = type[BaseModel] | dict[str, Any]


class RunOptions(TypedDict, total=False):
    """What `run` and `arun` take besides the input.

    `timeout` is in seconds, for the run and everything below it. `stream_events`: see `Runnable.arun`.
    """

    stream_events: bool
    run_id: str | None
    session_id: str | None
    user_id: str | None
    session_state: dict[str, Any] | None
    dependencies: dict[str, Any] | None
    metadata: dict[str, Any] | None
    output_schema: Schema | None
    background: bool
    timeout: float | None
    limits: RunLimits | None


class ContinueOptions(TypedDict, total=False):
    """What `continue_run` and `acontinue_run` take besides what they continue.

    `timeout` is in seconds, for this attempt and everything below it; without it, it is the run's. `input` is a
    message before the next model request. `session_state`, `dependencies` and `metadata` are put over what the run
    has. `session_id` and `user_id`, where they are given, must be the run's. `stream_events`: see `Runnable.arun`.
    """

    run_id: str | None
    session_id: str | None
    user_id: str | None
    requirements: Sequence[RunRequirement | dict[str, Any]] | None
    input: str | None
    session_state: dict[str, Any] | None
    dependencies: dict[str, Any] | None
    metadata: dict[str, Any] | None
    stream_events: bool
    timeout: float | None


OptionsT = TypeVar("OptionsT", RunOptions, ContinueOptions)


def known(verb: str, options: OptionsT, kind: type[Any] = RunOptions) -> OptionsT:
    """The options, if they are all among those of the verb.

    Raises:
        TypeError: one is not.
    """
    if unknown := options.keys() - kind.__annotations__.keys():
        raise TypeError(f"{verb}() got an unexpected keyword argument {min(unknown)!r}")
    return options
