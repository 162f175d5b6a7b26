"""The state of a session: what runs find in it, and what they leave there."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from kern_async import Agent, RunContext, RunStatus, Team
from kern_async.db.database import BaseDb
from kern_async.exceptions import ConfigurationError
from kern_async.testing.scripted import call

from .parts import agent, delegate, forever, model, read


async def stored(who: Any, session_id: str = "s") -> dict[str, Any]:
    session = await who.aget_session(session_id)
    assert session is not None
    state: dict[str, Any] = session.session_state
    return state


def put(run_context: RunContext, key: str, value: Any) -> str:
    """Set a key."""
    run_context.session_state[key] = value
    return "ok"


def drop(run_context: RunContext, key: str) -> str:
    """Remove a key."""
    run_context.session_state.pop(key, None)
    return "ok"


def solo_of(db: BaseDb, *turns: Any, **options: Any) -> Agent:
    return agent("Solo", *turns, db=db, tools=[put, drop], **options)


async def test_defaults_give_way_to_what_is_stored_and_that_to_what_is_given(db: BaseDb) -> None:
    solo = solo_of(db, [call("put", key="b", value="stored"), call("put", key="c", value="stored")], "Ok.", "Ok.",
                   session_state={"a": "default", "b": "default", "c": "default"})  # fmt: skip
    await solo.arun("Go.", session_id="s")
    output = await solo.arun("Go.", session_id="s", session_state={"c": "given"})
    assert output.session_state == {"a": "default", "b": "stored", "c": "given"}
    assert await stored(solo) == {"a": "default", "b": "stored", "c": "given"}
    assert solo.session_state == {"a": "default", "b": "default", "c": "default"}


async def test_a_run_writes_back_only_the_keys_that_it_changed(db: BaseDb) -> None:
    """Of two at once each leaves the other's keys alone."""
    inside, go_on = anyio.Event(), anyio.Event()

    async def wait(_: Any) -> None:
        inside.set()
        await go_on.wait()

    await solo_of(db, "Ok.").arun("Go.", session_id="s", session_state={"x": 0, "y": 0, "z": 0})
    slow = solo_of(db, [call("put", key="x", value=1)], [wait, "Ok."])
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: slow.arun("Go.", session_id="s"))
        await inside.wait()
        await solo_of(db, [call("put", key="y", value=2), call("drop", key="z")], "Ok.").arun(
            "Go.", session_id="s"
        )
        go_on.set()
    assert await stored(slow) == {"x": 1, "y": 2}


async def test_the_last_commit_of_a_key_wins(db: BaseDb) -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    async def wait(_: Any) -> None:
        inside.set()
        await go_on.wait()

    slow = solo_of(db, [call("put", key="x", value="slow")], [wait, "Ok."])
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: slow.arun("Go.", session_id="s"))
        await inside.wait()
        await solo_of(db, [call("put", key="x", value="quick")], "Ok.").arun("Go.", session_id="s")
        go_on.set()
    assert await stored(slow) == {"x": "slow"}


async def test_a_cancelled_run_writes_its_keys_back_too(db: BaseDb) -> None:
    solo = solo_of(db, [call("put", key="x", value=[1, {"y": 2}])], ["The lo", forever])

    def on(event: Any, stream: Any) -> None:
        if event.event == "RunContent":
            stream.cancel()

    await read(solo, on=on, session_id="s", session_state={"n": 1})
    assert await stored(solo) == {"n": 1, "x": [1, {"y": 2}]}


async def test_a_failed_run_writes_its_keys_back_too(db: BaseDb) -> None:
    solo = solo_of(db, [call("put", key="x", value=1)], [ValueError("broken")])
    await solo.arun("Go.", session_id="s")
    assert await stored(solo) == {"x": 1}


async def test_a_change_inside_a_value_is_one(db: BaseDb) -> None:
    def add(run_context: RunContext, what: str) -> str:
        """Add."""
        run_context.session_state["list"].append(what)
        return "ok"

    solo = agent("Solo", db=db, tools=[add], session_state={"list": []})
    solo.model = model([call("add", what="a")], "Ok.", [call("add", what="b")], "Ok.")
    for _ in range(2):
        await solo.arun("Go.", session_id="s")
    assert await stored(solo) == {"list": ["a", "b"]}
    assert solo.session_state == {"list": []}


async def test_members_changes_are_the_team_s(db: BaseDb) -> None:
    one = agent("One", [call("put", key="x", value=1), call("drop", key="n")], "Ok.", tools=[put, drop])
    team = Team([one], name="T", model=model(delegate("one"), "All."), db=db)
    await team.arun("Go.", session_id="s", session_state={"n": 1, "m": 2})
    assert await stored(team) == {"m": 2, "x": 1}


