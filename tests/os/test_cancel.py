"""Cancelling over HTTP: what is answered is so, and what is cancelled has ended."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from kern_async import Agent, RunContext, Team, TeamMode, set_background_max_concurrency, tool
from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.engine import registry
from kern_async.os import AgentOS
from kern_async.testing import Forever, Gate, Hang, ProviderServer, Stall, Text, ToolCall

from ..agent.crew import Crew, delegate
from .conftest import Serve
from .wire import Raw, form_request, parse, streaming, until

GO = {"message": "Go."}


@pytest.fixture
def aside() -> Generator[ThreadPoolExecutor]:
    """Requests whose answers are waited for elsewhere."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def cancel(client: httpx2.Client, path: str, **params: Any) -> tuple[str, bool]:
    """The status and the verdict of a cancel that is answered with a verdict."""
    answer = client.post(f"{path}/cancel", params=params)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"run_id", "status", "cancelled"}
    assert body["run_id"] == path.rpartition("/")[2]
    return body["status"], body["cancelled"]


def end_of(raw: bytes) -> dict[str, Any]:
    return parse(raw)[0][-1].json


def talker(crew: Crew, name: str = "Solo", **options: Any) -> Agent:
    return crew.agent(name, [Text("Well "), Stall()], **options)


# The truth.


def test_a_live_run_ends_cancelled(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[talker(crew)]))
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        events.until("RunContent")
        assert cancel(client, "/agents/solo/runs/r", reason="enough", wait=True) == ("CANCELLED", True)
        end = end_of(events.rest())
    assert (end["event"], end["reason"], end["cancelled_by"], end["content"]) == (
        "RunCancelled",
        "enough",
        "request",
        "Well ",
    )
    assert cancel(client, "/agents/solo/runs/r") == ("CANCELLED", False)


