from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from kern_async.exceptions import ConfigurationError
from kern_async.tools import Function, FunctionCall, Toolkit, tool
from kern_async.tools.toolkit import collect


def search(query: str) -> str:
    return query


@tool(name="lookup")
def look(key: str) -> str:
    return key


class Shelf(Toolkit):
    def __init__(self, **options: Any) -> None:
        super().__init__(name="shelf", tools=[self.put, self.take, self.search], **options)

    def put(self, book: str) -> None: ...

    @tool
    def take(self, book: str) -> str:
        return book

    def search(self, query: str) -> None: ...


def test_tools_are_collected_under_their_names_in_order() -> None:
    tools = collect([look, Shelf(exclude_tools=["search"]), search])
    assert list(tools) == ["lookup", "put", "take", "search"]
    assert tools["lookup"] is look
    assert all(isinstance(function, Function) for function in tools.values())


def test_a_toolkit_can_be_asked_for_some_of_its_tools() -> None:
    assert list(Shelf(include_tools=["take", "put"]).functions) == ["put", "take"]
    assert list(Shelf(include_tools=["take", "put"], exclude_tools=["put"]).functions) == ["take"]
    assert list(Shelf(include_tools=[]).functions) == []


def test_a_toolkit_can_say_how_its_tools_are_called() -> None:
    shelf = Shelf(
        requires_confirmation_tools=["put"],
        external_execution_required_tools=["search"],
        stop_after_tool_call_tools=["take"],
        show_result_tools=["put"],
    )
    put, take, search = collect([shelf]).values()
    assert (put.requires_confirmation, put.show_result, put.stop_after_tool_call) == (True, True, False)
    assert (take.stop_after_tool_call, take.show_result, take.requires_confirmation) == (True, True, False)
    assert (search.external_execution, search.requires_confirmation) == (True, False)
    assert take("x") == "x"
    assert list(take.parameters["properties"]) == ["book"]
    assert Shelf().functions["put"].requires_confirmation is False


def test_a_toolkit_does_not_contradict_its_tools() -> None:
    @tool(external_execution=True)
    def print_it(text: str) -> None: ...

    kit = Toolkit(tools=[print_it], requires_confirmation_tools=["print_it"])
    with pytest.raises(ConfigurationError, match=r"'print_it'.*requires_confirmation and external_execution"):
        collect([kit])


@pytest.mark.parametrize(
    "option",
    [
        "include_tools",
        "exclude_tools",
        "requires_confirmation_tools",
        "external_execution_required_tools",
        "stop_after_tool_call_tools",
        "show_result_tools",
    ],
)
def test_a_tool_that_a_toolkit_does_not_have_is_an_error(option: str) -> None:
    shelf = Shelf(**{option: ["burn"]})
    with pytest.raises(
        ConfigurationError, match="toolkit 'shelf' has no tool 'burn'; it has put, take, search"
    ):
        collect([shelf])


def test_a_tool_can_be_registered_later() -> None:
    shelf = Shelf(include_tools=["take", "lookup"])
    shelf.register(look)
    assert list(shelf.functions) == ["take", "lookup"]


def test_two_tools_of_one_name_are_an_error_that_names_both() -> None:
    with pytest.raises(
        ConfigurationError, match=r"called 'search': .*test_toolkit\.search and .*Shelf\.search"
    ):
        collect([search, Shelf()])
    with pytest.raises(ConfigurationError, match="two tools are called 'lookup'"):
        Toolkit(tools=[look, look])
    with pytest.raises(ConfigurationError, match="two tools are called 'search'"):
        collect([search, partial(search, "x")])


def test_a_method_without_its_object_is_an_error() -> None:
    for method in (Shelf.put, Shelf.take):
        with pytest.raises(ConfigurationError, match=r"Shelf\.(put|take) is a method without its object"):
            collect([method])


def test_what_is_no_tool_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="a provider's own tool"):
        collect([{"type": "web_search"}])
    with pytest.raises(ConfigurationError, match="is a class; give an instance"):
        collect([Shelf])
    with pytest.raises(ConfigurationError, match="a tool must be callable, not 'search'"):
        collect(["search"])  # type: ignore[list-item]


def test_a_call_holds_what_was_asked_for_and_what_came_of_it() -> None:
    call = FunctionCall(look, {"key": "a"}, "call-1")
    assert (call.function, call.arguments, call.call_id, call.result, call.error) == (
        look,
        {"key": "a"},
        "call-1",
        None,
        None,
    )
