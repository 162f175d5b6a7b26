from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from kern_async.exceptions import ConfigurationError
from kern_async.run import RunContext
from kern_async.tools import Function
from kern_async.tools.docstring import read_docstring

if TYPE_CHECKING:
    from decimal import Decimal


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    """A place."""

    x: int
    title: str = "here"


class Options(TypedDict):
    deep: bool


@dataclasses.dataclass
class Range:
    start: int
    end: int = 10


def properties(function: Callable[..., Any]) -> dict[str, Any]:
    return Function.from_callable(function).parameters["properties"]


def test_a_schema_says_names_types_defaults_and_that_nothing_else_is_taken() -> None:
    def search(query: str, limit: int = 5, exact: bool | None = None) -> None: ...

    assert Function.from_callable(search).parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer", "default": 5},
            "exact": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


def test_a_schema_of_nothing_is_an_empty_object() -> None:
    def ping() -> None: ...

    assert Function.from_callable(ping).parameters == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }


def test_every_type_that_pydantic_knows_is_told_without_titles() -> None:
    def tool(
        mode: Literal["a", "b"],
        colour: Colour,
        tags: list[str],
        scores: dict[str, float],
        point: Point,
        options: Options,
        span: Range,
        size: Annotated[int, Field(gt=0, description="How big.", title="Size")],
        anything: Any,
        bare,
    ) -> None: ...

    function = Function.from_callable(tool)
    told = function.parameters["properties"]
    kinds = function.parameters["$defs"]
    assert told["mode"] == {"enum": ["a", "b"], "type": "string"}
    assert told["colour"] == {"$ref": "#/$defs/Colour"}
    assert kinds["Colour"] == {"enum": ["red", "blue"], "type": "string"}
    assert told["tags"] == {"items": {"type": "string"}, "type": "array"}
    assert told["scores"] == {"additionalProperties": {"type": "number"}, "type": "object"}
    assert kinds["Point"] == {
        "description": "A place.",
        "properties": {"x": {"type": "integer"}, "title": {"default": "here", "type": "string"}},
        "required": ["x"],
        "type": "object",
    }
    assert kinds["Options"]["properties"] == {"deep": {"type": "boolean"}}
    assert kinds["Range"]["properties"]["end"] == {"default": 10, "type": "integer"}
    assert told["size"] == {"type": "integer", "exclusiveMinimum": 0, "description": "How big."}
    assert told["anything"] == told["bare"] == {}


def test_any_python_name_can_be_a_parameter() -> None:
    def tool(schema: int, model_config: int, copy: int, _hidden: int, json: int) -> int:
        return schema + model_config + copy + _hidden + json

    assert list(properties(tool)) == ["schema", "model_config", "copy", "_hidden", "json"]


def test_var_keywords_open_the_schema_with_their_type() -> None:
    def typed(**counts: int) -> None: ...
    def untyped(*_: object, **rest) -> None: ...

    assert Function.from_callable(typed).parameters["additionalProperties"] == {"type": "integer"}
    assert Function.from_callable(untyped).parameters["additionalProperties"] is True
    assert properties(untyped) == {}


def test_the_context_is_never_in_the_schema() -> None:
    def tool(
        a: RunContext,
        b: RunContext | None,
        c: Annotated[RunContext, "why"],
        query: str,
        d: RunContext | None = None,
    ) -> None: ...

    assert list(properties(tool)) == ["query"]


def test_a_parameter_is_a_context_by_its_annotation_and_not_by_its_name() -> None:
    def tool(run_context: str, context) -> None: ...

    assert list(properties(tool)) == ["run_context", "context"]


def test_a_default_that_is_no_json_is_not_told() -> None:
    def tool(lock: Any = object(), words: Any = ("a", "b")) -> None: ...  # noqa: B008

    assert properties(tool) == {"lock": {}, "words": {"default": ["a", "b"]}}


def test_a_type_without_a_schema_is_an_error_that_names_function_and_parameter() -> None:
    def fetch(url: str, retry: Callable[[], int]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'fetch', parameter 'retry'.*Callable"):
        Function.from_callable(fetch)


def test_a_type_that_is_there_for_checkers_only_is_an_error_that_says_so() -> None:
    def pay(amount: Decimal) -> None: ...

    with pytest.raises(ConfigurationError, match=r"'pay', parameter 'amount'.*TYPE_CHECKING"):
        Function.from_callable(pay)


def test_a_context_that_is_there_for_checkers_only_is_still_the_context() -> None:
    scope: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef tool(ctx: RunContext, x: int): ...", scope)
    assert list(properties(scope["tool"])) == ["x"]


def test_a_class_is_not_a_tool() -> None:
    with pytest.raises(ConfigurationError, match="is a class; give an instance"):
        Function.from_callable(Point)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match=r"not '<lambda>'; give one with @tool\(name="):
        Function.from_callable(lambda: None)


def test_what_a_partial_has_fixed_is_not_told() -> None:
    def send(to: str, text: str, urgent: bool = False) -> None:
        """Send a message."""

    function = Function.from_callable(functools.partial(send, "me", urgent=True))
    assert (function.name, function.description) == ("send", "Send a message.")
    assert list(function.parameters["properties"]) == ["text"]


