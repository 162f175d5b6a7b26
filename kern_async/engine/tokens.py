"""How many tokens a text takes, where no provider says."""

from __future__ import annotations

from collections.abc import Iterable

from kern_async.run.message import Message

CHARS_PER_TOKEN = 4
"""What a token is taken for where the provider does not say (OpenAI's rule of thumb for English)."""


def chars_of(messages: Iterable[Message]) -> int:
    """The characters of the messages' texts and tool calls; images and files do not count."""
    chars = 0
    for message in messages:
        chars += len(message.content or "")
        for call in message.tool_calls:
            chars += len(call.name) + len(call.arguments)
    return chars


def estimate_tokens(messages: Iterable[Message]) -> int:
    """The tokens of the messages, as far as characters tell."""
    return tokens_in(chars_of(messages))


def tokens_in(chars: int) -> int:
    """The tokens that so many characters are taken for, rounded up."""
    return -(-chars // CHARS_PER_TOKEN)
