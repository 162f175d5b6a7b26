"""The turn of a run that was cancelled at any instant is a turn like any other."""

from __future__ import annotations

from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async.engine.history import turns_of
from kern_async.run.base import BaseOutput
from kern_async.run.team import TeamRunOutput

from ..engine.test_every_instant import a_team, after
from .conversations import check_whole, refusals


@settings(max_examples=60)
@given(steps=st.integers(0, 140))
async def test_a_run_cancelled_at_any_step_leaves_a_turn_that_providers_take(steps: int) -> None:
    stream: Any = a_team().arun("go", stream=True)

    async def cancel() -> None:
        await after(steps)
        stream.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        async for _ in stream:
            pass
    output: TeamRunOutput = stream.output
    stored: list[BaseOutput] = [output, TeamRunOutput.from_dict(output.to_dict()), *output.member_responses]
    for each in stored:
        (turn,) = turns_of([each])
        check_whole(turn)
        assert refusals(turn) == []
        assert turn[0].role == "user"
        texts = "".join(message.content or "" for message in turn if message.role == "assistant")
        assert texts.startswith(each.content or ""), "what it has said is in its turn"
    assert turns_of([stored[0]]) == turns_of([stored[1]])
