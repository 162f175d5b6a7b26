"""OpenAI's models, and those of every server that speaks its protocols."""

from __future__ import annotations

from .chat import OpenAIChat
from .responses import OpenAIResponses

__all__ = ["OpenAIChat", "OpenAIResponses"]
