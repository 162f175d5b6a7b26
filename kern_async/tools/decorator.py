"""`@tool`: a function as a tool, with more to say than its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from kern_async.exceptions import ConfigurationError

from .function import Tool

P = ParamSpec("P")
R = TypeVar("R")


class ToolOptions(TypedDict, total=False):
    """The keywords of `@tool`; what each means is said there."""

    name: str | None
    description: str | None
    strict: bool | None
    stop_after_tool_call: bool | None
    show_result: bool | None
    requires_confirmation: bool | None
    requires_user_input: bool | None
    user_input_fields: Sequence[str] | None
    external_execution: bool | None
    pre_hook: Callable[..., Any] | None
    post_hook: Callable[..., Any] | None
    tool_hooks: Sequence[Callable[..., Any]] | None
    timeout: float | None
    retries: int
    isolation: Literal["thread", "process"] | None


_NOT_BUILT = (
    "requires_confirmation",
    "requires_user_input",
    "user_input_fields",
    "external_execution",
    "pre_hook",
    "post_hook",
    "tool_hooks",
    "timeout",
    "retries",
)


@overload
def tool(entrypoint: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(entrypoint: Callable[..., Any] | None = None, /, **options: Unpack[ToolOptions]) -> Any:
    """Make a tool of a function or method, which stays callable as before.

    Args:
        entrypoint: the function, where `@tool` stands without keywords.
        name: what the model calls it by; the function's name if left out.
        description: what the model is told of it; the docstring up to its first section if left out.
        strict: the provider holds the model to the schema.
        stop_after_tool_call: the run ends with this tool's result.
        show_result: the result becomes part of the run's content; as `stop_after_tool_call` if left out.

    Raises:
        TypeError: a keyword is unknown.
        ConfigurationError: a keyword's value makes no sense, or a parameter cannot be told to a model.
        NotImplementedError: `requires_confirmation`, `requires_user_input`, `user_input_fields`,
            `external_execution`, `pre_hook`, `post_hook`, `tool_hooks`, `timeout`, `retries` or
            `isolation="process"` is asked for.
    """
    _check(options)
    stops = bool(options.get("stop_after_tool_call"))
    shows = options.get("show_result")

    def decorate(function: Callable[P, R]) -> Tool[P, R]:
        return Tool(
            entrypoint=function,
            name=options.get("name") or "",
            description=options.get("description") or "",
            strict=bool(options.get("strict")),
            stop_after_tool_call=stops,
            show_result=stops if shows is None else shows,
        )

    return decorate if entrypoint is None else decorate(entrypoint)


def _check(options: ToolOptions) -> None:
    if unknown := options.keys() - ToolOptions.__annotations__.keys():
        raise TypeError(f"tool() got an unexpected keyword argument {min(unknown)!r}")
    timeout = options.get("timeout")
    if timeout is not None and not timeout > 0:
        raise ConfigurationError(f"timeout is in seconds and more than 0, not {timeout!r}")
    if (retries := options.get("retries", 0)) < 0:
        raise ConfigurationError(f"retries is 0 or more, not {retries!r}")
    isolation = cast(object, options.get("isolation"))
    if isolation not in (None, "thread", "process"):
        raise ConfigurationError(f"isolation is 'thread' or 'process', not {isolation!r}")
    if isolation == "process":
        raise NotImplementedError('tool(isolation="process") is not built yet')
    for name in _NOT_BUILT:
        if options.get(name):
            raise NotImplementedError(f"tool({name}=...) is not built yet")