async def test_a_continued_run_writes_its_changes_over_what_came_meanwhile_only_where_it_made_any(
    db: BaseDb,
) -> None:
    solo = solo_of(db, [call("put", key="x", value=1)], ["The lo", forever], "Ok.",
                   [call("put", key="y", value=1)], "ng.")  # fmt: skip

    def on(event: Any, stream: Any) -> None:
        if event.event == "RunContent":
            stream.cancel()

    _, output = await read(solo, on=on, session_id="s")
    await solo_of(db, [call("put", key="x", value=5), call("put", key="z", value=6)], "Ok.").arun(
        "Go.", session_id="s"
    )
    solo.model = model([call("put", key="y", value=1)], "ng.")
    again = await solo.acontinue_run(run_id=output.run_id)
    assert again.status is RunStatus.completed
    assert await stored(solo) == {"x": 5, "y": 1, "z": 6}


class Odd:
    pass


@pytest.mark.parametrize(
    "value", [Odd(), {1, object()}, lambda: None, float], ids=["object", "set", "function", "class"]
)
async def test_a_value_that_is_no_json_is_refused_at_the_call(db: BaseDb, value: Any) -> None:
    solo: Any = solo_of(db, "Never.")
    given: dict[str, Any]
    options: dict[str, Any]
    for given in ({"session_state": {"fine": 1, "odd": value}}, {"metadata": {"odd": value}}):
        for options in ({}, {"stream": True}, {"background": True}):
            with pytest.raises(ConfigurationError, match="'odd'"):
                solo.arun("Go.", **given, **options)
        with pytest.raises(ConfigurationError, match="'odd'"):
            solo.run("Go.", **given)
    solo.session_state = {"odd": value}
    with pytest.raises(ConfigurationError, match="'odd'"):
        solo.arun("Go.")
    assert await solo.alist_sessions() == []


async def test_a_value_that_is_no_json_is_refused_at_a_continuation(db: BaseDb) -> None:
    solo = solo_of(db, ["The lo", forever], "ng.")

    def on(event: Any, stream: Any) -> None:
        if event.event == "RunContent":
            stream.cancel()

    _, output = await read(solo, on=on)
    with pytest.raises(ConfigurationError, match="'odd'"):
        await solo.acontinue_run(run_id=output.run_id, session_state={"odd": Odd()})
    again = await solo.acontinue_run(run_id=output.run_id, session_state={"even": 2})
    assert again.session_state == {"even": 2}


async def test_a_value_that_is_no_json_and_comes_from_a_tool_is_named_and_the_rest_is_stored(
    db: BaseDb,
) -> None:
    def spoil(run_context: RunContext) -> str:
        """Spoil."""
        run_context.session_state |= {"odd": Odd(), "fine": 1}
        return "ok"

    solo = agent("Solo", [call("spoil")], "Ok.", "Ok.", db=db, tools=[spoil])
    events, output = await read(solo, session_id="s", session_state={"odd": "before"})
    assert output.status is RunStatus.completed
    assert output.stored is True
    assert "session_state['odd']" in output.store_error
    assert events[-1].store_error == output.store_error
    state = await stored(solo)
    assert state["fine"] == 1
    assert state.get("odd") in (None, "before")
    got = await solo.aget_run_output(output.run_id)
    assert got is not None
    assert got.content == "Ok."
    assert (await solo.arun("Again.", session_id="s")).status is RunStatus.completed


async def test_a_task_list_is_one_run_s(db: BaseDb) -> None:
    team = Team(
        [agent("One", "First.", "Second one.")],
        name="T",
        mode="tasks",
        model=model(
            [call("create_task", title="Alpha", assignee="one")],
            [call("execute_task", task_id="1", member_id="one")],
            [call("mark_all_complete", summary="ok")],
            "All.",
            [call("create_task", title="B", assignee="one")],
            [call("execute_task", task_id="1", member_id="one")],
            [call("mark_all_complete", summary="ok")],
            "Again.",
        ),
        db=db,
    )
    first = await team.arun("Go.", session_id="s", session_state={"n": 1})
    assert [task["title"] for task in (first.session_state or {})["task_list"]] == ["Alpha"]
    second = await team.arun("More.", session_id="s")
    assert second.status is RunStatus.completed, second.error
    state = second.session_state or {}
    assert [task["title"] for task in state["task_list"]] == ["B"]
    assert state["n"] == 1
    assert "Alpha" not in str([message.content for message in second.messages])


async def test_an_agentic_state_lasts(db: BaseDb) -> None:
    solo = agent("Solo", [call("update_session_state", session_state_updates={"city": "Rome"})], "Ok.", "Rome.",
                 db=db, enable_agentic_state=True, add_session_state_to_context=True)  # fmt: skip
    await solo.arun("I live in Rome.", session_id="s")
    assert await stored(solo) == {"city": "Rome"}
    await solo.arun("Where?", session_id="s")
    assert isinstance(solo.model, object)
    assert "Rome" in str(solo.model.requests[-1].messages[0].content)  # type: ignore[union-attr] - a script
