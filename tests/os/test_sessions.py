"""Sessions over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kern_async import Agent, RunStatus, Team, tool
from kern_async.db.base import CountSessions, FindOpenings, FindSessions
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.os import AgentOS
from kern_async.os.caller import Caller
from kern_async.testing.scripted import ScriptedModel, call

from ..db.stores import Script, ScriptedDb
from .visitors import get, visit

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

ANN = Caller(user_id="ann", isolated=True)


@pytest.fixture(params=["in_memory", "sqlite"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[BaseDb]:
    db = InMemoryDb() if request.param == "in_memory" else SqliteDb(tmp_path / "kern.db")
    yield db
    await db.aclose()


def agent(name: str = "Clerk", *said: Any, **options: Any) -> Agent:
    return Agent(name=name, model=ScriptedModel(name, list(said or ["Yes."] * 30)), **options)


def an_os(db: BaseDb | None, *said: Any, **options: Any) -> AgentOS:
    clerk = agent("Clerk", *said, **options)
    leader = ScriptedModel(
        "leader", [call("delegate_task_to_member", member_id="poet", task="A poem."), "Done."]
    )
    return AgentOS(agents=[clerk], teams=[Team([agent("Poet", "A poem.")], name="Crew", model=leader)], db=db)


async def make(client: httpx2.AsyncClient, session_id: str, **fields: Any) -> Any:
    kind = "team" if "team_id" in fields else "agent"
    answer = await client.post("/sessions", params={"type": kind}, json={"session_id": session_id, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def ids(client: httpx2.AsyncClient, **params: Any) -> list[str]:
    return [each["session_id"] for each in (await get(client, "/sessions", **params))["data"]]


# Lists.


async def test_pages_have_every_session_once_the_newest_first(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        for number in range(7):
            await make(client, f"s{number}")
        pages = [await get(client, "/sessions", limit=3, page=page) for page in (1, 2, 3, 4)]
        assert [[each["session_id"] for each in page["data"]] for page in pages] == [
            ["s6", "s5", "s4"],
            ["s3", "s2", "s1"],
            ["s0"],
            [],
        ]
        for number, page in enumerate(pages, 1):
            meta = page["meta"]
            assert meta.pop("search_time_ms") >= 0
            assert meta == {"page": number, "limit": 3, "total_pages": 3, "total_count": 7}
        assert await ids(client, limit=2, sort_order="asc") == ["s0", "s1"]
        await client.post("/sessions/s3/rename", json={"session_name": "x"})
        assert (await ids(client, sort_by="updated_at"))[0] == "s3"
        assert (await ids(client, sort_by="updated_at", sort_order="asc"))[-1] == "s3"
        assert (await ids(client))[0] == "s6"
        assert (await get(client, "/sessions", page=0))["meta"]["page"] == 1


async def test_sessions_are_found_by_what_is_asked_for(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        await make(client, "1", agent_id="clerk", user_id="ann", session_name="A hat")
        await make(client, "2", agent_id="other", user_id="bob")
        await make(client, "3", team_id="crew", user_id="ann", session_name="Two HATS")
        assert await ids(client) == ["3", "2", "1"]
        assert await ids(client, type="agent") == ["2", "1"]
        assert await ids(client, type="team") == ["3"]
        assert await ids(client, type="workflow") == []
        assert await ids(client, component_id="clerk") == ["1"]
        assert await ids(client, user_id="ann") == ["3", "1"]
        assert await ids(client, session_name="hat") == ["3", "1"]
        page = await get(client, "/sessions", user_id="ann", type="agent")
        assert page["meta"]["total_count"] == 1


async def test_a_page_reads_no_more_than_it_shows() -> None:
    script = Script()
    reads: list[Any] = []

    async def note(read: Any) -> None:
        reads.append(read)

    agent_os = an_os(ScriptedDb(script))
    async with visit(agent_os) as client:
        for number in range(5):
            await make(client, f"s{number}")
        script.on_read = note
        page = await get(client, "/sessions", limit=2)
    assert page["meta"]["total_count"] == 5
    assert [type(read) for read in reads] == [CountSessions, FindSessions, FindOpenings]
    assert reads[1].limit == 2
    assert reads[2].session_ids == ["s4", "s3"]
    assert agent_os.db is not None
    await agent_os.db.aclose()


async def test_a_session_without_a_name_is_called_by_what_it_began_with(db: BaseDb) -> None:
    agent_os = an_os(db)
    await agent_os.agents["clerk"].arun("A hat, please.", session_id="s")
    await agent_os.agents["clerk"].arun("How much?", session_id="s")
    async with visit(agent_os) as client:
        await make(client, "empty")
        await make(client, "named", session_name="Coats")
        names = {
            each["session_id"]: each["session_name"] for each in (await get(client, "/sessions"))["data"]
        }
        assert names == {"s": "A hat, please.", "empty": "", "named": "Coats"}
        for session_id, name in names.items():
            assert (await get(client, f"/sessions/{session_id}"))["session_name"] == name


# Making and changing.


async def test_a_session_is_made_before_its_first_run(db: BaseDb) -> None:
    agent_os = an_os(db)
    fields = {
        "session_name": "Hats",
        "session_state": {"currency": "euro", "none": None},
        "metadata": {"shop": 7},
        "user_id": "ann",
    }
    async with visit(agent_os) as client:
        made = await make(client, "s", agent_id="clerk", **fields)
        assert (
            made.items()
            >= ({"session_id": "s", "agent_id": "clerk", "session_type": "agent"} | fields).items()
        )
        assert (made["run_count"], made["chat_history"], made["total_tokens"]) == (0, [], 0)
        output = await agent_os.agents["clerk"].arun("Hello.", session_id="s", user_id="ann")
        assert output.stored
        assert output.session_state == fields["session_state"]
        after = await get(client, "/sessions/s")
        assert after.items() >= fields.items()
        assert [each["content"] for each in after["chat_history"]] == ["Hello.", "Yes."]
        assert after["total_tokens"] == output.metrics.total_tokens > 0
        nobodys = (await client.post("/sessions")).json()
        assert nobodys["session_id"] not in ("", "s")
        assert not {"user_id", "agent_id", "team_id"} & nobodys.keys()


async def test_an_id_in_use_is_refused_and_its_session_stays(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        await make(client, "s", session_name="first")
        answer = await client.post("/sessions", json={"session_id": "s", "session_name": "second"})
        assert answer.status_code == 409
        assert "leave it out" in answer.json()["detail"]
        assert (await get(client, "/sessions/s"))["session_name"] == "first"


async def test_what_is_given_changes_and_the_rest_stays(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        await make(client, "s", session_state={"a": 1, "b": 2}, metadata={"m": 1}, session_name="n")
        changed = (await client.patch("/sessions/s", json={"session_state": {"b": 3}})).json()
        assert (changed["session_state"], changed["metadata"], changed["session_name"]) == (
            {"b": 3},
            {"m": 1},
            "n",
        )
        changed = (await client.patch("/sessions/s", json={"metadata": {}, "summary": {"of": "ours"}})).json()
        assert (changed["session_state"], changed["metadata"]) == ({"b": 3}, {})
        renamed = await client.post("/sessions/s/rename", json={"session_name": "New"})
        assert renamed.status_code == 200
        assert renamed.json()["session_name"] == "New"
        before = await get(client, "/sessions/s")
        assert (await client.patch("/sessions/s", json={})).json() == before
        assert await get(client, "/sessions/s") == before


BAD_BODIES = [
    b'{"session_id": ""}',
    b'{"session_id": "a\\u0000b"}',
    b'{"session_id": "\\ud800"}',
    b'{"session_id": 7}',
    b'{"session_name": "\\ud800"}',
    b'{"session_state": {"a": NaN}}',
    b'{"session_state": {"a": ["\\ud800"]}}',
    b'{"session_state": {"\\ud800": 1}}',
    b'{"session_state": []}',
    b'{"metadata": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}",
    b'{"metadata": "x"}',
    b"{",
    b"[]",
]


async def test_what_cannot_be_kept_is_refused(db: BaseDb) -> None:
    headers = {"content-type": "application/json"}
    async with visit(an_os(db)) as client:
        await make(client, "s")
        for body in BAD_BODIES:
            answer = await client.post("/sessions", content=body, headers=headers)
            assert answer.status_code == 422, (body, answer.text)
            assert answer.json()["detail"]
            if b"session_id" not in body:
                answer = await client.patch("/sessions/s", content=body, headers=headers)
                assert answer.status_code == 422, (body, answer.text)
        assert await ids(client) == ["s"]


async def test_a_list_says_what_is_wrong_with_the_question(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        for params, status in (
            ({"limit": 0}, 422),
            ({"page": -1}, 422),
            ({"page": 10**30}, 422),
            ({"sort_by": "magic"}, 422),
            ({"sort_order": "up"}, 422),
            ({"type": "hat"}, 422),
            ({"db_id": "nowhere"}, 404),
            ({"limit": 10**30}, 200),
            ({"page": 10**9}, 200),
        ):
            answer = await client.get("/sessions", params=params)
            assert answer.status_code == status, (params, answer.text)


async def test_there_are_no_sessions_of_workflows(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        answer = await client.post("/sessions", params={"type": "workflow"})
        assert answer.status_code == 400


# Deleting.


async def test_a_deleted_session_is_gone_with_its_runs(db: BaseDb) -> None:
    agent_os = an_os(db)
    output = await agent_os.agents["clerk"].arun("Hello.", session_id="s")
    async with visit(agent_os) as client:
        assert (await client.delete("/sessions/s")).status_code == 204
        assert (await client.delete("/sessions/s")).status_code == 404
        assert await ids(client) == []
    assert await agent_os.agents["clerk"].aget_run_output(output.run_id) is None


async def test_a_session_with_a_live_run_is_not_deleted(db: BaseDb) -> None:
    working, go_on = asyncio.Event(), asyncio.Event()

    async def think(_: object) -> None:
        working.set()
        await go_on.wait()

    agent_os = an_os(db, ["Once ", think, "more."])
    async with visit(agent_os) as client:
        await make(client, "other")
        run = await agent_os.agents["clerk"].arun("Go.", session_id="s", background=True)
        await working.wait()
        answer = await client.delete("/sessions/s")
        assert answer.status_code == 409
        assert run.run_id in answer.json()["detail"]
        answer = await client.request("DELETE", "/sessions", json={"session_ids": ["s", "unknown", "other"]})
        assert answer.status_code == 409
        assert await ids(client) == ["s"]
        go_on.set()
        async for _ in agent_os.agents["clerk"].run_events(run.run_id):
            pass
        assert (await client.delete("/sessions/s")).status_code == 204


async def test_several_sessions_are_deleted_at_once(db: BaseDb) -> None:
    async with visit(an_os(db)) as client:
        for name in "abc":
            await make(client, name)
        body = {"session_ids": ["a", "unknown", "c"], "session_types": ["agent", "agent", "team"]}
        assert (await client.request("DELETE", "/sessions", json=body)).status_code == 204
        assert await ids(client) == ["b"]
        uneven = {"session_ids": ["b"], "session_types": []}
        assert (await client.request("DELETE", "/sessions", json=uneven)).status_code == 400
        assert (await client.request("DELETE", "/sessions", json={"session_ids": []})).status_code == 422
        assert await ids(client) == ["b"]


# Runs.


async def test_the_runs_of_a_session_are_listed_with_members(db: BaseDb) -> None:
    agent_os = an_os(db)
    output = await agent_os.teams["crew"].arun("Write.", session_id="s", user_id="ann", metadata={"m": 1})
    async with visit(agent_os) as client:
        team, poet = await get(client, "/sessions/s/runs")
        assert (team["run_id"], team["team_id"], team["status"]) == (output.run_id, "crew", "COMPLETED")
        assert (team["run_input"], team["content"], team["run_response_format"]) == (
            "Write.",
            "Done.",
            "text",
        )
        assert team["metrics"]["total_tokens"] == output.metrics.total_tokens
        assert (team["user_id"], team["metadata"]) == ("ann", {"m": 1})
        assert [each["tool_name"] for each in team["tools"]] == ["delegate_task_to_member"]
        assert [each["role"] for each in team["messages"]] == [
            "system",
            "user",
            "assistant",
            "tool",
            "assistant",
        ]
        assert (poet["agent_id"], poet["parent_run_id"], poet["content"]) == (
            "poet",
            output.run_id,
            "A poem.",
        )
        assert "events" not in team

        one = await get(client, f"/sessions/s/runs/{output.run_id}")
        names = [event["event"] for event in one.pop("events")]
        assert one == team
        assert (names[0], names[-1]) == ("TeamRunStarted", "TeamRunCompleted")
        assert "TeamRunContent" not in names
        assert (await get(client, f"/sessions/s/runs/{poet['run_id']}"))["content"] == "A poem."

        previews = await get(client, "/sessions/s/run-previews")
        assert [each["content_preview"] for each in previews] == ["Done.", "A poem."]
        assert [each["run_input"] for each in previews] == ["Write.", "A poem."]
        assert not {"messages", "tools", "metrics", "events"} & previews[0].keys()
        for path in ("/sessions/s/runs/unknown", "/sessions/t/runs", f"/sessions/t/runs/{output.run_id}"):
            assert (await client.get(path)).status_code == 404, path


async def test_runs_are_chosen_by_status_and_time(db: BaseDb) -> None:
    agent_os = an_os(db, "Yes.")
    done = await agent_os.agents["clerk"].arun("One.", session_id="s")
    failed = await agent_os.agents["clerk"].arun("Two.", session_id="s")
    assert failed.status is RunStatus.error
    async with visit(agent_os) as client:

        async def chosen(**params: Any) -> list[str]:
            runs = await get(client, "/sessions/s/runs", **params)
            previews = await get(client, "/sessions/s/run-previews", **params)
            assert [run["run_id"] for run in runs] == [run["run_id"] for run in previews]
            return [run["run_id"] for run in runs]

        assert await chosen(status="error") == [failed.run_id]
        assert await chosen(status=["COMPLETED", "PAUSED"]) == [done.run_id]
        assert await chosen(created_after=done.created_at, created_before=failed.created_at) == [
            done.run_id,
            failed.run_id,
        ]
        assert await chosen(created_after=failed.created_at + 1) == []
        assert await chosen(created_before=done.created_at - 1) == []
        answer = await client.get("/sessions/s/runs", params={"status": "LATER"})
        assert answer.status_code == 400
        assert "'LATER'" in answer.json()["detail"]


async def test_a_preview_is_cut_off(db: BaseDb) -> None:
    agent_os = an_os(db, "b" * 1000)
    await agent_os.agents["clerk"].arun("a" * 1000, session_id="s")
    async with visit(agent_os) as client:
        (preview,) = await get(client, "/sessions/s/run-previews")
        assert (preview["run_input"], preview["content_preview"]) == ("a" * 280, "b" * 280)
        assert (await get(client, "/sessions"))["data"][0]["session_name"] == "a" * 280


async def test_a_live_run_is_shown_with_its_text_so_far(db: BaseDb) -> None:
    working, go_on = asyncio.Event(), asyncio.Event()

    async def think(_: object) -> None:
        working.set()
        await go_on.wait()

    agent_os = an_os(db, ["Once ", think, "more."])
    async with visit(agent_os) as client:
        run = await agent_os.agents["clerk"].arun("Go.", session_id="s", background=True)
        await working.wait()
        seen: Any = None
        async with asyncio.timeout(10):
            while not (seen and "content" in seen):
                (seen,) = await get(client, "/sessions/s/runs")
        assert (seen["status"], seen["content"]) == ("RUNNING", "Once ")
        (preview,) = await get(client, "/sessions/s/run-previews")
        assert preview["content_preview"] == "Once "
        go_on.set()
        async for _ in agent_os.agents["clerk"].run_events(run.run_id):
            pass
        (seen,) = await get(client, "/sessions/s/runs")
        assert (seen["status"], seen["content"]) == ("COMPLETED", "Once more.")


async def test_text_that_is_no_unicode_is_no_error(db: BaseDb) -> None:
    @tool
    def odd() -> str:
        return "\ud800"

    agent_os = an_os(db, [call("odd")], "Yes.", tools=[odd])
    await agent_os.agents["clerk"].arun("Go.", session_id="s", session_state={"k": 1})
    async with visit(agent_os) as client:
        for path in ("/sessions", "/sessions/s", "/sessions/s/runs", "/sessions/s/run-previews"):
            await get(client, path)
        (run,) = await get(client, "/sessions/s/runs")
        assert run["tools"][0]["result"] == "\ud800"


# Forks.


async def test_a_fork_is_a_copy_under_other_ids(db: BaseDb) -> None:
    agent_os = an_os(db)
    output = await agent_os.agents["clerk"].arun("Hello.", session_id="s", user_id="ann")
    async with visit(agent_os) as client:
        await client.patch("/sessions/s", json={"session_name": "Hats", "metadata": {"m": 1}})
        answer = await client.post("/agents/clerk/sessions/s/fork")
        assert answer.status_code == 200
        forked = answer.json()
        assert forked["forked_from_session_id"] == "s"
        copy = await get(client, f"/sessions/{forked['session_id']}")
        assert (copy["session_name"], copy["metadata"], copy["user_id"]) == ("Hats", {"m": 1}, "ann")
        (run,) = await get(client, f"/sessions/{forked['session_id']}/runs")
        assert (run["content"], run["forked_from_run_id"]) == ("Yes.", output.run_id)
        for path, detail in (
            ("/agents/clerk/sessions/unknown/fork", "Session not found"),
            ("/teams/crew/sessions/s/fork", "Session not found"),
            ("/agents/unknown/sessions/s/fork", "Agent not found"),
        ):
            answer = await client.post(path)
            assert (answer.status_code, answer.json()["detail"]) == (404, detail)
        await agent_os.teams["crew"].arun("Write.", session_id="s", user_id="ann")
        assert (await client.post("/teams/crew/sessions/s/fork")).status_code == 200


# Whose they are.


async def test_a_user_sees_their_own_sessions_only(db: BaseDb) -> None:
    agent_os = an_os(db)
    for session_id, user_id in (("hers", "ann"), ("his", "bob"), ("nobodys", None)):
        await agent_os.agents["clerk"].arun("Hello.", session_id=session_id, user_id=user_id)
    async with visit(agent_os, ANN) as client:
        page = await get(client, "/sessions", user_id="bob")
        assert [each["session_id"] for each in page["data"]] == ["hers"]
        assert page["meta"]["total_count"] == 1
        assert (await get(client, "/sessions/hers"))["user_id"] == "ann"
        made = await make(client, "new", user_id="bob")
        assert made["user_id"] == "ann", "what she makes is hers"
        assert await ids(client) == ["new", "hers"]
    async with visit(agent_os, Caller(user_id=None, isolated=True)) as client:
        assert await ids(client) == []
        assert (await client.post("/sessions", json={})).status_code == 403
    async with visit(agent_os) as client:
        assert await ids(client) == ["new", "nobodys", "his", "hers"]
        assert (await client.get("/sessions/his", params={"user_id": "ann"})).status_code == 404
        assert (await client.get("/sessions/his", params={"user_id": "bob"})).status_code == 200


@pytest.mark.parametrize("session_id", ["his", "nobodys", "unknown"])
async def test_anothers_session_is_as_if_it_did_not_exist(db: BaseDb, session_id: str) -> None:
    agent_os = an_os(db)
    run_id = "unknown"
    for name, user_id in (("his", "bob"), ("nobodys", None)):
        output = await agent_os.agents["clerk"].arun("Hello.", session_id=name, user_id=user_id)
        run_id = output.run_id if name == session_id else run_id
    assert agent_os.agents["clerk"].db is not None
    before = await agent_os.agents["clerk"].aget_session(session_id)
    path = f"/sessions/{session_id}"
    requests: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("PATCH", path, {"session_name": "mine"}),
        ("POST", f"{path}/rename", {"session_name": "mine"}),
        ("GET", f"{path}/runs", None),
        ("GET", f"{path}/run-previews", None),
        ("GET", f"{path}/runs/{run_id}", None),
        ("POST", f"/agents/clerk{path}/fork", None),
        ("DELETE", path, None),
    ]
    async with visit(agent_os, ANN) as client:
        for method, where, body in requests:
            answer = await client.request(method, where, json=body, params={"user_id": "bob"})
            assert (answer.status_code, answer.json()) == (404, {"detail": "Session not found"}), where
        answer = await client.request("DELETE", "/sessions", json={"session_ids": [session_id]})
        assert answer.status_code == 204
    assert await agent_os.agents["clerk"].aget_session(session_id) == before


async def test_a_token_allows_what_its_scopes_say(db: BaseDb) -> None:
    agent_os = an_os(db)
    await agent_os.agents["clerk"].arun("Hello.", session_id="s")
    requests: list[tuple[str, str, Any, str]] = [
        ("GET", "/sessions", None, "sessions:read"),
        ("GET", "/sessions/s", None, "sessions:read"),
        ("GET", "/sessions/s/runs", None, "sessions:read"),
        ("GET", "/sessions/s/run-previews", None, "sessions:read"),
        ("GET", "/sessions/s/runs/unknown", None, "sessions:read"),
        ("POST", "/sessions", {}, "sessions:write"),
        ("PATCH", "/sessions/s", {}, "sessions:write"),
        ("POST", "/sessions/s/rename", {"session_name": "n"}, "sessions:write"),
        ("POST", "/agents/clerk/sessions/s/fork", None, "agents:run"),
        ("POST", "/teams/crew/sessions/s/fork", None, "teams:run"),
        ("DELETE", "/sessions", {"session_ids": ["unknown"]}, "sessions:delete"),
        ("DELETE", "/sessions/s", None, "sessions:delete"),
    ]
    scopes = {scope for *_, scope in requests}
    for method, path, body, scope in requests:
        async with visit(agent_os, Caller(scopes=frozenset(scopes - {scope}))) as client:
            assert (await client.request(method, path, json=body)).status_code == 403, path
        async with visit(agent_os, Caller(scopes=frozenset({scope}))) as client:
            assert (await client.request(method, path, json=body)).status_code != 403, path


# Databases.


async def test_a_database_that_fails_is_a_503() -> None:
    script = Script()

    async def fail(_: Any) -> None:
        raise OSError("gone")

    agent_os = an_os(ScriptedDb(script, store_timeout=0.2))
    async with visit(agent_os) as client:
        await make(client, "s")
        script.on_read = script.on_apply = fail
        for method, path, body in (
            ("GET", "/sessions", None),
            ("GET", "/sessions/s", None),
            ("GET", "/sessions/s/runs", None),
            ("POST", "/sessions", {}),
            ("PATCH", "/sessions/s", {"session_name": "n"}),
            ("DELETE", "/sessions/s", None),
            ("DELETE", "/sessions", {"session_ids": ["s"]}),
            ("POST", "/agents/clerk/sessions/s/fork", None),
        ):
            answer = await client.request(method, path, json=body)
            assert answer.status_code == 503, (path, answer.text)
            assert answer.json()["detail"]
    script.on_read = script.on_apply = Script().on_read
    assert agent_os.db is not None
    await agent_os.db.aclose()


async def test_without_a_database_there_are_no_sessions() -> None:
    async with visit(an_os(None)) as client:
        for method, path in (("GET", "/sessions"), ("GET", "/sessions/s"), ("POST", "/sessions")):
            answer = await client.request(method, path)
            assert answer.status_code == 404
            assert "db=" in answer.json()["detail"]


async def test_of_several_databases_one_is_named() -> None:
    one, two = agent("One", db=InMemoryDb()), agent("Two", db=InMemoryDb())
    for each in (one, two):
        await each.arun("Hello.", session_id=each.id)
    async with visit(AgentOS(agents=[one, two])) as client:
        answer = await client.get("/sessions")
        assert answer.status_code == 400
        known = (await get(client, "/config"))["databases"]
        assert all(db_id in answer.json()["detail"] for db_id in known)
        assert [await ids(client, db_id=db_id) for db_id in known] == [["one"], ["two"]]
        assert (await client.get("/sessions/one", params={"db_id": known[1]})).status_code == 404
    async with visit(AgentOS(agents=[one, two], db=two.db)) as client:
        assert await ids(client) == ["two"]
        assert await ids(client, db_id=(await get(client, "/agents/one"))["db_id"]) == ["one"]
        assert (await client.post("/agents/one/sessions/one/fork")).status_code == 200
