"""What the database has of a run that is over is what its caller was given."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from kern_async import Agent, RunStatus, Team, tool
from kern_async.db.database import BaseDb
from kern_async.engine import registry
from kern_async.exceptions import ConfigurationError, InputCheckError
from kern_async.run.base import BaseOutput
from kern_async.run.limits import RunLimits
from kern_async.run.media import Image
from kern_async.run.message import Message
from kern_async.testing.scripted import call

from .parts import (
    agent,
    cancel_at,
    cancel_when_all_said,
    check_stored_as_seen,
    delegate,
    forever,
    model,
    new_process,
    read,
    tree,
    until,
)


def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


class Answer(BaseModel):
    words: list[str]
    sure: bool = True


async def test_a_completed_run(db: BaseDb) -> None:
    solo = agent("Solo", ["I look. ", call("double", x=4)], "Eight.", db=db, tools=[double])
    output = await solo.arun(
        Message(role="user", content="Twice four?"),
        session_state={"seen": [1, 2]},
        metadata={"ticket": 7},
        user_id="ada",
    )
    assert output.status is RunStatus.completed
    await check_stored_as_seen(solo, output)


@pytest.mark.parametrize("given", ["Go.", {"topic": "rain", "n": 2}, [Message(role="user", content="Go.")]])
async def test_a_run_of_any_input(db: BaseDb, given: Any) -> None:
    solo = agent("Solo", "Done.", db=db)
    await check_stored_as_seen(solo, await solo.arun(given))


async def test_a_run_that_is_given_bytes(db: BaseDb) -> None:
    every_byte = bytes(range(256))  # in base64 with the characters in which its alphabets differ
    given = Message(role="user", content="Look.", images=(Image(content=every_byte, mime_type="image/png"),))
    scripted = model("Seen.", "As before.")
    solo = Agent(name="Solo", model=scripted, db=db, add_history_to_context=True)
    await check_stored_as_seen(solo, await solo.arun(given, session_id="s"))
    await solo.arun("And now?", session_id="s")
    told = [message.images for message in scripted.requests[1].messages if message.content == "Look."]
    assert told == [given.images]


class Topic(BaseModel):
    name: str
    depth: int


async def test_a_run_of_an_object(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db)
    output = await solo.arun(Topic(name="rain", depth=3))
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert got.to_dict() == output.to_dict()


@pytest.mark.parametrize("schema", [Answer, {"type": "object", "properties": {"words": {"type": "array"}}}])
async def test_a_run_whose_content_is_an_object(db: BaseDb, schema: Any) -> None:
    solo = agent("Solo", '{"words": ["a", "b"]}', db=db, output_schema=schema)
    output = await solo.arun("Go.")
    assert output.status is RunStatus.completed
    await check_stored_as_seen(solo, output)


async def test_a_run_whose_answer_does_not_fit_its_schema(db: BaseDb) -> None:
    solo = agent("Solo", "No JSON.", db=db, output_schema=Answer)
    output = await solo.arun("Go.")
    assert (output.status, output.error_type) == (RunStatus.error, "OutputSchemaError")
    await check_stored_as_seen(solo, output)


def refuse(run_input: Any) -> None:
    raise InputCheckError("not about rain", additional_data={"topic": "rain"})


@pytest.mark.parametrize("how", ["model", "hook", "tool"])
async def test_a_failed_run(db: BaseDb, how: str) -> None:
    options: dict[str, Any] = {
        "model": {"model": model(["I am ab", ValueError("broken")])},
        "hook": {"pre_hooks": [refuse]},
        "tool": {
            "model": model([call("double", x="four"), call("nothing")], [ValueError("broken")]),
            "tools": [double],
        },
    }[how]
    options = {"model": model("Done."), **options}
    solo = Agent(name="Solo", db=db, **options)
    output = await solo.arun("Go.")
    assert output.status is RunStatus.error
    await check_stored_as_seen(solo, output)


# Cancelled, in each way.


async def by_request(solo: Agent) -> BaseOutput:
    return (await read(solo, on=cancel_at("The lo", reason="enough")))[1]


async def by_deadline(solo: Agent) -> BaseOutput:
    return await solo.arun("Go.", timeout=0.05)


async def by_limit(solo: Agent) -> BaseOutput:
    solo.tools, solo._functions = [double], None
    solo.model = model(["I look. ", call("double", x=4)], "Never.")
    return await solo.arun("Go.", limits=RunLimits(model_requests=1))


async def by_consumer(solo: Agent) -> BaseOutput:
    stream = solo.arun("Go.", stream=True)
    async with stream:
        async for event in stream:
            if event.content == "The lo":
                break
    assert stream.output is not None
    return stream.output


async def by_caller(solo: Agent) -> BaseOutput:
    stream = solo.arun("Go.", stream=True)
    with anyio.CancelScope() as scope:
        async with stream:
            async for event in stream:
                if event.content == "The lo":
                    scope.cancel()
    assert stream.output is not None
    return stream.output


@pytest.mark.parametrize("way", [by_request, by_deadline, by_limit, by_consumer, by_caller])
async def test_a_cancelled_run(db: BaseDb, way: Any) -> None:
    solo = agent("Solo", ["The lo", forever], db=db)
    output = await way(solo)
    assert (output.status, output.cancelled_by) == (RunStatus.cancelled, way.__name__[3:])
    await check_stored_as_seen(solo, output)


async def test_a_run_whose_awaiting_task_is_cancelled(db: BaseDb) -> None:
    scope = anyio.CancelScope()

    async def cut(_: Any) -> None:
        scope.cancel()
        await anyio.sleep_forever()

    solo = agent("Solo", ["The lo", cut], db=db)
    with scope:
        await solo.arun("Go.", run_id="r", session_id="s")
    assert scope.cancelled_caught
    output = await solo.aget_run_output("r")
    assert output is not None
    assert (output.status, output.cancelled_by, output.content) == (RunStatus.cancelled, "caller", "The lo")


async def test_a_member_s_end_by_its_team_s(db: BaseDb) -> None:
    team = Team(
        [agent("One", "First."), agent("Two", ["Second", forever])],
        name="T",
        model=model(["I ask. ", delegate("one"), delegate("two")]),
        db=db,
    )
    _, output = await read(team, on=cancel_when_all_said("First.", "Second"))
    members = {each.content: each for each in tree(output)}
    assert (members["Second"].status, members["Second"].cancelled_by) == (RunStatus.cancelled, "parent")
    await check_stored_as_seen(team, output)


async def test_a_member_that_is_cancelled_alone(db: BaseDb) -> None:
    team = Team(
        [agent("One", ["Fir", forever])], name="T", model=model(delegate("one"), "Without it, then."), db=db
    )

    def on(event: Any, _: Any) -> None:
        if event.event == "RunContent":
            assert team.cancel_run(event.run_id, reason="not this one")

    _, output = await read(team, on=on)
    assert (output.status, output.content) == (RunStatus.completed, "Without it, then.")
    (member,) = output.member_responses
    assert (member.status, member.reason) == (RunStatus.cancelled, "not this one")
    await check_stored_as_seen(team, output)


async def test_a_created_stream_that_is_cancelled(db: BaseDb) -> None:
    solo = agent("Solo", "Never.", db=db, store_events=True)
    stream = solo.arun("Go.", stream=True, run_id="r", session_id="s")
    assert solo.cancel_run("r")
    events = [event async for event in stream]
    assert [event.event for event in events] == ["RunStarted", "RunCancelled"]
    await until(lambda: solo.get_run_output("r"))
    output = await solo.aget_run_output("r")
    assert output is not None
    assert (output.status, output.cancellation_stage) == (RunStatus.cancelled, "PENDING")
    again = [event async for event in solo.run_events("r")]
    assert [event.event for event in again] == ["RunStarted", "RunCancelled"]


def by_thread(solo: Agent) -> BaseOutput:
    return solo.run("Go.")


def test_a_run_of_a_thread_and_one_inside_a_running_loop(db: BaseDb) -> None:
    solo = agent("Solo", "Done.", db=db, session_id="s")
    solo.model = model("Done.", repeat=True)
    outputs: list[BaseOutput] = []
    thread = threading.Thread(target=lambda: outputs.append(by_thread(solo)))
    thread.start()
    thread.join()

    async def inside() -> None:
        outputs.append(by_thread(solo))

    anyio.run(inside)
    for output in outputs:
        assert output.stored
        got = solo.get_run_output(output.run_id)
        assert got is not None
        assert got.to_dict() == output.to_dict()
    session = solo.get_session()
    assert session is not None
    assert [run.to_dict() for run in session.runs] == [output.to_dict() for output in outputs]


# Paused.


async def test_a_paused_run(db: BaseDb) -> None:
    solo = agent("Solo", ["I pay. ", call("double", x=1), call("pay", amount=3)], db=db, tools=[double, pay])
    output = await solo.arun("Go.")
    assert output.is_paused
    await check_stored_as_seen(solo, output)
    new_process()
    await check_stored_as_seen(solo, output)


async def test_a_paused_team(db: BaseDb) -> None:
    inner = Team(
        [agent("Payer", ["I pay. ", call("pay", amount=3)], tools=[pay]), agent("Other", "Other.")],
        name="Inner",
        model=model([delegate("payer"), delegate("other")]),
    )
    team = Team([inner], name="T", model=model(delegate("inner")), db=db)
    output = await team.arun("Go.")
    assert output.is_paused
    assert len(tree(output)) == 4
    await check_stored_as_seen(team, output)
    new_process()
    await check_stored_as_seen(team, output)


# Teams.


def team_of(mode: str, db: BaseDb, *, last: str = "Second one.") -> Team:
    first = agent("One", [call("double", x=2)], "First.", tools=[double])
    second = agent("Two", [last, forever] if last != "Second one." else last)
    leads: dict[str, list[Any]] = {
        "coordinate": [["I ask. ", delegate("one"), delegate("two")], "All."],
        "route": [["I ask. ", delegate("two")]],
        "broadcast": ["All."],
        "tasks": [
            [call("create_task", title="A", assignee="one"), call("create_task", title="B", assignee="two")],
            [call("execute_tasks_parallel", task_ids=["1", "2"])],
            [call("mark_all_complete", summary="ok")],
            "All.",
        ],
    }
    return Team([first, second], name="T", mode=mode, model=model(*leads[mode]), db=db, store_events=True)


MODES = ["coordinate", "route", "broadcast", "tasks"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_team_of_each_mode(db: BaseDb, mode: str) -> None:
    team = team_of(mode, db)
    output = await team.arun("Go.", session_state={"n": 1})
    assert output.status is RunStatus.completed, output.error
    assert len(tree(output)) == (2 if mode == "route" else 3)
    await check_stored_as_seen(team, output)


@pytest.mark.parametrize("mode", MODES)
async def test_a_cut_team_of_each_mode(db: BaseDb, mode: str) -> None:
    team = team_of(mode, db, last="Second")
    texts = ["Second"] if mode == "route" else ["First.", "Second"]
    _, output = await read(team, on=cancel_when_all_said(*texts))
    assert output.status is RunStatus.cancelled
    assert sorted(str(each.content) for each in tree(output)[1:]) == texts
    await check_stored_as_seen(team, output)


async def test_a_nested_team_with_events(db: BaseDb) -> None:
    deep = Team([agent("One", "First.")], name="Deep", model=model(delegate("one"), "Deep says."))
    middle = Team(
        [deep, agent("Two", "Second one.")], name="Middle", model=model(delegate("deep"), "Middle says.")
    )
    top = Team([middle], name="Top", model=model(delegate("middle"), "Top says."), db=db, store_events=True)
    output = await top.arun("Go.")
    assert [each.content for each in tree(output)] == ["Top says.", "Middle says.", "Deep says.", "First."]
    await check_stored_as_seen(top, output)


async def test_a_session_names_who_began_it_and_counts_its_root_runs(db: BaseDb) -> None:
    team = team_of("coordinate", db)
    await team.arun("Go.", session_id="s", user_id="ada")
    session = await team.aget_session("s")
    assert session is not None
    assert (session.team_id, session.agent_id, session.user_id) == ("t", None, "ada")
    assert len(session.runs) == 3
    (summary,) = await team.alist_sessions()
    assert (summary.session_id, summary.run_count) == ("s", 1)


async def test_what_a_member_s_own_database_is_for_its_team_s_run(db: BaseDb) -> None:
    """SPEC: one tree, one database: the team's."""
    from kern_async.db.in_memory import InMemoryDb

    own = InMemoryDb()
    team = Team([agent("One", "First.", db=own)], name="T", model=model(delegate("one"), "All."), db=db)
    output = await team.arun("Go.")
    await check_stored_as_seen(team, output)
    assert await Agent(name="One", db=own).aget_session(output.session_id) is None
    await own.aclose()


