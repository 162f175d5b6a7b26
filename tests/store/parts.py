"""What the stories share: models that hang, teams to cut, and a look into the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio

from kern_async import Agent, Team
from kern_async.db.database import BaseDb
from kern_async.engine import registry
from kern_async.models.base import ModelRequest
from kern_async.run.agent import RunOutput
from kern_async.run.base import BaseOutput
from kern_async.run.team import TeamRunOutput
from kern_async.testing.scripted import ScriptedModel, Step, call

TERMINAL = ("RunCompleted", "RunError", "RunCancelled")


async def forever(_: ModelRequest) -> None:
    """A step of a model that never ends."""
    await anyio.sleep_forever()


def model(*turns: Step | Sequence[Step], **options: Any) -> ScriptedModel:
    return ScriptedModel("m", list(turns), **options)


def agent(name: str = "Solo", *turns: Step | Sequence[Step], **options: Any) -> Agent:
    return Agent(name=name, model=model(*turns), **options)


def delegate(member_id: str, task: str = "Do it.") -> Any:
    return call("delegate_task_to_member", member_id=member_id, task=task)


def asked(who: Agent | Team) -> list[list[str | None]]:
    """What the model of it was sent, request by request, without system messages."""
    assert isinstance(who.model, ScriptedModel)
    return [[m.content for m in request.messages if m.role != "system"] for request in who.model.requests]


def new_process() -> None:
    """Forget all runs, as if the process had ended in good order and another had begun."""
    registry.forget_all()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - it may be another thread's doing
            await anyio.sleep(0.001)


async def read(
    who: Any, given: str = "Go.", *, on: Callable[[Any, Any], object] | None = None, **options: Any
) -> Any:
    """All events of a run, and its output; `on` is told of each event, with the stream."""
    options = {"stream_events": True, **options}
    stream = who.arun(given, stream=True, **options)
    return await read_stream(stream, on=on)


async def read_stream(stream: Any, *, on: Callable[[Any, Any], object] | None = None) -> Any:
    events: list[Any] = []
    async with stream:
        async for event in stream:
            events.append(event)
            if on is not None:
                on(event, stream)
    return events, stream.output


def cancel_at(text: str, **options: Any) -> Callable[[Any, Any], object]:
    """Cancels the stream when somebody has said the text."""

    def on(event: Any, stream: Any) -> None:
        if event.event.endswith("RunContent") and event.content == text:
            stream.cancel(**options)

    return on


def cancel_when_all_said(*texts: str) -> Callable[[Any, Any], object]:
    """Cancels the stream when all of these were said."""
    left = set(texts)

    def on(event: Any, stream: Any) -> None:
        if event.event.endswith("RunContent"):
            left.discard(event.content)
            if not left:
                stream.cancel()

    return on


def tree(output: BaseOutput) -> list[RunOutput | TeamRunOutput]:
    """An output and those of all members below it."""
    assert isinstance(output, (RunOutput, TeamRunOutput))
    members = output.member_responses if isinstance(output, TeamRunOutput) else []
    return [output, *(each for member in members for each in tree(member))]


async def check_stored_as_seen(who: Agent | Team, output: BaseOutput) -> None:
    """The run and all below it are stored just as the output says, each under its own id and in its session."""
    session = await who.aget_session(output.session_id)
    assert session is not None
    for each in tree(output):
        assert (each.stored, each.store_error) == (True, None)
        got = await who.aget_run_output(each.run_id)
        assert got is not None
        assert got.to_dict() == each.to_dict()
        listed = session.get_run(each.run_id)
        assert listed is not None
        assert listed.to_dict() == each.to_dict()


def rows(db: BaseDb) -> list[Any]:
    """Every run that the database has, read in the calling thread."""
    from kern_async.db.base import FindRuns, FindSessions

    sessions = db.writer.ask(FindSessions())
    assert sessions.wait_in_thread(5)
    found: list[Any] = []
    for session in sessions.result:
        runs = db.writer.ask(FindRuns(session_id=session.seed.session_id))
        assert runs.wait_in_thread(5)
        found += runs.result
    return found
