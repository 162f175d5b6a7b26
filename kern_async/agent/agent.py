"""Agent: a model with instructions and tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from kern_async.engine.plan import Plan
from kern_async.engine.run import Run
from kern_async.run.agent import AgentEvent, RunOutput
from kern_async.run.message import Message

from .prompt import build_messages
from .runnable import Request, Runnable


@dataclass(kw_only=True, eq=False, repr=False)
class Agent(Runnable[AgentEvent, RunOutput]):
    """A model with instructions and tools. It holds no state of its runs: any number may go on at once.

    The keywords are those of `Runnable`.
    """

    _kind: ClassVar[Literal["agent", "team"]] = "agent"

    def _plan(self, run: Run, request: Request) -> Plan:
        def messages(run: Run, history: Sequence[Message]) -> list[Message]:
            return build_messages(self, run, request, history=history)

        return Plan(**self._plan_fields(request), messages=messages, tools=self._own_tools())
