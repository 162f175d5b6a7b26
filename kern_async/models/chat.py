"""The Chat Completions API: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kern_async.exceptions import ConfigurationError
from kern_async.run.media import File, Image
from kern_async.run.message import Message

from .base import Emit, ModelReply, ModelRequest, ToolSpec
from .chat_reader import ChatReader
from .exchange import exchange
from .openai_model import OpenAIModel


@dataclass(kw_only=True, eq=False)
class OpenAIChat(OpenAIModel):
    """A model behind OpenAI's Chat Completions API, or one of the many servers that speak it.

    See `OpenAIModel` for shared settings. `max_tokens` is the older name of `max_completion_tokens`, which
    other servers may know alone.
    """

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, int] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Send one request and stream its answer. See `Model.respond`.

        An answer that its token limit cut off is returned if it has text or whole tool calls.

        Raises:
            ConfigurationError: an image or file cannot be read, or not be sent in this protocol.
            ModelKeyMissing: there is no API key, and the server is OpenAI's.
        """
        body = await self._converted(request)
        reader = ChatReader()
        async with self._lent_client() as client:
            await exchange(client, "/chat/completions", body, reader, emit, self._options())
        return reader.reply()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.id,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= self._settings(
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "frequency_penalty",
            "presence_penalty",
            "logit_bias",
            "seed",
            "stop",
            "reasoning_effort",
            "verbosity",
            "service_tier",
            "store",
            "metadata",
            "user",
        )
        if request.output_schema is not None:
            schema = self._schema_format(request.output_schema)
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.tools:
            body["tools"] = [_tool(spec) for spec in request.tools]
            body |= self._settings("parallel_tool_calls")
        if (choice := _tool_choice(request)) is not None:
            body["tool_choice"] = choice
        return body


def _message(message: Message) -> dict[str, Any]:
    match message.role:
        case "assistant":
            told: dict[str, Any] = {"role": "assistant", "content": message.content or ""}
            if message.tool_calls:
                told["content"] = message.content or None
                told["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call in message.tool_calls
                ]
            return told
        case "tool":
            if message.images or message.files:
                raise ConfigurationError(
                    f"the result of tool {message.tool_name!r} has images or files, which chat completions "
                    "cannot carry; use OpenAIResponses"
                )
            return {
                "role": "tool",
                "tool_call_id": message.tool_call_id or "",
                "content": message.content or "",
            }
        case role:
            return {"role": role, "content": _content(message)}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images and not message.files:
        return message.content or ""
    parts: list[dict[str, Any]] = []
    if message.content:
        parts.append({"type": "text", "text": message.content})
    parts += map(_image, message.images)
    parts += map(_file, message.files)
    return parts


def _image(image: Image) -> dict[str, Any]:
    url = image.data_url("image/png")
    return {"type": "image_url", "image_url": {"url": url, "detail": image.detail or "auto"}}


def _file(file: File) -> dict[str, Any]:
    if file.url is not None:
        raise ConfigurationError(f"chat completions take no file by URL ({file.url}); use OpenAIResponses")
    name = file.filename or (file.filepath.name if file.filepath else "file.pdf")
    return {"type": "file", "file": {"filename": name, "file_data": file.data_url("application/pdf")}}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
    }
    if spec.strict:  # not every server that speaks this protocol knows the word
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(request: ModelRequest) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    if not isinstance(choice, str):
        return choice
    if not request.tools:
        return None
    return (
        choice
        if choice in ("auto", "none", "required")
        else {"type": "function", "function": {"name": choice}}
    )
