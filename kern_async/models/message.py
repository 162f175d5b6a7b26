"""Messages and tool calls, under the path that the reference's users import them from."""

from kern_async.run.message import Message, ToolCall

__all__ = ["Message", "ToolCall"]
