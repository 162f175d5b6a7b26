"""The answer of a graceful cancel is true, however it races with the run's end (P3)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio.lowlevel
import pytest

from kern_async import Agent, RunStatus, cancel_run
from kern_async.testing.scripted import ScriptedModel, call

from ..engine.invariants import check_messages
from .racing import Racer, racing

RACES = 400


async def look() -> str:
    await anyio.lowlevel.checkpoint()
    return "nothing there"


def agent_of(racer: Racer[Any]) -> Agent:
    """Its model gives two answers; the race begins with the second."""

    async def start(_request: object) -> None:
        racer.go()

    turns: list[Any] = [[call("look")], [start, *(f"{n} " for n in range(12))]]
    return Agent(name="racer", model=ScriptedModel("racer", turns, repeat=True), tools=[look])


@pytest.mark.parametrize("mode", ["after_tools", "after_turn"])
async def test_graceful_cancels_that_race_the_end_are_answered_truly(mode: Any) -> None:
    seen: Counter[tuple[bool, RunStatus]] = Counter()
    whole = "".join(f"{n} " for n in range(12))
    with racing(lambda run_id: cancel_run(run_id, mode=mode, reason="race")) as racer:
        agent = agent_of(racer)
        for number in range(RACES):
            racer.aim(f"race-{number}")
            output = await agent.arun("go", run_id=f"race-{number}")
            answer = await racer.answer(late=output.status is RunStatus.completed)
            seen[answer, output.status] += 1
            assert answer == (output.status is RunStatus.cancelled), f"{number}: {answer}, {output.status}"
            assert output.cancelled_by == ("request" if answer else None)
            check_messages(output.messages)
            if mode == "after_turn":
                assert output.content == whole
                assert output.interrupted == []
            assert whole.startswith(output.content or "")
            assert not cancel_run(f"race-{number}", mode=mode)
    # Without both ends the races would have proved nothing.
    assert seen[True, RunStatus.cancelled] > RACES / 50, seen
    assert seen[False, RunStatus.completed] > RACES / 50, seen


async def test_cancels_of_all_modes_that_race_each_other_agree() -> None:
    def three(run_id: str) -> list[bool]:
        return [cancel_run(run_id, mode=mode) for mode in ("after_turn", "after_tools", "now")]

    seen: Counter[tuple[bool, ...]] = Counter()
    with racing(three) as racer:
        agent = agent_of(racer)
        for number in range(RACES):
            racer.aim(f"race-{number}")
            async with agent.arun("go", stream=True, run_id=f"race-{number}") as events:
                names = [event.event async for event in events]
            assert events.output is not None
            status = events.output.status
            answers = await racer.answer(late=status is RunStatus.completed)
            seen[tuple(answers)] += 1
            # A run that has ended in between is no longer cancelled: True may turn to False, never back.
            assert answers == sorted(answers, reverse=True)
            assert answers[0] == (status is RunStatus.cancelled)
            assert names.count("RunCancelled") + names.count("RunCompleted") == 1
            check_messages(events.output.messages)
    assert len(seen) > 1, seen
