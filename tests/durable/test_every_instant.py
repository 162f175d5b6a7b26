"""Whatever the instant of a cancel: what is stored is what was seen, the next turn is valid, and the run can go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from kern_async import Agent, RunContext, RunStatus, Team
from kern_async.db.database import BaseDb
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.base import BaseOutput
from kern_async.run.team import TeamRunOutput
from kern_async.testing import ProviderServer, Text

from ..engine.invariants import ENDS, check_log, check_messages
from .whole import WholeModel, delegation, member, whole_of

POINTS = 130
"""About as many instants as the run has."""

_numbers = count()


class Instants:
    """Counts the steps of a run, and lets a canceller go at one of them."""

    def __init__(self, at: int = -1) -> None:
        self._left = at
        self.come = anyio.Event()

    def passed(self) -> None:
        if self._left == 0:
            self.come.set()
        self._left -= 1

    async def pace(self) -> None:
        self.passed()
        await anyio.lowlevel.checkpoint()


def a_team(db: BaseDb, pace: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint) -> Team:
    """Three members in parallel, one of them a team, each of the agents with tools and two turns."""

    async def look_up(word: str) -> str:
        await pace()
        await pace()
        return f"{word}: found"

    async def note(word: str, context: RunContext) -> str:
        context.session_state[word] = True
        context.report(f"noting {word}")
        await pace()
        return "noted"

    def size(word: str) -> int:
        return len(word)

    inner = Team(
        name="inner",
        members=[member("deep", pace, look_up)],
        model=WholeModel("inner", [("In here. ", delegation("deep")), ("That is in.", ())], pace=pace),
        store_events=True,
    )
    return Team(
        name="outer",
        members=[member("one", pace, look_up, note), member("two", pace, size), inner],
        model=WholeModel(
            "outer", [("I ask. ", delegation("one", "two", "inner")), ("All are done.", ())], pace=pace
        ),
        db=db,
        store_events=True,
    )


def everybody(who: Any) -> Iterator[Any]:
    yield who
    for below in who.members if isinstance(who, Team) else ():
        yield from everybody(below)


def tree(output: BaseOutput) -> Iterator[Any]:
    yield output
    for below in output.member_responses if isinstance(output, TeamRunOutput) else ():
        yield from tree(below)


async def cancelled_at(
    team: Team, instants: Instants, further: int, session_id: str
) -> tuple[list[Any], Any]:
    """The events of a run that is cancelled so many steps after an instant, and its output."""
    events: list[Any] = []
    async with anyio.create_task_group() as group:
        stream = team.arun("Go.", stream=True, stream_events=True, session_id=session_id)

        async def cancel() -> None:
            await instants.come.wait()
            for _ in range(further):
                await anyio.lowlevel.checkpoint()
            stream.cancel()

        group.start_soon(cancel)
        async for event in stream:
            events.append(event)
            instants.passed()
        instants.come.set()
    return events, stream.output


async def check_stored(db: BaseDb, output: Any, events: list[Any]) -> None:
    """A process that has nothing but the database sees what the consumer saw."""
    reader = Agent(model=WholeModel("reader"), db=db)
    stored = await reader.aget_run_output(output.run_id)
    assert stored is not None
    assert stored.to_dict() == output.to_dict()
    session = await reader.aget_session(output.session_id)
    assert session is not None
    assert [run.to_dict() for run in session.runs if run.parent_run_id is None] == [output.to_dict()]
    ends = {event.run_id: event for event in events if event.event in ENDS}
    assert {run.run_id for run in session.runs} == ends.keys()
    for run in session.runs:
        end = ends[run.run_id]
        assert (run.status, run.content, run.event) == (end.status, end.content, end.event)
        assert (end.stored, end.store_error) == (True, None)
        assert [e.to_dict() for e in run.events or ()] == [
            e.to_dict() for e in events if e.run_id == run.run_id
        ]
        check_messages(run.messages)
        if run.content:
            assert run.metrics.total_tokens > 0
            assert run.metrics.model_requests > 0


async def check_next_turn(db: BaseDb, provider: ProviderServer, protocol: Any, output: Any) -> None:
    """A provider that refuses what is not whole accepts the history, and the partial answer is in it."""
    model = protocol(id="next", api_key="key", base_url=provider.base_url, max_retries=0)
    team = Team(name="outer", members=[Agent(model=model)], model=model, db=db, add_history_to_context=True)
    asked = f"{output.session_id} {protocol.__name__}?"
    following = await team.arun(asked, session_id=output.session_id)
    assert following.status is RunStatus.completed, following.error
    (request,) = (each for each in provider.requests if asked in str(each.input[-1]))
    given = "".join(
        part if isinstance(part, str) else part["text"]
        for item in request.input
        if item.get("role") == "assistant" and item.get("content")
        for part in ([item["content"]] if isinstance(item["content"], str) else item["content"])
    )
    assert given.startswith(output.content or "")
    assert "Go." in request.text


async def check_goes_on(db: BaseDb, output: Any) -> None:
    """Continued, everybody who has begun says the whole of what there was to say, once."""
    team = a_team(db)
    done = await team.acontinue_run(run_id=output.run_id)
    assert (done.status, done.stored, done.store_error) == (RunStatus.completed, True, None), done.error
    wholes = {who.name: whole_of(who) for who in everybody(team)}
    for run in tree(done):
        assert run.status is RunStatus.completed
        assert run.content == wholes[getattr(run, "agent_name", None) or run.team_name]
        check_messages(run.messages)
    assert {run.run_id for run in tree(done)} >= {run.run_id for run in tree(output)}
    stored = await team.aget_run_output(output.run_id)
    assert stored is not None
    assert stored.to_dict() == done.to_dict()


@settings(max_examples=3)
@given(instants=st.lists(st.tuples(st.integers(0, POINTS), st.integers(0, 25)), min_size=12, max_size=12))
async def test_a_cancel_at_any_instant_is_stored_as_it_was_seen_and_can_be_gone_on_from(
    instants: list[tuple[int, int]], db: BaseDb, provider: ProviderServer
) -> None:
    """Twelve runs at a time, each with an instant of its own: a hundred for each of the stores, on three loops."""
    provider.default = Text("Now this.")

    async def check(at: int, further: int) -> None:
        until = Instants(at)
        events, output = await cancelled_at(a_team(db, until.pace), until, further, f"s{next(_numbers)}")
        check_log(events)
        assert output.status in (RunStatus.cancelled, RunStatus.completed)
        await check_stored(db, output, events)
        await check_next_turn(db, provider, (OpenAIResponses, OpenAIChat)[(at + further) % 2], output)
        if output.status is RunStatus.cancelled:
            await check_goes_on(db, output)

    async with anyio.create_task_group() as group:
        for at, further in instants:
            group.start_soon(check, at, further)
