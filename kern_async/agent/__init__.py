"""Agents."""

from kern_async.run.agent import RunOutput

from .agent import Agent

__all__ = ["Agent", "RunOutput"]
