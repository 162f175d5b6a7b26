"""What a callable takes: derived from its signature and docstring, and used for every call."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType, NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run.context import RunContext

from .docstring import read_docstring
from .mistakes import explain
from .schema import Quiet, parameters_schema


@dataclass(frozen=True, kw_only=True, eq=False)
class Signature:
    """How a callable is called: derived once, used for every call.

    `fields` names the pydantic field of each parameter that the model fills, and `definitions` are what those were
    made of; `optional` are those of them
    that have a default of their own; `contexts` are the parameters that get the run's context;
    `positional` are the positional-only ones, with their defaults; `reserved` are names that a callable with
    `**kwargs` must not get from a model, since its arguments of these names are fixed, or ours.
    """

    description: str
    parameters: dict[str, Any]
    model: type[BaseModel]
    fields: Mapping[str, str]
    definitions: Mapping[str, Any]
    optional: frozenset[str]
    contexts: tuple[str, ...]
    positional: Mapping[str, Any]
    reserved: frozenset[str]

    def validate(self, tool: str, arguments: str | Mapping[str, Any]) -> BaseModel:
        """The arguments as the types that the callable wants.

        `arguments` is the model's own JSON text, or data; empty text means none.

        Raises:
            ToolError: they do not fit; the message tells the model what to change.
        """
        try:
            if isinstance(arguments, str):
                valid = self.model.model_validate_json(arguments if arguments.strip() else "{}")
            else:
                valid = self.model.model_validate(arguments)
        except ValidationError as error:
            raise ToolError(explain(tool, self.parameters, error)) from error
        if valid.model_extra and (refused := self.reserved & valid.model_extra.keys()):
            raise ToolError(f"{tool}: wrong arguments\n- {min(refused)}: there is no such argument")
        return valid

    def prepare(
        self, entrypoint: Callable[..., Any], arguments: BaseModel, context: RunContext
    ) -> functools.partial[Any]:
        """`entrypoint` with its validated arguments and the run's context, ready to be called."""
        given = arguments.model_fields_set
        keywords = {
            name: getattr(arguments, field)
            for name, field in self.fields.items()
            if field in given or name not in self.optional
        }
        keywords |= arguments.model_extra or {}
        keywords |= dict.fromkeys(self.contexts, context)
        positional = [keywords.pop(name, default) for name, default in self.positional.items()]
        return functools.partial(entrypoint, *positional, **keywords)


_functions: WeakKeyDictionary[FunctionType, Signature] = WeakKeyDictionary()
_methods: WeakKeyDictionary[FunctionType, Signature] = WeakKeyDictionary()


def signature_of(entrypoint: Callable[..., Any], name: str) -> Signature:
    """The signature of `entrypoint`, under the name of the tool it is; remembered for functions and methods.

    Raises:
        ConfigurationError: a parameter's type says nothing that a model could be told.
    """
    if isinstance(entrypoint, FunctionType):
        known, key = _functions, entrypoint
    elif isinstance(entrypoint, MethodType) and isinstance(entrypoint.__func__, FunctionType):
        known, key = _methods, entrypoint.__func__
    else:
        return _derive(entrypoint, name)
    if (signature := known.get(key)) is None:
        signature = known[key] = _derive(entrypoint, name)
    return signature


