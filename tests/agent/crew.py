"""Agents and teams on the test's provider. Each has a model of its own name, so that requests tell who asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kern_async import Agent, Team
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.testing import Call, Gate, ProviderServer, Reply, Request, Step, Text, ToolCall


@dataclass(eq=False)
class Crew:
    provider: ProviderServer
    protocol: type[OpenAIResponses | OpenAIChat] = OpenAIResponses

    def model(self, name: str, **settings: Any) -> OpenAIResponses | OpenAIChat:
        settings = {"max_retries": 0, "retry_delay": 0.001, **settings}
        return self.protocol(id=name, base_url=self.provider.base_url, api_key="key", **settings)

    def agent(self, name: str = "Solo", *replies: Reply, **options: Any) -> Agent:
        self.script(name, *replies)
        options.setdefault("model", self.model(name))
        return Agent(name=name, **options)

    def team(
        self, *replies: Reply, members: Sequence[Agent | Team], name: str = "Leader", **options: Any
    ) -> Team:
        self.script(name, *replies)
        options.setdefault("model", self.model(name))
        return Team(name=name, members=list(members), **options)

    def script(self, name: str, *replies: Reply) -> None:
        """What the model of this name answers, request by request."""

        def asked(request: Request) -> bool:
            return request.model == name

        for reply in replies:
            self.provider.reply(reply, when=asked)

    def requests(self, name: str = "Solo") -> list[Request]:
        return [request for request in self.provider.requests if request.model == name]

    def told(self, name: str = "Solo", number: int = -1) -> list[str]:
        """The results of tools that one of the model's requests carries, in their order."""
        return results(self.requests(name)[number])


def results(request: Request) -> list[str]:
    if request.chat:
        return [str(item["content"]) for item in request.input if item.get("role") == "tool"]
    return [str(item["output"]) for item in request.input if item.get("type") == "function_call_output"]


def delegate(member_id: str, task: str = "Do it.") -> ToolCall:
    return ToolCall("delegate_task_to_member", {"member_id": member_id, "task": task})


@dataclass(eq=False)
class Together:
    """Answers that come only when so many requests are open at the same time."""

    count: int
    gate: Gate = field(default_factory=Gate)
    arrived: list[str] = field(default_factory=list[str])

    def then(self, *steps: Step) -> Sequence[Step]:
        return [Call(self._arrive), self.gate, *steps]

    def _arrive(self, request: Request) -> None:
        self.arrived.append(request.model)
        if len(self.arrived) == self.count:
            self.gate.open()


def in_order(*steps: str) -> tuple[dict[str, Sequence[Step]], list[str]]:
    """Answers of which each waits until the one before it has been sent: `finished` says in which order."""
    gates = [Gate() for _ in steps]
    finished: list[str] = []
    replies: dict[str, Sequence[Step]] = {}
    gates[0].open()
    for index, name in enumerate(steps):
        replies[name] = [gates[index], Text(f"{name} says so."), Call(_passing(name, index, gates, finished))]
    return replies, finished


def _passing(name: str, index: int, gates: list[Gate], finished: list[str]) -> Callable[[Request], None]:
    def note(_request: Request) -> None:
        finished.append(name)
        if index + 1 < len(gates):
            gates[index + 1].open()

    return note


async def events_of(runner: Agent | Team, given: Any = "Go.", **options: Any) -> list[Any]:
    """All events of a run, members' too, and the output as the last item if it is asked for."""
    options.setdefault("stream_events", True)
    async with runner.arun(given, stream=True, **options) as events:
        return [event async for event in events]


def names(events: Sequence[Any]) -> list[str]:
    """The events' names; the deltas of one text count once."""
    listed = [event.event for event in events]
    return [name for index, name in enumerate(listed) if index == 0 or name != listed[index - 1]]
