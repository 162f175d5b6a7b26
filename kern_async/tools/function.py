"""Tools: a callable and what the model is told of it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, cast, overload

from pydantic import BaseModel
from pydantic_core import from_json

from kern_async.exceptions import ConfigurationError
from kern_async.run.context import RunContext
from kern_async.run.tool import UserInputField

from .form import filled, form_of, models_part
from .options import check_options
from .result import drain, drain_async
from .schema import strict_schema
from .signature import Signature, signature_of

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what providers accept


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundCall:
    """A call with its arguments validated, ready to be made.

    `args` are the arguments that the model gave, as JSON data. `call` makes the call: for a sync callable it
    returns the result, and belongs in a thread; where the callable is async it returns an awaitable.
    Generators are run to their end and give their text; each piece is reported as progress when it comes, and a
    run that is to stop stops them after it. `call` may be called again.
    """

    args: dict[str, Any]
    call: Callable[[], Any]


@dataclass(kw_only=True, eq=False)
class Function:
    """A tool: a callable and what the model is told of it.

    `name`, `description` and `parameters` (a JSON schema) are derived from the callable where they are left
    empty. What the other fields mean is said at `@tool`.

    Raises:
        ConfigurationError: a parameter's type cannot be told to a model, the name is not one, or a field's value
            makes no sense.
    """

    entrypoint: Callable[..., Any]
    name: str = ""
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    strict: bool = False
    stop_after_tool_call: bool = False
    show_result: bool = False
    requires_confirmation: bool = False
    requires_user_input: bool = False
    user_input_fields: Sequence[str] = ()
    external_execution: bool = False
    timeout: float | None = None
    retries: int = 0
    pre_hook: Callable[..., Any] | None = None
    post_hook: Callable[..., Any] | None = None
    tool_hooks: Sequence[Callable[..., Any]] = ()
    isolation: Literal["thread", "process"] = "thread"
    _signature: Signature = field(init=False, repr=False)
    _asked: Signature = field(init=False, repr=False)
    """The model's part of the signature: all of it, unless the user fills some."""
    _own_parameters: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.entrypoint):
            raise ConfigurationError(
                f"a tool must be callable, not {self.entrypoint!r}; "
                "on a class method put @tool below @classmethod"
            )
        self.name = self.name or _name_of(self.entrypoint)
        if not _NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"a tool's name is 1 to 64 letters, digits, _ or -, not {self.name!r}; "
                "give one with @tool(name=...)"
            )
        if isinstance(self.entrypoint, type):
            raise ConfigurationError(f"{self.name!r} is a class; give an instance of it, or a function")
        check_options(vars(self), of=f"tool {self.name!r}: ")
        if self.isolation == "process":
            from .parcel import check_importable

            check_importable(self.entrypoint, self.name)
        self._signature = self._asked = signature_of(self.entrypoint, self.name)
        if self.requires_user_input:
            self._asked = models_part(self._signature, self.name, self.user_input_fields)
        self.description = self.description or self._signature.description
        self._own_parameters = bool(self.parameters)
        if not self._own_parameters:
            derived = self._asked.parameters
            self.parameters = strict_schema(self.name, derived) if self.strict else deepcopy(derived)
        functools.update_wrapper(self, self.entrypoint, updated=())

    @classmethod
    def from_callable(cls, tool: Callable[..., Any]) -> Function:
        """The tool of a function, bound method, callable object, functools.partial; a Function is itself.

        Raises:
            ConfigurationError: a parameter's type cannot be told to a model; it names function and parameter.
        """
        if isinstance(tool, Function):
            return tool
        if isinstance(tool, MethodType) and isinstance(tool.__func__, Function):
            return cast("Function", tool.__func__.__get__(tool.__self__, type(tool.__self__)))
        return cls(entrypoint=tool)

    @property
    def is_async(self) -> bool:
        """Whether the call is made on the event loop; otherwise it belongs in a thread."""
        return self.isolation == "process" or _is(
            self.entrypoint, inspect.iscoroutinefunction, inspect.isasyncgenfunction
        )

    @property
    def is_generator(self) -> bool:
        """Whether the callable yields its result in pieces."""
        return _is(self.entrypoint, inspect.isgeneratorfunction, inspect.isasyncgenfunction)

    @property
    def lacks_object(self) -> bool:
        """Whether this is a method taken from its class, which has nothing to be called on."""
        return next(iter(self._signature.fields), "") == "self" and not inspect.ismethod(self.entrypoint)

    def bind(
        self, arguments: str | Mapping[str, Any], context: RunContext, given: Mapping[str, Any] | None = None
    ) -> BoundCall:
        """Validate what the model sent, and make the call ready.

        `arguments` is the model's JSON text ("" means none) or data. `given` are values of the user's, which take
        the place of the model's; None takes a value away from a parameter that can do without. The context goes
        into the parameters that are annotated `RunContext`, and only there.

        Raises:
            ToolError: the arguments do not fit; the message says which, and what was expected.
        """
        if given is not None:
            self._asked.validate(self.name, arguments)
            arguments = filled(self._signature, arguments, given)
        valid = self._signature.validate(self.name, arguments)
        prepared = self._signature.prepare(self.entrypoint, valid, context)
        if self.isolation == "process":
            from .processes import call_in_process

            call = functools.partial(call_in_process, self.name, prepared, context)
        else:
            call = functools.partial(_call, prepared, context)
        return BoundCall(args=_as_json(valid), call=call)

    def check(self, arguments: str) -> dict[str, Any]:
        """Validate what the model sent before the user filled his part; return it as JSON data.

        Raises:
            ToolError: as `bind` raises it.
        """
        return _as_json(self._asked.validate(self.name, arguments))

    def user_input_schema(self, args: Mapping[str, Any]) -> list[UserInputField]:
        """The form for the user: every argument, with the values that the model gave in `args`."""
        return form_of(self._signature, args)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.entrypoint(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or not hasattr(type(self.entrypoint), "__get__"):
            return self
        return replace(
            self,
            entrypoint=cast("Any", self.entrypoint).__get__(instance, owner),
            parameters=self.parameters if self._own_parameters else {},
        )


class Tool(Function, Generic[P, R]):
    """What `@tool` makes of a function: a Function that type checkers still know how to call."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.entrypoint(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Tool[Concatenate[S, Q], R], instance: S, owner: type[S] | None = None
    ) -> Tool[Q, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return super().__get__(instance, owner)


@dataclass(eq=False)
class FunctionCall:
    """A call that a model asked for, and what came of it."""

    function: Function
    arguments: dict[str, Any] | None = None
    call_id: str | None = None
    result: Any = None
    error: str | None = None


def _as_json(valid: BaseModel) -> dict[str, Any]:
    return from_json(valid.model_dump_json(by_alias=True, exclude_unset=True, warnings=False, fallback=str))


def _call(prepared: Callable[[], Any], context: RunContext) -> Any:
    result = prepared()
    if isinstance(result, Generator):
        pieces = cast("Generator[Any, Any, Any]", result)
        return drain(pieces, report=context.report, checkpoint=context.raise_if_cancelled)
    if isinstance(result, AsyncGenerator):
        apieces = cast("AsyncGenerator[Any, Any]", result)
        return drain_async(apieces, report=context.report, checkpoint=context.raise_if_cancelled)
    return result


def _name_of(entrypoint: Callable[..., Any]) -> str:
    while isinstance(entrypoint, functools.partial):
        entrypoint = cast("functools.partial[Any]", entrypoint).func
    return getattr(entrypoint, "__name__", type(entrypoint).__name__)


def _is(entrypoint: Callable[..., Any], *kinds: Callable[[Any], bool]) -> bool:
    while True:
        if isinstance(entrypoint, functools.partial):
            entrypoint = cast("functools.partial[Any]", entrypoint).func
        elif isinstance(entrypoint, staticmethod):
            entrypoint = cast("staticmethod[..., Any]", entrypoint).__func__
        elif isinstance(entrypoint, Function):
            entrypoint = entrypoint.entrypoint
        else:
            break
    return any(is_kind(entrypoint) or is_kind(type(entrypoint).__call__) for is_kind in kinds)
