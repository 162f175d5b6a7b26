"""Tools: what a model may call."""

from .decorator import tool
from .function import Function, FunctionCall
from .toolkit import Toolkit

__all__ = ["Function", "FunctionCall", "Toolkit", "tool"]