def _derive(entrypoint: Callable[..., Any], name: str) -> Signature:
    described = _described(entrypoint)
    description, documented = read_docstring(_docstring(entrypoint, described))
    fixed = _fixed_keywords(entrypoint)
    definitions: dict[str, Any] = {}
    fields: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    contexts: list[str] = []
    positional: dict[str, Any] = {}
    extra: Any = None
    for parameter in _parameters(entrypoint, name):
        if parameter.name in fixed or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        hint = _hint(described, parameter, name)
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = hint
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional[parameter.name] = parameter.default
        if _wants_context(hint):
            contexts.append(parameter.name)
            continue
        fields[parameter.name] = field = f"parameter_{len(fields)}"
        if isinstance(parameter.default, FieldInfo):
            definitions[field] = (Annotated[hint, parameter.default], Field(alias=parameter.name))
        elif parameter.default is parameter.empty:
            definitions[field] = (hint, Field(alias=parameter.name))
        else:
            defaults[parameter.name] = parameter.default
            # A stand-in: the callable has its own default, which need not be anything that can be copied.
            definitions[field] = (hint, Field(alias=parameter.name, default=None))
    if extra is not None:
        definitions["__pydantic_extra__"] = (dict[str, extra], ...)
    config = ConfigDict(
        extra="forbid" if extra is None else "allow", coerce_numbers_to_str=True, ser_json_inf_nan="strings"
    )
    try:
        model = create_model("Arguments", __config__=config, **definitions)
        schema = model.model_json_schema(schema_generator=Quiet)
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
        raise ConfigurationError(_blame(name, fields, definitions, error)) from error
    return Signature(
        description=description,
        parameters=parameters_schema(schema, documented, defaults, is_open=extra is not None),
        model=model,
        fields=fields,
        definitions=definitions,
        optional=frozenset(defaults),
        contexts=tuple(contexts),
        positional=positional,
        reserved=frozenset({*fixed, *contexts, *fields.values()}),
    )


def _described(entrypoint: Callable[..., Any]) -> Callable[..., Any]:
    """The function that has the annotations and the docstring."""
    while True:
        if isinstance(entrypoint, functools.partial):
            entrypoint = cast("functools.partial[Any]", entrypoint).func
        elif isinstance(entrypoint, MethodType):
            entrypoint = entrypoint.__func__
        elif (inner := getattr(entrypoint, "__wrapped__", None)) is not None:
            entrypoint = inner
        elif hasattr(entrypoint, "__globals__") or inspect.isbuiltin(entrypoint):
            return entrypoint
        elif inspect.isfunction(method := type(entrypoint).__call__):
            entrypoint = method
        else:
            return entrypoint


def _docstring(entrypoint: Callable[..., Any], described: Callable[..., Any]) -> str:
    if described.__doc__ is None and described is type(entrypoint).__call__:
        return type(entrypoint).__doc__ or ""
    return described.__doc__ or ""


def _fixed_keywords(entrypoint: Callable[..., Any]) -> set[str]:
    names: set[str] = set()
    while isinstance(entrypoint, functools.partial):
        partial = cast("functools.partial[Any]", entrypoint)
        names.update(partial.keywords)
        entrypoint = partial.func
    return names


def _parameters(entrypoint: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            forward = annotationlib.Format.FORWARDREF
            return list(inspect.signature(entrypoint, annotation_format=forward).parameters.values())
        return list(inspect.signature(entrypoint).parameters.values())
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"tool {name!r}: Python does not know the parameters of {entrypoint!r}; "
            "wrap it in a function of your own"
        ) from error


def _hint(described: Callable[..., Any], parameter: inspect.Parameter, name: str) -> Any:
    if parameter.annotation is parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": parameter.annotation}
    # A context imported for type checkers only is still the context.
    names = {"RunContext": RunContext, **getattr(described, "__globals__", {})}
    try:
        hint = get_type_hints(holder, names, include_extras=True)["it"]
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ConfigurationError(
            f"tool {name!r}, parameter {parameter.name!r}: the annotation {parameter.annotation!r} has no "
            f"meaning at run time ({error}); import its names outside of `if TYPE_CHECKING:` and define its "
            "types at module level"
        ) from error
    return hint | None if parameter.default is None else hint


def _wants_context(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _wants_context(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return len(kinds) == 1 and _wants_context(kinds[0])
    return hint is RunContext


def _blame(name: str, fields: Mapping[str, str], definitions: Mapping[str, Any], error: Exception) -> str:
    for parameter, field in fields.items():
        hint = definitions[field][0]
        try:
            TypeAdapter(hint).json_schema(schema_generator=Quiet)
        except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as reason:
            said = str(reason).partition("\n")[0]
            return (
                f"tool {name!r}, parameter {parameter!r}: no JSON schema for {hint!r} ({said}); "
                "use types that pydantic knows, or bind the argument with functools.partial"
            )
    return f"tool {name!r}: no JSON schema for its parameters ({str(error).partition(chr(10))[0]})"
