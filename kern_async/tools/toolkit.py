"""Sets of tools: toolkits, and the tools of an agent under their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import anyio

from kern_async.exceptions import ConfigurationError, ToolError

from .function import Function


class Toolkit:
    """Tools that belong together, usually methods of one object: subclass it and hand over `self.method`s.

    `instructions` tell the model how to use them. `include_tools` keeps only the tools of these names,
    `exclude_tools` leaves those out. The tools named in `requires_confirmation_tools`,
    `external_execution_required_tools`, `stop_after_tool_call_tools` and `show_result_tools` are as if `@tool` had
    been given that keyword.

    Raises:
        ConfigurationError: two tools have one name, or a tool's parameters cannot be told to a model.
    """

    remote: ClassVar[bool] = False
    """Whether its tools are known only once a run has called `load`."""

    def __init__(
        self,
        name: str = "toolkit",
        tools: Sequence[Callable[..., Any]] = (),
        instructions: str | None = None,
        include_tools: Sequence[str] | None = None,
        exclude_tools: Sequence[str] | None = None,
        *,
        requires_confirmation_tools: Sequence[str] | None = None,
        external_execution_required_tools: Sequence[str] | None = None,
        stop_after_tool_call_tools: Sequence[str] | None = None,
        show_result_tools: Sequence[str] | None = None,
    ) -> None:
        for what, names in (("include_tools", include_tools), ("exclude_tools", exclude_tools)):
            if isinstance(names, str):
                raise ConfigurationError(f"{what} of toolkit {name!r} is {names!r}; it is a list of names")
        self.name = name
        self.instructions = instructions
        self._include = None if include_tools is None else frozenset(include_tools)
        self._exclude = frozenset(exclude_tools or ())
        self._options: dict[str, dict[str, bool]] = {}
        for names, option in (
            (show_result_tools, {"show_result": True}),
            (stop_after_tool_call_tools, {"stop_after_tool_call": True, "show_result": True}),
            (requires_confirmation_tools, {"requires_confirmation": True}),
            (external_execution_required_tools, {"external_execution": True}),
        ):
            for tool in names or ():
                self._options.setdefault(tool, {}).update(option)
        self._tools: dict[str, Function] = {}
        for tool in tools:
            self.register(tool)

    def register(self, tool: Callable[..., Any]) -> None:
        """Add one more tool."""
        _add(self._tools, Function.from_callable(tool))

    @property
    def functions(self) -> dict[str, Function]:
        """The tools by name, without those that are left out.

        Raises:
            ConfigurationError: a keyword names a tool that is not there, or one does not go with what its `@tool`
                says.
        """
        wanted = self._tools.keys() if self._include is None else self._include
        if unknown := (wanted | self._exclude | self._options.keys()) - self._tools.keys():
            known = ", ".join(self._tools) or "none"
            raise ConfigurationError(f"toolkit {self.name!r} has no tool {min(unknown)!r}; it has {known}")
        return {
            name: replace(tool, **self._options[name]) if name in self._options else tool
            for name, tool in self._tools.items()
            if name in wanted and name not in self._exclude
        }

    async def load(self) -> Mapping[str, Function]:
        """The tools by name, fetched from where they are if this toolkit is remote.

        Raises:
            ToolError: they cannot be fetched.
            ConfigurationError: as `functions`.
        """
        return self.functions

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, functions={list(self._tools)})"


def collect(tools: Iterable[Callable[..., Any] | Toolkit | Mapping[str, Any]]) -> dict[str, Function]:
    """All tools by name, toolkits opened, in the order given; remote toolkits are left to `load_remote`.

    Raises:
        ConfigurationError: two have one name, one is not callable, or cannot be told to a model.
    """
    collected: dict[str, Function] = {}
    for tool in tools:
        if isinstance(tool, Mapping):
            raise ConfigurationError(f"a provider's own tool ({tool!r}) cannot be used here; give a function")
        if isinstance(tool, Toolkit) and tool.remote:
            continue
        for function in (
            tool.functions.values() if isinstance(tool, Toolkit) else [Function.from_callable(tool)]
        ):
            _add(collected, function)
    return collected


async def load_remote(
    tools: Iterable[Callable[..., Any] | Toolkit | Mapping[str, Any]],
    collected: Mapping[str, Function] | None = None,
    *,
    on_failure: Callable[[Toolkit, ToolError], None] | None = None,
) -> dict[str, Function]:
    """The tools of all remote toolkits among `tools`, loaded side by side, after those already `collected`.

    A toolkit that cannot be loaded is left out and told to `on_failure`. A cancel leaves at once.

    Raises:
        ToolError: a toolkit cannot be loaded, and there is no `on_failure`.
        ConfigurationError: two tools have one name.
    """
    together = dict(collected or {})
    kits = [tool for tool in tools if isinstance(tool, Toolkit) and tool.remote]
    loaded: dict[int, Mapping[str, Function]] = {}
    failures: dict[int, ToolError | ConfigurationError] = {}

    async def load(index: int, kit: Toolkit) -> None:
        try:
            loaded[index] = await kit.load()
        except (ToolError, ConfigurationError) as error:
            failures[index] = error

    async with anyio.create_task_group() as group:
        for index, kit in enumerate(kits):
            group.start_soon(load, index, kit, name=f"kern-load {kit.name}")
    for index, kit in enumerate(kits):
        error = failures.get(index)
        if isinstance(error, ToolError) and on_failure is not None:
            on_failure(kit, error)
        elif error is not None:
            raise error
        for function in loaded.get(index, {}).values():
            _add(together, function)
    return together


def _add(tools: dict[str, Function], function: Function) -> None:
    if function.lacks_object:
        raise ConfigurationError(
            f"{_origin(function)} is a method without its object; give the method of an instance"
        )
    if (other := tools.get(function.name)) is not None:
        raise ConfigurationError(
            f"two tools are called {function.name!r}: {_origin(other)} and {_origin(function)}; "
            "give one of them another name with @tool(name=...)"
        )
    tools[function.name] = function


def _origin(function: Function) -> str:
    entrypoint = function.entrypoint
    name = getattr(entrypoint, "__qualname__", None)
    return f"{entrypoint.__module__}.{name}" if name else repr(entrypoint)
