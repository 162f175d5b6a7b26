"""`@tool`: a function as a tool, with more to say than its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from kern_async.exceptions import ConfigurationError

from .function import Tool
from .options import check_options

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
    retries: int | None
    isolation: Literal["thread", "process"] | None


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
        requires_confirmation: the run pauses before the call until somebody confirms or rejects it.
        requires_user_input: the run pauses until the user has filled the arguments. The model is not asked for
            those in `user_input_fields`; without these the user is shown all, with the model's as suggestions.
        user_input_fields: names of the parameters that the user fills.
        external_execution: the run pauses until somebody hands in the result; the function is never called.
        timeout: seconds that a call may take, each attempt anew; then it is cut, which is an error the model sees.
        retries: how often a call that raised is made again; a call whose arguments do not fit never is.
        pre_hook: called before the call with those of `fc` (the `FunctionCall`), `run_context`, `agent` or `team`
            that it names; it may change `fc.arguments`. What it raises the model sees, and no call is made.
        post_hook: the same after the call; it may change `fc.result`.
        tool_hooks: called round the call, the first outermost, with those of `function_name`, `function_call`,
            `arguments`, `run_context`, `agent` or `team` that they name; what the first returns is the result.
        isolation: "process" calls a sync function in a worker process, which a cancel kills, with all that it
            has started; "thread" is the default. The function is one at the top level of a module, arguments
            and result can be pickled, and a run context is a copy. See `call_in_process`.

    Raises:
        TypeError: a keyword is unknown.
        ConfigurationError: a keyword's value makes no sense, or a parameter cannot be told to a model.
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
            requires_confirmation=bool(options.get("requires_confirmation")),
            requires_user_input=bool(options.get("requires_user_input")),
            user_input_fields=tuple(options.get("user_input_fields") or ()),
            external_execution=bool(options.get("external_execution")),
            timeout=options.get("timeout"),
            retries=options.get("retries") or 0,
            pre_hook=options.get("pre_hook"),
            post_hook=options.get("post_hook"),
            tool_hooks=tuple(options.get("tool_hooks") or ()),
            isolation=options.get("isolation") or "thread",
        )

    return decorate if entrypoint is None else decorate(entrypoint)


def _check(options: ToolOptions) -> None:
    if unknown := options.keys() - ToolOptions.__annotations__.keys():
        raise TypeError(f"tool() got an unexpected keyword argument {min(unknown)!r}")
    check_options(options)
    isolation = cast(object, options.get("isolation"))
    if isolation not in (None, "thread", "process"):
        raise ConfigurationError(f"isolation is 'thread' or 'process', not {isolation!r}")