def test_a_callable_object_is_told_by_its_call() -> None:
    class Adder:
        """Adds."""

        def __call__(self, a: int) -> int:
            return a + 1

    function = Function.from_callable(Adder())
    assert (function.name, function.description) == ("Adder", "Adds.")
    assert function.parameters["properties"] == {"a": {"type": "integer"}}


def test_a_wrapped_function_is_told_by_what_it_wraps() -> None:
    def inner(a: int) -> None:
        """The inner one."""

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> None: ...

    function = Function.from_callable(outer)
    assert (function.name, function.description) == ("inner", "The inner one.")
    assert list(function.parameters["properties"]) == ["a"]


def test_parameters_of_your_own_are_told_as_they_are() -> None:
    own = {"type": "object", "properties": {"city": {"type": "string"}}}

    def weather(**arguments: Any) -> None: ...

    assert Function(entrypoint=weather, parameters=own).parameters is own


def test_one_functions_schema_can_be_changed_without_another_ones() -> None:
    def tool(a: int) -> None: ...

    Function.from_callable(tool).parameters["properties"]["a"]["enum"] = [1]
    assert properties(tool) == {"a": {"type": "integer"}}


def test_a_strict_schema_requires_every_key_and_allows_no_other() -> None:
    def tool(
        point: Point, limit: int = 5, other: Annotated[Point | None, Field(description="o")] = None
    ) -> None:
        """Do.

        Args:
            point: where
        """

    parameters = Function(entrypoint=tool, strict=True).parameters
    assert parameters["required"] == ["point", "limit", "other"]
    assert parameters["properties"]["limit"] == {"type": "integer"}
    assert "$ref" not in parameters["properties"]["point"]  # a reference may have no description beside it
    assert parameters["properties"]["point"]["description"] == "where"
    assert parameters["properties"]["point"]["required"] == ["x", "title"]
    assert parameters["$defs"]["Point"]["required"] == ["x", "title"]
    assert parameters["$defs"]["Point"]["additionalProperties"] is False
    assert parameters["$defs"]["Point"]["properties"]["title"] == {"type": "string"}


def test_what_a_strict_schema_cannot_say_is_an_error() -> None:
    def free(table: dict[str, int]) -> None: ...
    def anything(value: Any) -> None: ...
    def open_ended(**rest: int) -> None: ...

    for function, named in ((free, "'table'"), (anything, "'value'"), (open_ended, "kwargs")):
        with pytest.raises(ConfigurationError, match=named):
            Function(entrypoint=function, strict=True)


GOOGLE = """Look something up.

    It may take long.

    Args:
        query (str, optional): What to
            look for: words.
        limit: How many.
        **rest: What else.

            More of it.

    Returns:
        result: Not a parameter.
    """
NUMPY = """Look something up.

    It may take long.

    Parameters
    ----------
    query : str, optional
        What to
        look for: words.
    limit, other : int
        How many.
    **rest
        What else.

        More of it.

    Returns
    -------
    result : str
        Not a parameter.
    """
SPHINX = """Look something up.

    It may take long.

    :param str query: What to
        look for: words.
    :type query: str
    :param limit: How many.
    :param rest: What else.
        More of it.
    :returns: Not a parameter.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_the_function_and_its_parameters(text: str) -> None:
    description, parameters = read_docstring(text)
    assert description == "Look something up.\n\nIt may take long."
    parameters.pop("other", None)
    assert parameters == {
        "query": "What to look for: words.",
        "limit": "How many.",
        "rest": "What else. More of it.",
    }


@pytest.mark.parametrize(
    "text", ["", "One line.", "Note: this is prose.\n\nArgs are not described: see there."]
)
def test_a_docstring_without_sections_is_the_description(text: str) -> None:
    assert read_docstring(text) == (text, {})


def test_a_types_own_description_goes_before_the_docstrings() -> None:
    def tool(a: Annotated[int, Field(description="from the type")], b: Point, c: int) -> None:
        """Do.

        Args:
            a: from the docstring
            b: the place
            unknown: nothing
        """

    told = properties(tool)
    assert told["a"]["description"] == "from the type"
    assert told["b"] == {"$ref": "#/$defs/Point", "description": "the place"}
    assert told["c"] == {"type": "integer"}


def test_what_is_async_and_what_is_a_generator_is_known_of_every_callable() -> None:
    async def coroutine() -> None: ...
    async def async_generator():
        yield 1

    def generator() -> Iterator[int]:
        yield 1

    def plain() -> None: ...

    class AsyncCall:
        async def __call__(self) -> None: ...

        async def method(self) -> None: ...

    def kinds(call: Callable[..., Any]) -> tuple[bool, bool]:
        function = Function.from_callable(call)
        return function.is_async, function.is_generator

    assert kinds(coroutine) == kinds(functools.partial(coroutine)) == (True, False)
    assert kinds(AsyncCall()) == kinds(AsyncCall().method) == (True, False)
    assert kinds(functools.partial(AsyncCall())) == (True, False)
    assert kinds(async_generator) == kinds(functools.partial(async_generator)) == (True, True)
    assert kinds(generator) == (False, True)
    assert kinds(plain) == kinds(functools.partial(plain)) == (False, False)
