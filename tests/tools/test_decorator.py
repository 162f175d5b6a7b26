from __future__ import annotations

from typing import Any, assert_type

import pytest

from kern_async.exceptions import ConfigurationError
from kern_async.run import RunContext
from kern_async.tools import Function, Toolkit, tool

CONTEXT = RunContext(run_id="run-1", session_id="session-1")


@tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


@tool(name="double_it", description="Twice as much.", strict=True)
async def double(x: int) -> int:
    return 2 * x


class Desk(Toolkit):
    def __init__(self, owner: str) -> None:
        super().__init__(name="desk", tools=[self.greet, self.leave, self.count, self.place])
        self.owner = owner

    @tool(stop_after_tool_call=True)
    def greet(self, name: str, ctx: RunContext | None = None) -> str:
        """Greet somebody."""
        return f"{self.owner} greets {name} in {ctx.run_id if ctx else None}"

    async def leave(self) -> str:
        return f"{self.owner} leaves"

    @tool
    @staticmethod
    def count(n: int) -> int:
        return n + 1

    @classmethod
    @tool
    def place(cls, n: int) -> str:
        return f"{cls.__name__} {n}"


async def test_a_decorated_function_is_a_tool_and_is_called_as_before() -> None:
    assert isinstance(add, Function)
    assert (add.name, add.description, add.__doc__) == ("add", "Add two numbers.", "Add two numbers.")
    assert_type(add(2), int)
    assert add(2, b=3) == 5
    assert await double(4) == 8
    assert (double.name, double.description, double.strict) == ("double_it", "Twice as much.", True)


def test_a_decorated_method_is_a_tool_of_its_object() -> None:
    ann, bob = Desk("Ann"), Desk("Bob")
    assert list(ann.functions["greet"].parameters["properties"]) == ["name"]
    assert ann.functions["greet"].bind('{"name": "Eve"}', CONTEXT).call() == "Ann greets Eve in run-1"
    assert bob.functions["greet"].bind('{"name": "Eve"}', CONTEXT).call() == "Bob greets Eve in run-1"
    assert_type(ann.greet("Eve"), str)
    assert ann.greet("Eve") == "Ann greets Eve in None"
    assert ann.functions["greet"].stop_after_tool_call


def test_static_and_class_methods_can_be_tools() -> None:
    functions = Desk("Ann").functions
    assert functions["count"].bind('{"n": 1}', CONTEXT).call() == 2
    assert functions["place"].bind('{"n": 1}', CONTEXT).call() == "Desk 1"


def test_a_decorator_over_a_class_method_says_where_it_belongs() -> None:
    with pytest.raises(ConfigurationError, match="put @tool below @classmethod"):
        tool(classmethod(lambda _: None))  # type: ignore[arg-type]


def test_a_tool_that_stops_the_run_shows_its_result_unless_told_otherwise() -> None:
    def make(**options: Any) -> tuple[bool, bool]:
        def end() -> None: ...

        made = tool(**options)(end)
        return made.stop_after_tool_call, made.show_result

    assert make() == (False, False)
    assert make(show_result=True) == (False, True)
    assert make(stop_after_tool_call=True) == (True, True)
    assert make(stop_after_tool_call=True, show_result=False) == (True, False)


def test_the_defaults_may_be_written_out() -> None:
    @tool(
        requires_confirmation=False,
        requires_user_input=None,
        user_input_fields=None,
        external_execution=False,
        pre_hook=None,
        tool_hooks=[],
        timeout=None,
        retries=0,
        isolation="thread",
    )
    def fine() -> None: ...

    assert fine.name == "fine"
    assert (fine.requires_confirmation, fine.timeout, fine.retries, fine.tool_hooks) == (False, None, 0, ())


def test_options_arrive_at_the_tool_and_at_its_bound_method() -> None:
    class Post:
        @tool(requires_confirmation=True, timeout=1.5, retries=2, pre_hook=print, tool_hooks=[print])
        def send(self, to: str) -> str:
            return f"to {to}"

    for send in (Post.send, Post().send):
        assert (send.requires_confirmation, send.timeout, send.retries) == (True, 1.5, 2)
        assert (send.pre_hook, send.post_hook, send.tool_hooks) == (print, None, (print,))


def test_a_tool_that_is_executed_elsewhere_needs_no_body() -> None:
    @tool(external_execution=True)
    def look(path: str) -> str: ...

    assert look.external_execution
    assert look.check('{"path": "x"}') == {"path": "x"}


@pytest.mark.parametrize(
    "option",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "1"},
        {"timeout": True},
        {"retries": -1},
        {"retries": 1.5},
        {"isolation": "planet"},
        {"pre_hook": "print"},
        {"post_hook": 3},
        {"tool_hooks": print},
        {"tool_hooks": ["print"]},
        {"user_input_fields": "a", "requires_user_input": True},
        {"user_input_fields": [1], "requires_user_input": True},
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(option))} is"):
        tool(**option)
    if "isolation" not in option:
        with pytest.raises(ConfigurationError, match=f"{next(iter(option))} is"):
            Function(entrypoint=add.entrypoint, **option)


@pytest.mark.parametrize(
    "options",
    [
        {"requires_confirmation": True, "requires_user_input": True},
        {"requires_user_input": True, "external_execution": True},
        {"requires_confirmation": True, "external_execution": True},
    ],
    ids="-".join,
)
def test_a_tool_waits_for_one_thing_at_a_time(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"not {' and '.join(options)}"):
        tool(**options)


def test_fields_for_the_user_need_a_user() -> None:
    with pytest.raises(ConfigurationError, match="needs requires_user_input=True"):
        tool(user_input_fields=["a"])


def test_an_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'cache_results'"):
        tool(cache_results=True)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["two words", "ü", "x" * 65, "a.b"])
def test_a_name_that_providers_refuse_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a tool's name is 1 to 64 letters"):
        tool(name=name)(add.entrypoint)