async def test_a_live_run_is_running_with_what_it_has_so_far(db: BaseDb) -> None:
    solo = agent("Solo", ["I look. ", call("double", x=4)], ["The lo", forever], db=db, tools=[double])
    looked: list[Any] = []

    def on(event: Any, stream: Any) -> None:
        if event.content == "The lo":
            looked.append(stream.run_id)

    stream = solo.arun("Go.", stream=True, session_id="s")
    async with stream:
        async for event in stream:
            on(event, stream)
            if looked:
                break
        got = await solo.aget_run_output(stream.run_id)
        assert got is not None
        assert (got.status, got.content) == (RunStatus.running, "I look. The lo")
        assert [t.result for t in got.tools] == ["8"]
        session = await solo.aget_session("s")
        assert session is not None
        assert [run.status for run in session.runs] == [RunStatus.running]
    assert not registry.live_runs()


@pytest.mark.parametrize("name", ["run_id", "session_id", "user_id"])
@pytest.mark.parametrize("given", ["a\0b", "a\ud800b"])
async def test_an_id_that_no_database_keeps_is_refused_at_the_call(db: BaseDb, name: str, given: str) -> None:
    solo = agent("Solo", "Done.", db=db)
    options: Any = {name: given}
    with pytest.raises(ConfigurationError, match=f"{name} is 'a.*surrogate"):
        solo.arun("Go.", **options)
    assert await solo.alist_sessions() == []
