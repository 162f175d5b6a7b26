"""An MCP server's tools as tools of ours: their names, their arguments, and their results as text."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run.context import RunContext

from .function import BoundCall, Function
from .result import render

_LONGEST = 64  # what providers accept
_NO_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {},
}  # providers want both, servers may leave them out


class Caller(Protocol):
    """How a tool is called: its name on the server, the arguments, and who is told of progress."""

    def __call__(
        self, tool: str, arguments: dict[str, Any], context: RunContext | None
    ) -> Awaitable[CallToolResult]: ...


@dataclass(frozen=True, eq=False)
class Entrypoint:
    """Calls one tool of a server."""

    server: str
    tool: str
    caller: Caller

    async def __call__(self, context: RunContext | None = None, /, **arguments: Any) -> str:
        result = await self.caller(self.tool, arguments, context)
        text = text_of(result)
        if result.is_error:
            raise ToolError(text or f"{self.tool} failed; the MCP server {self.server!r} does not say why")
        return text

    def __repr__(self) -> str:
        return f"{self.tool!r} of the MCP server {self.server!r}"


class ServerTool(Function):
    """A tool of a server: it is the server that validates the arguments."""

    def bind(
        self, arguments: str | Mapping[str, Any], context: RunContext, given: Mapping[str, Any] | None = None
    ) -> BoundCall:
        data: Any = arguments
        if isinstance(arguments, str):
            try:
                data = json.loads(arguments) if arguments.strip() else {}
            except (ValueError, RecursionError) as error:
                raise ToolError(f"{self.name}: the arguments are not JSON ({error})") from error
        if not isinstance(data, Mapping):
            raise ToolError(f"{self.name}: the arguments must be a JSON object, not {arguments!r}")
        args = {**cast("Mapping[str, Any]", data), **(given or {})}
        return BoundCall(args=args, call=partial(self.entrypoint, context, **args))


def functions_of(
    server: str, tools: Sequence[Tool], *, prefix: str | None, caller: Caller
) -> dict[str, Function]:
    """The functions of a server's tools by the names that the model gets to see.

    Raises:
        ConfigurationError: two tools would have one name.
    """
    functions: dict[str, Function] = {}
    origins: dict[str, str] = {}
    for tool in tools:
        name = legal_name(f"{prefix}_{tool.name}" if prefix else tool.name)
        if name in functions:
            raise ConfigurationError(
                f"two tools of the MCP server {server!r} would be called {name!r}: {origins[name]!r} and "
                f"{tool.name!r}; leave one out with exclude_tools"
            )
        origins[name] = tool.name
        functions[name] = ServerTool(
            entrypoint=Entrypoint(server, tool.name, caller),
            name=name,
            description=tool.description or tool.title or tool.name,
            parameters=_NO_PARAMETERS | tool.input_schema,
        )
    return functions


def legal_name(name: str) -> str:
    """The name with what providers do not accept replaced, and cut to the length that they take."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_LONGEST]


def text_of(result: CallToolResult) -> str:
    """A result as text for the model: its texts, else its data as JSON; what is no text is named."""
    parts = [_part(part) for part in result.content]
    if result.structured_content is not None and not any(
        isinstance(part, TextContent) for part in result.content
    ):
        parts.insert(0, render(result.structured_content))
    return "\n".join(parts)


def _part(part: ContentBlock) -> str:
    match part:
        case TextContent():
            return part.text
        case ImageContent():
            return f"[image, {part.mime_type}, {_size(part.data)}]"
        case AudioContent():
            return f"[audio, {part.mime_type}, {_size(part.data)}]"
        case ResourceLink():
            return f"[resource {part.uri}, {part.title or part.name}]"
        case _:
            resource = part.resource
            if isinstance(resource, TextResourceContents):
                return f"[resource {resource.uri}]\n{resource.text}"
            return (
                f"[resource {resource.uri}, {resource.mime_type or 'unknown type'}, {_size(resource.blob)}]"
            )


def _size(base64: str) -> str:
    return f"{len(base64) * 3 // 4} bytes"
