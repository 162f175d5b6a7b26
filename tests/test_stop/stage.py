"""Where a run is brought into a situation and cancelled, and what is noted at that instant."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from kern_async import Agent, Team, TeamMode, cancel_run
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.testing import ProviderServer, Reply, Request, Text, ToolCall

REASON = "enough"
Runner = Agent | Team


@dataclass(eq=False, kw_only=True)
class Stage:
    """One run to be cancelled. Every agent and team has a model of its own name, so requests tell who asked."""

    provider: ProviderServer
    protocol: type[OpenAIResponses | OpenAIChat] = OpenAIResponses
    cancels_itself: bool = False
    """Whether the tool or hook that sleeps cancels its run before it does."""

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)
    inside: threading.Event = field(default_factory=threading.Event, init=False)
    """Set by code of the run when it has come where it is to be cancelled."""
    release: threading.Event = field(default_factory=threading.Event, init=False)
    """What sleeping threads wait for."""
    go: anyio.Event | None = field(default=None, init=False)
    """What the accomplice's tool waits for."""
    started: list[str] = field(default_factory=list[str], init=False)
    """The tools and hooks that were called."""
    answers: list[bool] = field(default_factory=list[bool], init=False)
    """What the cancels returned."""
    cancelled_at: float = field(default=0.0, init=False)
    requests_at_cancel: int = field(default=0, init=False)
    started_at_cancel: list[str] = field(default_factory=list[str], init=False)

    def __post_init__(self) -> None:
        self.provider.default = Text("Fine.")

    def model(self, name: str) -> OpenAIResponses | OpenAIChat:
        return self.protocol(id=name, base_url=self.provider.base_url, api_key="test")

    def agent(self, name: str, *replies: Reply, **options: Any) -> Agent:
        self.script(name, *replies)
        return Agent(name=name, model=self.model(name), store_events=True, **options)

    def team(self, name: str, *replies: Reply, members: list[Runner], **options: Any) -> Team:
        self.script(name, *replies)
        return Team(name=name, model=self.model(name), members=members, store_events=True, **options)

    def with_accomplice(self, subject: Runner) -> Team:
        """A team of the subject and an agent whose tool cancels them all."""

        async def stop() -> None:
            assert self.go is not None
            await self.go.wait()
            self.cancel()
            await anyio.sleep_forever()

        accomplice = self.agent("accomplice", ToolCall("stop"), tools=[stop])
        return self.team("outermost", members=[subject, accomplice], mode=TeamMode.broadcast)

    def script(self, name: str, *replies: Reply) -> None:
        def asks(request: Request) -> bool:
            return request.model == name

        for reply in replies:
            self.provider.reply(reply, when=asks)

    def requests(self, name: str) -> list[Request]:
        return [request for request in self.provider.requests if request.model == name]

    def called(self, name: str) -> None:
        self.started.append(name)

    def arrive(self, name: str) -> None:
        """Called by a tool or hook that is about to sleep."""
        self.called(name)
        if self.cancels_itself:
            self.cancel()
        self.inside.set()

    def note_cancel(self) -> None:
        self.requests_at_cancel = len(self.provider.requests)
        self.started_at_cancel = list(self.started)
        self.cancelled_at = time.perf_counter()

    def cancel(self) -> None:
        self.note_cancel()
        self.answers.append(cancel_run(self.run_id, reason=REASON))

    async def wait_until_in_it(self, reached: Callable[[Stage], bool]) -> None:
        """Wait until the run is in its situation, seen from the provider and from the run's own event loop.

        When another run's request and answer have gone through the same loop, the run has read what the
        provider had sent it before.
        """
        await self.provider.await_until(lambda: reached(self), timeout=5)
        await self.bystander().arun("hello")

    def wait_until_in_it_in_thread(self, reached: Callable[[Stage], bool]) -> None:
        """The same for runs on the background loop."""
        self.provider.wait_until(lambda: reached(self), timeout=5)
        self.bystander().run("hello")

    def bystander(self) -> Agent:
        return Agent(name="bystander", model=self.model("bystander"))