def test_a_run_that_is_being_cancelled_is_cancelled_again(crew: Crew, serve: Serve) -> None:
    gate = Gate()

    async def clean_up(ctx: RunContext) -> str:
        """Work until it is told to stop, and then a while."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(gate.event.wait)
        raise AssertionError

    solo = crew.agent("Solo", ToolCall("clean_up"), tools=[clean_up], cancel_grace=10)
    client = serve(AgentOS(agents=[solo]))
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        events.until("ToolCallStarted")
        assert cancel(client, "/agents/solo/runs/r", reason="first") == ("RUNNING", True)
        assert cancel(client, "/agents/solo/runs/r", reason="second") == ("RUNNING", True)
        (tree,) = client.get("/runs").json()
        assert tree["cancelling"] is True
        gate.open()
        assert end_of(events.rest())["reason"] == "first"


def test_a_background_run_that_waits_for_its_turn_never_begins(crew: Crew, serve: Serve) -> None:
    solo = crew.agent("Solo")
    client = serve(AgentOS(agents=[solo, talker(crew, "Busy")], db=InMemoryDb()))
    form = {**GO, "background": "true", "stream": "false"}
    set_background_max_concurrency(1)
    try:
        assert client.post("/agents/busy/runs", data={**form, "run_id": "busy"}).status_code == 202
        assert client.post("/agents/solo/runs", data={**form, "run_id": "r"}).json()["status"] == "PENDING"
        assert client.get("/agents/solo/runs/r").json()["status"] == "PENDING"
        assert cancel(client, "/agents/solo/runs/r", wait=True) == ("CANCELLED", True)
    finally:
        set_background_max_concurrency(32)
    assert client.get("/agents/solo/runs/r").json()["cancellation_stage"] == "PENDING"
    assert cancel(client, "/agents/busy/runs/busy", wait=True) == ("CANCELLED", True)
    assert not crew.requests()


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    raise AssertionError(amount)


def payer(crew: Crew, **options: Any) -> Agent:
    return crew.agent("Solo", [Text("I pay. "), ToolCall("pay", {"amount": 5})], tools=[pay], **options)


@pytest.mark.parametrize("stored", [False, True])
def test_a_paused_run_ends_at_once(crew: Crew, serve: Serve, *, stored: bool) -> None:
    client = serve(AgentOS(agents=[payer(crew)], db=InMemoryDb() if stored else None))
    client.post("/agents/solo/runs", data={**GO, "run_id": "r"})
    assert cancel(client, "/agents/solo/runs/r", reason="no") == ("CANCELLED", True)
    output = client.get("/agents/solo/runs/r").json()
    assert (output["status"], output["cancellation_stage"], output["content"]) == (
        "CANCELLED",
        "PAUSED",
        "I pay. ",
    )
    end = end_of(client.get("/agents/solo/runs/r/events").content)
    assert (end["event"], end.get("reason")) == ("RunCancelled", "no")
    assert cancel(client, "/agents/solo/runs/r") == ("CANCELLED", False)


@pytest.mark.parametrize("stored", [False, True])
def test_a_run_that_has_ended_stays_as_it_ended(crew: Crew, serve: Serve, *, stored: bool) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("Done."))], db=InMemoryDb() if stored else None))
    client.post("/agents/solo/runs", data={**GO, "run_id": "r"})
    for wait in (False, True):
        assert cancel(client, "/agents/solo/runs/r", wait=wait) == ("COMPLETED", False)
    assert client.get("/agents/solo/runs/r").json()["status"] == "COMPLETED"


def test_a_paused_run_of_a_server_that_is_gone_ends_in_the_database(
    crew: Crew, serve: Serve, tmp_path: Path
) -> None:
    def db() -> BaseDb:
        return SqliteDb(db_file=str(tmp_path / "kept.db"))

    first = serve(AgentOS(agents=[payer(crew, db=db())]))
    first.post("/agents/solo/runs", data={**GO, "run_id": "r"})
    # The run is this process's, too: as another would, read it from the database alone.
    run = registry.find("r")
    assert run is not None
    registry.unregister(run)
    second = serve(AgentOS(agents=[Agent(name="Solo", model=crew.model("Solo"), tools=[pay], db=db())]))
    assert second.get("/agents/solo/runs/r").json()["status"] == "PAUSED"
    assert cancel(second, "/agents/solo/runs/r", reason="stale") == ("CANCELLED", True)
    assert end_of(second.get("/agents/solo/runs/r/events").content)["reason"] == "stale"
    assert cancel(second, "/agents/solo/runs/r") == ("CANCELLED", False)


def test_an_unknown_run_is_not_found_and_one_of_that_id_is_not_harmed(crew: Crew, serve: Serve) -> None:
    solo, other = crew.agent("Solo", Text("Fine.")), talker(crew, "Other")
    team = crew.team(members=[crew.agent("Member")], name="Lead")
    client = serve(AgentOS(agents=[solo, other], teams=[team]))
    began = time.monotonic()
    for path in ("/agents/solo/runs/r", "/agents/other/runs/r", "/teams/lead/runs/r"):
        answer = client.post(f"{path}/cancel")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Run not found"})
    assert time.monotonic() - began < 1, "nothing is being received, so nothing is waited for"
    for path, detail in (
        ("/teams/solo/runs/r", "Team not found"),
        ("/agents/lead/runs/r", "Agent not found"),
        ("/agents/member/runs/r", "Agent not found"),
    ):
        answer = client.post(f"{path}/cancel")
        assert (answer.status_code, answer.json()) == (404, {"detail": detail})
    with streaming(client, "/agents/other/runs", {**GO, "run_id": "o"}) as events:
        events.until("RunContent")
        assert client.post("/agents/solo/runs/o/cancel").status_code == 404
        assert client.post("/agents/other/runs/o/cancel", params={"session_id": "x"}).status_code == 404
        assert client.get("/runs").json()[0]["cancelling"] is False
        assert cancel(client, "/agents/other/runs/o") == ("CANCELLED", True)
        events.rest()
    output = client.post("/agents/solo/runs", data={**GO, "run_id": "r", "stream": "false"}).json()
    assert output["status"] == "COMPLETED"


def test_what_is_no_way_to_cancel_is_refused(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[talker(crew)]))
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        events.until("RunContent")
        for params in ({"mode": "gently"}, {"wait": "perhaps"}):
            answer = client.post("/agents/solo/runs/r/cancel", params=params)
            assert answer.status_code == 422
            assert next(iter(params)) in str(answer.json()["detail"])
        assert client.post("/runs/cancel", json={"agent_id": "solo", "mode": "gently"}).status_code == 422
        assert cancel(client, "/agents/solo/runs/r") == ("CANCELLED", True)
        events.rest()


@pytest.mark.parametrize(("mode", "content"), [("now", "One "), ("after_turn", "One two")])
def test_a_cancel_may_let_the_turn_end(crew: Crew, serve: Serve, mode: str, content: str) -> None:
    gate = Gate()
    client = serve(AgentOS(agents=[crew.agent("Solo", [Text("One "), gate, Text("two")])]))
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        events.until("RunContent")
        assert cancel(client, "/agents/solo/runs/r", mode=mode)[1]
        gate.open()
        end = end_of(events.rest())
    assert (end["status"], end["content"]) == ("CANCELLED", content)


@pytest.mark.parametrize("whose", ["team", "agent"])
def test_a_member_is_cancelled_by_its_own_run_id(crew: Crew, serve: Serve, whose: str) -> None:
    slow = talker(crew, "Slow")
    team = crew.team(delegate("slow"), Text("Then without."), members=[slow], name="Lead")
    client = serve(AgentOS(teams=[team], agents=[slow]))
    with streaming(client, "/teams/lead/runs", {**GO, "run_id": "r"}) as events:
        frames = events.until("RunContent")
        member = next(frame.json["run_id"] for frame in frames if frame.event == "RunStarted")
        path = "/teams/lead" if whose == "team" else "/agents/slow"
        assert client.get(f"{path}/runs/{member}").json()["status"] == "RUNNING"
        assert cancel(client, f"{path}/runs/{member}", reason="too slow") == ("CANCELLED", True)
        raw = events.rest()
    ends = [frame.json for frame in parse(raw)[0] if frame.event in ("RunCancelled", "TeamRunCompleted")]
    assert [(end["event"], end["content"]) for end in ends] == [
        ("RunCancelled", "Well "),
        ("TeamRunCompleted", "Then without."),
    ]
    assert ends[0]["reason"] == "too slow"


# Too early.


@pytest.mark.parametrize("stored", [False, True])
def test_a_cancel_that_overtakes_its_run_finds_it(
    crew: Crew, serve: Serve, aside: ThreadPoolExecutor, *, stored: bool
) -> None:
    agent_os = AgentOS(agents=[crew.agent("Solo")], db=InMemoryDb() if stored else None)
    client = serve(agent_os)
    request = form_request("/agents/solo/runs", **GO, run_id="r", session_id="s")
    with Raw(str(client.base_url)) as raw:
        raw.send(request[:-5])
        until(lambda: agent_os.arrivals.coming(("agent", "solo")))
        answer = aside.submit(cancel, client, "/agents/solo/runs/r", reason="early")
        until(lambda: agent_os.arrivals.waiting)
        raw.send(request[-5:])
        stream = raw.read_until(b"\r\n0\r\n\r\n")
        assert answer.result() == ("CANCELLED", True)
    assert b"event: RunCancelled" in stream
    output = client.get("/agents/solo/runs/r").json()
    assert (output["status"], output["cancellation_stage"], output["reason"]) == (
        "CANCELLED",
        "PENDING",
        "early",
    )
    assert not crew.requests()


def test_a_cancel_waits_for_a_run_that_never_comes_a_second_at_most(crew: Crew, serve: Serve) -> None:
    agent_os = AgentOS(agents=[crew.agent("Solo", Text("Fine.")), crew.agent("Other")])
    client = serve(agent_os)
    request = form_request("/agents/solo/runs", **GO, run_id="r", stream="false")
    with Raw(str(client.base_url)) as raw:
        raw.send(request[:-5])
        until(lambda: agent_os.arrivals.coming(("agent", "solo")))
        began = time.monotonic()
        assert client.post("/agents/other/runs/r/cancel").status_code == 404
        assert time.monotonic() - began < 0.8, "of another agent's there is nothing to wait for"
        began = time.monotonic()
        answer = client.post("/agents/solo/runs/r/cancel")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Run not found"})
        assert 0.9 < time.monotonic() - began < 3
        raw.send(request[-5:])
        assert b'"status":"COMPLETED"' in raw.read_until(b"Fine."), "nothing was stored"


def test_a_cancel_does_not_wait_for_a_request_that_was_given_up(
    crew: Crew, serve: Serve, aside: ThreadPoolExecutor
) -> None:
    agent_os = AgentOS(agents=[crew.agent("Solo")])
    client = serve(agent_os)
    with Raw(str(client.base_url)) as raw:
        raw.send(form_request("/agents/solo/runs", **GO)[:-2])
        until(lambda: agent_os.arrivals.coming(("agent", "solo")))
        answer = aside.submit(client.post, "/agents/solo/runs/r/cancel")
        until(lambda: agent_os.arrivals.waiting)
        raw.reset()
        began = time.monotonic()
        assert answer.result().status_code == 404
        assert time.monotonic() - began < 0.8
    assert not crew.requests()


# The end.


@pytest.mark.parametrize("reply", [Forever(interval=0.002), Hang()], ids=["streaming", "silent"])
def test_a_cancelled_team_has_left_its_provider_when_its_stream_ends(
    crew: Crew, serve: Serve, provider: ProviderServer, reply: Any
) -> None:
    members = [crew.agent(name, reply) for name in ("One", "Two", "Three")]
    team = crew.team(members=members, name="Lead", mode=TeamMode.broadcast)
    client = serve(AgentOS(teams=[team], db=InMemoryDb()))
    with streaming(client, "/teams/lead/runs", {**GO, "run_id": "r"}) as events:
        if isinstance(reply, Hang):
            provider.wait_until(lambda: len(provider.requests) == 3)
        else:
            events.until("RunContent", 20)
        answer = cancel(client, "/teams/lead/runs/r")
        raw = events.rest()
        began = time.monotonic()
        provider.wait_until(lambda: provider.open_requests == 0, 2)
        assert time.monotonic() - began < 0.5
    assert answer == ("CANCELLED", True)
    frames, _ = parse(raw)
    assert [frame.event for frame in frames if "RunCancelled" in frame.event] == [
        *["RunCancelled"] * 3,
        "TeamRunCancelled",
    ]
    assert len(frames[-1].json["interrupted"]) == 3
    assert all(request.outcome == "disconnected" for request in provider.requests)
    assert [request.model for request in provider.requests].count("Lead") == 0


# Many.


def a_crowd(crew: Crew) -> AgentOS:
    team: Team = crew.team(members=[crew.agent("Member")], name="Lead", mode=TeamMode.broadcast)
    return AgentOS(agents=[crew.agent("Ann"), crew.agent("Bob")], teams=[team], db=InMemoryDb())


CROWD: dict[str, dict[str, str]] = {
    "ann": {"path": "/agents/ann/runs", "session_id": "s1", "user_id": "u1"},
    "bob": {"path": "/agents/bob/runs", "session_id": "s2", "user_id": "u2"},
    "lead": {"path": "/teams/lead/runs", "session_id": "s3", "user_id": "u2"},
}


def gather(crew: Crew, client: httpx2.Client, suffix: str = "") -> None:
    crew.provider.reset()
    for name in ("Ann", "Bob", "Member"):
        crew.script(name, [Text("Well "), Stall()])
    for run_id, own in CROWD.items():
        form = {**own, **GO, "run_id": run_id + suffix, "background": "true", "stream": "false"}
        assert client.post(form.pop("path"), data=form).status_code == 202
    crew.provider.wait_until(lambda: sum(bool(each.streamed) for each in crew.provider.requests) == 3)


@pytest.mark.parametrize("way", ["form", "json", "query"])
def test_a_filter_cancels_what_it_names(crew: Crew, serve: Serve, way: str) -> None:
    client = serve(a_crowd(crew))
    filters: list[tuple[dict[str, Any], set[str]]] = [
        ({"run_ids": ["ann", "lead", "unknown"]}, {"ann", "lead"}),
        ({"agent_id": "ann"}, {"ann"}),
        ({"team_id": "lead"}, {"lead"}),
        ({"session_id": "s1"}, {"ann"}),
        ({"user_id": "u2"}, {"bob", "lead"}),
        ({"user_id": "u2", "session_id": "s2"}, {"bob"}),
        ({"status": "RUNNING"}, {"ann", "bob", "lead"}),
        ({"agent_id": "nobody"}, set()),
        ({"run_ids": ["unknown"]}, set()),
        ({"status": "PAUSED"}, set()),
    ]
    for number, (given, hit) in enumerate(filters):
        gather(crew, client, str(number))
        asked = {**given, "wait": "true", "reason": "all of you"}
        if "run_ids" in given:
            asked["run_ids"] = [run_id + str(number) for run_id in given["run_ids"]]
        match way:
            case "form":
                answer = client.post("/runs/cancel", data=asked)
            case "json":
                answer = client.post("/runs/cancel", json=asked)
            case _:
                answer = client.post("/runs/cancel", params=asked)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["cancelled"] == len(hit), given
        assert {run["run_id"] for run in body["runs"]} == {run_id + str(number) for run_id in hit}
        assert {run["status"] for run in body["runs"]} <= {"CANCELLED"}
        assert all(run["cancelled"] for run in body["runs"])
        left = {run["run_id"] for run in client.get("/runs").json()}
        assert left == {run_id + str(number) for run_id in CROWD.keys() - hit}
        if left:
            client.post("/runs/cancel", json={"run_ids": sorted(left), "wait": True})


def test_a_cancel_of_everything_is_not_done_by_leaving_the_filter_out(crew: Crew, serve: Serve) -> None:
    client = serve(a_crowd(crew))
    gather(crew, client)
    nothing: list[dict[str, Any]] = [
        {},
        {"json": {}},
        {"json": {"reason": "x"}},
        {"json": {"run_ids": []}},
        {"data": {"agent_id": ""}},
        {"params": {"session_id": ""}},
    ]
    for given in nothing:
        answer = client.post("/runs/cancel", **given)
        assert answer.status_code == 422, (given, answer.text)
        assert "filter" in str(answer.json()["detail"])
    for content, status in (
        (b"{", 400),
        (b"[1]", 400),
        (b'{"run_ids": 3}', 422),
        (b'{"run_ids": [3]}', 422),
        (b'{"status": "odd"}', 422),
    ):
        answer = client.post("/runs/cancel", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == status, (content, answer.text)
        assert answer.json()["detail"]
    assert len(client.get("/runs").json()) == 3
    assert client.post("/runs/cancel", json={"status": "RUNNING", "wait": True}).json()["cancelled"] == 3


# The live runs.


def test_what_is_live_is_listed_as_trees(crew: Crew, serve: Serve) -> None:
    working = Gate()

    def work(ctx: RunContext) -> str:
        """Work."""
        working.event.wait(10)
        return "worked"

    member = crew.agent("Worker", [Text("I work. "), ToolCall("work", id="call_1")], Stall(), tools=[work])
    quick = crew.agent("Quick", Text("Done."))
    team = crew.team(
        [Text("I ask. "), delegate("quick"), delegate("worker")], members=[member, quick], name="Lead"
    )
    client = serve(AgentOS(teams=[team], agents=[payer(crew), member], db=InMemoryDb()))
    assert client.get("/runs").json() == []
    client.post("/agents/solo/runs", data={**GO, "run_id": "p", "session_id": "s2"})
    with streaming(client, "/teams/lead/runs", {**GO, "run_id": "r", "session_id": "s1"}) as events:
        events.until("RunCompleted")
        events.until("ToolCallStarted")
        trees = client.get("/runs").json()
        assert [tree["run_id"] for tree in trees] == ["p", "r"]
        paused, tree = trees
        assert (paused["status"], paused["requirements"], paused["kind"]) == ("PAUSED", 1, "agent")
        assert [each["status"] for each in paused["tools"]] == ["waiting"]
        assert (tree["kind"], tree["id"], tree["name"], tree["status"]) == ("team", "lead", "Lead", "RUNNING")
        assert (tree["parent_run_id"], tree["content"], tree["cancelling"]) == (None, "I ask. ", False)
        assert abs(tree["created_at"] + tree["age"] - time.time()) < 5
        assert [(each["tool_name"], each["status"]) for each in tree["tools"]] == [
            ("delegate_task_to_member", "done"),
            ("delegate_task_to_member", "running"),
        ]
        members = {node["id"]: node for node in tree["members"]}
        assert {name: node["status"] for name, node in members.items()} == {
            "quick": "COMPLETED",
            "worker": "RUNNING",
        }
        assert {node["parent_run_id"] for node in tree["members"]} == {"r"}
        assert members["worker"]["content"] == "I work. "
        assert members["worker"]["tools"] == [
            {"tool_call_id": "call_1", "tool_name": "work", "tool_args": {}, "status": "running"}
        ]
        assert members["quick"]["metrics"]["output_tokens"] > 0
        for params, found in (
            ({"team_id": "lead"}, ["r"]),
            ({"agent_id": "solo"}, ["p"]),
            ({"session_id": "s1"}, ["r"]),
            ({"status": "PAUSED"}, ["p"]),
            ({"user_id": "nobody"}, []),
        ):
            assert [run["run_id"] for run in client.get("/runs", params=params).json()] == found
        assert client.get("/runs", params={"status": "odd"}).status_code == 422
        working.open()
        assert client.post("/runs/cancel", json={"status": "RUNNING", "wait": True}).json()["cancelled"] == 1
        events.rest()
    assert [run["run_id"] for run in client.get("/runs").json()] == ["p"]
    assert cancel(client, "/agents/solo/runs/p") == ("CANCELLED", True)
    assert client.get("/runs").json() == []
