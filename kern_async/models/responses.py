"""The Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import anyio
import openai

from kern_async.exceptions import ConfigurationError
from kern_async.run.media import File, Image
from kern_async.run.message import Message, now

from .base import Emit, ModelReply, ModelRequest, ToolSpec
from .exchange import exchange
from .faults import TRANSPORT_ERRORS
from .openai_model import OpenAIModel
from .responses_reader import ResponsesReader, item_text

# Shorter than a run's default grace, in which its model call has to be over.
_CANCEL_TIMEOUT = 0.8
_KEPT_SECONDS = 29 * 86_400  # the provider keeps what it stores for 30 days
_REASONS = re.compile(r"(o\d|gpt-[5-9](?!-chat)|codex)")
_ENCRYPTED_REASONING = "reasoning.encrypted_content"
_PROVIDER_DATA: Final = "openai_responses"
_ANSWERED_BY_US = frozenset(
    ("apply_patch_call", "computer_call", "custom_tool_call", "local_shell_call", "shell_call")
)
"""Kinds of calls that the provider wants an answer to, and that messages have none for."""

_log = logging.getLogger("kern_async.models")


@dataclass(kw_only=True, eq=False)
class OpenAIResponses(OpenAIModel):
    """A model behind OpenAI's Responses API, or a server that speaks it. See `OpenAIModel` for shared settings.

    `reasoning` is the provider's object (`{"effort": ..., "summary": ...}`); `reasoning_effort` and
    `reasoning_summary` set its parts. `background=True` lets the provider generate apart from the connection:
    when a request is cut, the generation is cancelled there too. `include` adds to what answers contain.

    Conversations are sent whole, so no state at the provider is needed and any cut history works. Reasoning
    items of earlier answers go back with them; with `store=False` they are asked for encrypted, as the provider
    then has no copy.
    """

    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    reasoning: dict[str, Any] | None = None
    reasoning_summary: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    include: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.background and self.store is False:
            raise ConfigurationError("background=True needs store: the provider runs only what it stores")

    async def respond(self, request: ModelRequest, emit: Emit) -> ModelReply:
        """Send one request and stream its answer. See `Model.respond`.

        An answer that `max_output_tokens` cut off is returned if it has text or whole tool calls.

        Raises:
            ConfigurationError: an image or file cannot be read.
            ModelKeyMissing: there is no API key, and the server is OpenAI's.
        """
        body = await self._converted(request)
        reader = ResponsesReader()
        async with self._lent_client() as client:
            try:
                await exchange(client, "/responses", body, reader, emit, self._options())
            finally:
                if self.background and reader.response_id is not None and not reader.complete:
                    await self._cancel_generation(client, reader.response_id)
        reply = reader.reply()
        if reader.items_to_return:
            reply.provider_data = {_PROVIDER_DATA: {"model": self.id, "output": reader.items_to_return}}
        return reply

    async def _cancel_generation(self, client: openai.AsyncOpenAI, response_id: str) -> None:
        with anyio.move_on_after(_CANCEL_TIMEOUT, shield=True) as scope:
            try:
                await client.post(
                    f"/responses/{response_id}/cancel",
                    cast_to=object,
                    options={"max_retries": 0, "security": {"bearer_auth": True}},
                )
            except (openai.OpenAIError, *TRANSPORT_ERRORS) as error:
                _log.warning(
                    "response %s goes on at the provider, cancelling it failed: %s", response_id, error
                )
        if scope.cancelled_caught:
            _log.warning("response %s may go on at the provider: no answer to its cancel", response_id)

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        messages = list(request.messages)
        body: dict[str, Any] = {"model": self.id, "stream": True}
        if messages and messages[0].role == "system":
            body["instructions"] = messages.pop(0).content
        body["input"] = [item for message in messages for item in self._items(message)]
        body |= self._settings(
            "max_output_tokens",
            "max_tool_calls",
            "temperature",
            "top_p",
            "truncation",
            "background",
            "service_tier",
            "store",
            "metadata",
            "user",
        )
        reasoning = {
            **(self.reasoning or {}),
            **({"effort": self.reasoning_effort} if self.reasoning_effort is not None else {}),
            **({"summary": self.reasoning_summary} if self.reasoning_summary is not None else {}),
        }
        if reasoning:
            body["reasoning"] = reasoning
        include = list(self.include or ())
        if self.store is False and self._reasons() and _ENCRYPTED_REASONING not in include:
            include.append(_ENCRYPTED_REASONING)
        if include:
            body["include"] = include
        text: dict[str, Any] = {}
        if self.verbosity is not None:
            text["verbosity"] = self.verbosity
        if request.output_schema is not None:
            text["format"] = {"type": "json_schema", **self._schema_format(request.output_schema)}
        if text:
            body["text"] = text
        if request.tools:
            body["tools"] = [_tool(spec) for spec in request.tools]
            body |= self._settings("parallel_tool_calls")
        if (choice := _tool_choice(request)) is not None:
            body["tool_choice"] = choice
        return body

    def _reasons(self) -> bool:
        name = self.id.rpartition("/")[2]
        return bool(self.reasoning or self.reasoning_effort or _REASONS.match(name))

    def _items(self, message: Message) -> list[dict[str, Any]]:
        match message.role:
            case "assistant":
                return self._returned_items(message) or _assistant_items(message)
            case "tool":
                output = _content(message)
                return [
                    {"type": "function_call_output", "call_id": message.tool_call_id or "", "output": output}
                ]
            case role:
                return [{"role": role, "content": _content(message)}]

    def _returned_items(self, message: Message) -> list[dict[str, Any]] | None:
        """The provider's own items of an answer, if they still say what the message says."""
        kept = (message.provider_data or {}).get(_PROVIDER_DATA)
        if not isinstance(kept, Mapping):
            return None
        fields = cast("Mapping[str, Any]", kept)
        items: list[dict[str, Any]] = fields.get("output") or []
        kinds = [item.get("type") for item in items]
        if kinds and (kinds[-1] == "reasoning" or not _ANSWERED_BY_US.isdisjoint(kinds)):
            return None  # refused: reasoning that is not followed by what it led to, calls without answers
        calls = [item.get("call_id") for item in items if item.get("type") == "function_call"]
        if (
            fields.get("model") != self.id
            or calls != [call.id for call in message.tool_calls]
            or "".join(map(item_text, items)) != (message.content or "")
        ):
            return None
        known_to_provider = self.store is not False and now() - message.created_at < _KEPT_SECONDS
        if not known_to_provider and any(
            item.get("type") == "reasoning" and not item.get("encrypted_content") for item in items
        ):
            return None
        return items


