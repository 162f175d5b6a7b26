"""Guardrails in a run's hooks."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kern_async import cancel_run
from kern_async.exceptions import CheckTrigger, ConfigurationError, InputCheckError, OutputCheckError
from kern_async.guardrails import BaseGuardrail
from kern_async.run.agent import RunOutput
from kern_async.run.base import RunInput, RunStatus
from kern_async.testing import Text

from .crew import Crew


class NoSecrets(BaseGuardrail):
    """Checks in a thread."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.threads: list[int] = []

    def check(self, run_input: RunInput) -> None:
        self.threads.append(threading.get_ident())
        if self.word in str(run_input.input_content):
            raise InputCheckError("no secrets", CheckTrigger.PII_DETECTED)


class Polite(BaseGuardrail):
    """Checks on the event loop, though it has both."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def check(self, run_input: Any) -> None:
        raise AssertionError("async_check is there")

    async def async_check(self, run_input: RunOutput) -> None:
        await anyio.lowlevel.checkpoint()
        self.shown.append(run_input.content)
        if "please" not in str(run_input.content):
            raise OutputCheckError("not polite")


async def test_a_guardrail_checks_in_a_thread_before_any_model_call(crew: Crew) -> None:
    guardrail = NoSecrets("xyzzy")
    agent = crew.agent("Solo", Text("Hello."), pre_hooks=[guardrail])
    assert (await agent.arun("The word is open.")).status is RunStatus.completed
    output = await agent.arun("The word is xyzzy.")
    assert (output.status, output.error_type, output.error) == (
        RunStatus.error,
        "InputCheckError",
        "no secrets",
    )
    assert len(crew.requests()) == 1
    assert len(guardrail.threads) == 2
    assert threading.get_ident() not in guardrail.threads


async def test_a_guardrail_checks_the_output_and_the_text_is_kept(crew: Crew) -> None:
    guardrail = Polite()
    agent = crew.agent("Solo", Text("Go, please."), Text("Go."), post_hooks=[guardrail])
    assert (await agent.arun("Say it.")).status is RunStatus.completed
    output = await agent.arun("Say it.")
    assert (output.status, output.error_type, output.content) == (
        RunStatus.error,
        "OutputCheckError",
        "Go.",
    )
    assert guardrail.shown == ["Go, please.", "Go."]


async def test_a_cancel_interrupts_a_guardrail_on_the_event_loop(crew: Crew) -> None:
    class Slow(BaseGuardrail):
        async def async_check(self, run_input: Any) -> None:
            cancel_run("the-run")
            await anyio.sleep_forever()

    with anyio.fail_after(5):
        output = await crew.agent("Solo", pre_hooks=[Slow()]).arun("Go.", run_id="the-run")
    assert output.status is RunStatus.cancelled
    assert [(work.kind, work.name) for work in output.interrupted] == [("hook", "Slow")]


async def test_hooks_events_name_the_guardrail(crew: Crew) -> None:
    agent = crew.agent("Solo", Text("Hello."), pre_hooks=[NoSecrets("xyzzy"), lambda: None])
    named = [
        getattr(event, "hook_name", None)
        async for event in agent.arun("Go.", stream=True, stream_events=True)
        if "HookStarted" in event.event
    ]
    assert named == ["NoSecrets", "<lambda>"]


def test_a_guardrail_without_a_check_is_refused_where_it_is_made() -> None:
    class Idle(BaseGuardrail):
        pass

    with pytest.raises(ConfigurationError, match="Idle is no guardrail yet: write its check"):
        Idle()


async def test_a_guardrail_can_be_asked_by_hand() -> None:
    guardrail = NoSecrets("xyzzy")
    with pytest.raises(InputCheckError):
        await guardrail.async_check(RunInput(input_content="xyzzy"))
    with pytest.raises(NotImplementedError, match="async_check only"):
        type("Later", (BaseGuardrail,), {"async_check": Polite.async_check})().check("x")
