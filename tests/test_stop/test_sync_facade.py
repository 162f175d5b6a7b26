"""The same promises for code without an event loop: `run()` in one thread, cancelled from another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from kern_async import Agent, RunStatus, abandoned
from kern_async.testing import ProviderServer

from .checks import check_end, check_provider
from .situations import SITUATIONS, Situation
from .stage import Runner, Stage

Record = Callable[[str, object], None]
SAMPLE = [
    pytest.param(situation, id=situation.name)
    for situation in SITUATIONS
    if situation.name
    in {
        "streaming_tokens",
        "first_byte_never_comes",
        "async_tool_asleep",
        "sync_tool_asleep",
        "retry_back_off",
        "sync_pre_hook_asleep",
        "members_in_parallel",
        "nested_team",
    }
]


class Consumer:
    """A thread that runs it, and what that thread got."""

    def __init__(self, runner: Runner, stage: Stage, *, streamed: bool) -> None:
        self._runner = runner
        self._run_id = stage.run_id
        self.output: Any = None
        self.streamed: list[Any] | None = [] if streamed else None
        self._thread = threading.Thread(target=self._consume, name="consumer", daemon=True)

    def _consume(self) -> None:
        if self.streamed is None:
            self.output = self._runner.run("Go.", run_id=self._run_id)
            return
        with self._runner.run("Go.", stream=True, stream_events=True, run_id=self._run_id) as events:
            self.streamed.extend(events)
        self.output = events.output

    @contextmanager
    def running(self) -> Generator[None]:
        self._thread.start()
        yield
        self._thread.join(15)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "awaited"])
@pytest.mark.parametrize("situation", SAMPLE)
def test_cancel_from_another_thread_ends_a_run_of_the_sync_facade(
    situation: Situation, streamed: bool, provider: ProviderServer, record_property: Record
) -> None:
    stage = Stage(provider=provider)
    subject = situation.build(stage)
    consumer = Consumer(subject, stage, streamed=streamed)
    with consumer.running():
        stage.wait_until_in_it_in_thread(situation.reached)
        stage.cancel()
    check_end(stage, situation, consumer.output, consumer.streamed)
    assert_nothing_follows(stage, situation, subject)
    for seconds in check_provider(stage, situation):
        record_property("cancel to disconnect", seconds)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "awaited"])
@pytest.mark.parametrize(
    "situation",
    [pytest.param(situation, id=situation.name) for situation in SITUATIONS if situation.own_code],
)
def test_a_tool_or_hook_cancels_its_own_run_of_the_sync_facade(
    situation: Situation, streamed: bool, provider: ProviderServer
) -> None:
    stage = Stage(provider=provider, cancels_itself=True)
    subject = situation.build(stage)
    consumer = Consumer(subject, stage, streamed=streamed)
    with consumer.running():
        assert stage.inside.wait(5)
    check_end(stage, situation, consumer.output, consumer.streamed)
    assert_nothing_follows(stage, situation, subject)
    check_provider(stage, situation)


def assert_nothing_follows(stage: Stage, situation: Situation, subject: Runner) -> None:
    stage.release.set()
    stage.provider.wait_until(lambda: not abandoned(), timeout=2)
    later = Agent(name="later", model=subject.model).run("And now?")
    assert later.status is RunStatus.completed
    stage.provider.wait_until(lambda: stage.provider.open_requests == 0, timeout=1)