def _assistant_items(message: Message) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if message.content:
        # In full, because llama.cpp takes no shorter form.
        part: dict[str, Any] = {"type": "output_text", "text": message.content, "annotations": []}
        items.append({"type": "message", "role": "assistant", "status": "completed", "content": [part]})
    items += (
        {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.tool_calls
    )
    return items


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images and not message.files:
        return message.content or ""
    parts: list[dict[str, Any]] = []
    if message.content:
        parts.append({"type": "input_text", "text": message.content})
    parts += map(_image, message.images)
    parts += map(_file, message.files)
    return parts


def _image(image: Image) -> dict[str, Any]:
    return {"type": "input_image", "image_url": image.data_url("image/png"), "detail": image.detail or "auto"}


def _file(file: File) -> dict[str, Any]:
    if file.url is not None:
        return {"type": "input_file", "file_url": file.url}
    name = file.filename or (file.filepath.name if file.filepath else "file.pdf")
    return {"type": "input_file", "filename": name, "file_data": file.data_url("application/pdf")}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    # `strict` is always said: the provider takes its absence for True.
    return {
        "type": "function",
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
        "strict": spec.strict,
    }


def _tool_choice(request: ModelRequest) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    if not isinstance(choice, str):
        return choice
    if not request.tools:
        return None
    return choice if choice in ("auto", "none", "required") else {"type": "function", "name": choice}
