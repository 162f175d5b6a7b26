"""Streams: the same bytes for everybody at any time, and no client that holds a run back or leaves something behind."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kern_async import Agent, RunContext, Team, tool
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.os import AgentOS, frames
from kern_async.os.sse import StreamSettings
from kern_async.run.base import BaseEvent
from kern_async.testing import Gate, ProviderServer, Stall, Text, ToolCall
from kern_async.testing.leaks import LeakCheck

from ..agent.crew import Crew, delegate
from .conftest import Serve, served
from .wire import Raw, Reading, form_request, let_it_notice, parse, streaming, unchunked, until

Without = Callable[[str], AbstractContextManager[None]]

GO = {"message": "Go."}
ODD = [
    "line\n\nline\r\n\rline ",
    "data: no\nid: 7\n\n",
    "nul\0 and bell\a ",
    "\u2028\u2029\u0085\ufeff ",
    "\U0001f9ff \U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 ",
    '"\\" </script> ',
]


def replay(client: httpx2.Client, path: str, after: str | None = None) -> bytes:
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = client.get(f"{path}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content


def resume(client: httpx2.Client, path: str, after: int) -> bytes:
    answer = client.post(f"{path}/resume", data={"last_event_index": after})
    assert answer.status_code == 200, answer.text
    return answer.content


def tail(raw: bytes, after: int) -> bytes:
    """The bytes of a stream that follow the event with this id."""
    return raw[raw.index(b"\n\n", raw.index(b"id: %d\n" % after)) + 2 :]


class Odd:
    """No JSON, and nobody's."""

    def __str__(self) -> str:
        return "odd\n\0"


# The same bytes.


def odd_team(crew: Crew, gate: Gate) -> Team:
    def look(what: str, ctx: RunContext) -> Any:
        """Look."""
        ctx.report("half \ud83d of it")
        return {"seen": what, "odd": Odd()}

    member = crew.agent("Member", ToolCall("look", {"what": "\u2028\n\0"}), Text(ODD), tools=[look])
    return crew.team(
        [Text("I ask.\n\n"), delegate("member", "Do\nit.")],
        [Text(ODD), gate, Text("at last")],
        members=[member],
        name="Lead",
    )


@pytest.mark.parametrize("stored", [False, True])
def test_an_event_has_the_same_bytes_whenever_it_is_read(
    crew: Crew, serve: Serve, tmp_path: Path, *, stored: bool
) -> None:
    def db() -> SqliteDb | None:
        return SqliteDb(db_file=str(tmp_path / "kept.db")) if stored else None

    gate = Gate()
    client = serve(AgentOS(teams=[odd_team(crew, gate)], db=db()))
    with streaming(client, "/teams/lead/runs", {**GO, "run_id": "r"}) as first:
        seen = first.until("TeamRunContent", len(ODD) + 1)
        with ExitStack() as stack:
            later: list[tuple[int, Reading]] = []
            for after in (-1, 0, 3, int(seen[-1].id)):
                path = "/teams/lead/runs/r/events"
                later.append((after, stack.enter_context(streaming(client, path, last_event_id=str(after)))))
            gate.open()
            live = first.rest()
            tails = [(after, reader.rest()) for after, reader in later]
    everything, comments = parse(live)
    assert not comments
    assert [frame.id for frame in everything] == [str(index) for index in range(len(everything))]
    assert live.count(b"\n") == 4 * len(everything), "three lines and an empty one for each event"
    assert [frame.event for frame in everything][-1] == "TeamRunCompleted"
    own = [frame.json for frame in everything if frame.event == "TeamRunContent"]
    assert "".join(delta["content"] for delta in own) == everything[-1].json["content"]
    for after, raw in tails:
        assert raw == (live if after < 0 else tail(live, after))
    assert replay(client, "/teams/lead/runs/r") == live
    assert replay(client, "/teams/lead/runs/r", "5") == tail(live, 5)
    assert replay(client, "/teams/lead/runs/r", everything[-1].id) == b""
    assert client.get("/teams/lead/runs/r/events", params={"last_event_id": 5}).content == tail(live, 5)
    if not stored:
        return
    other = Agent(name="Member", model=crew.model("Member"))
    second = serve(AgentOS(teams=[Team([other], name="Lead", model=crew.model("Lead"))], db=db()))
    assert replay(second, "/teams/lead/runs/r") == live
    assert replay(second, "/teams/lead/runs/r", "5") == tail(live, 5)
    assert replay(second, "/teams/lead/runs/r", "99999") == b""


@pytest.mark.parametrize("stored", [False, True])
def test_a_member_s_events_can_be_read_by_its_own_run_id(crew: Crew, serve: Serve, *, stored: bool) -> None:
    gate = Gate()
    team = odd_team(crew, gate)
    client = serve(AgentOS(teams=[team], db=InMemoryDb() if stored else None))
    with streaming(client, "/teams/lead/runs", {**GO, "run_id": "r"}) as events:
        seen = events.until("TeamRunContent", len(ODD) + 1)
        member = next(frame.json["run_id"] for frame in seen if frame.event == "RunStarted")
        path = f"/teams/lead/runs/{member}"
        early = replay(client, path)  # its run has ended, its team's has not
        last = parse(early)[0][-1]
        assert last.event == "RunCompleted"
        assert replay(client, path, last.id) == b""
        gate.open()
        frames_, _ = parse(events.rest())
    assert parse(early)[0] == [frame for frame in frames_ if frame.json["run_id"] == member]
    assert replay(client, path) == early


@pytest.mark.parametrize("stored", [False, True])
def test_members_that_are_not_streamed_are_replayed_the_same_live_and_later(
    crew: Crew, serve: Serve, *, stored: bool
) -> None:
    gate = Gate()
    team = odd_team(crew, gate)
    team.stream_member_events = False
    client = serve(AgentOS(teams=[team], db=InMemoryDb() if stored else None))
    with streaming(client, "/teams/lead/runs", {**GO, "run_id": "r"}) as events:
        events.until("TeamRunContent", len(ODD) + 1)
        with streaming(client, "/teams/lead/runs/r/events") as reader:
            reader.until("TeamRunContent", len(ODD) + 1)
            gate.open()
            own, whole = events.rest(), reader.rest()
    assert {frame.event.startswith("Team") for frame in parse(own)[0]} == {True}
    assert "RunCompleted" in [frame.event for frame in parse(whole)[0]]
    assert [frame for frame in parse(whole)[0] if frame.event.startswith("Team")] == parse(own)[0]
    assert replay(client, "/teams/lead/runs/r") == whole


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@pytest.mark.parametrize("stored", [False, True])
def test_a_stream_ends_when_the_run_pauses_and_reading_goes_on_over_what_follows(
    crew: Crew, serve: Serve, *, stored: bool
) -> None:
    gate = Gate()
    call = ToolCall("pay", {"amount": 5}, id="call_1")
    solo = crew.agent("Solo", [Text("I pay. "), call], [Text("Paid."), gate, Text(" Bye.")], tools=[pay])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb() if stored else None))
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        first = events.rest()
    paused = parse(first)[0][-1]
    assert paused.event == "RunPaused"
    assert replay(client, "/agents/solo/runs/r") == first
    assert replay(client, "/agents/solo/runs/r", paused.id) == b""
    form = {"tools": json.dumps([{"tool_call_id": "call_1", "confirmed": True}])}
    path = "/agents/solo/runs/r"
    with streaming(client, f"{path}/continue", form) as going_on:
        going_on.until("RunContent")
        with (
            streaming(client, f"{path}/events", last_event_id=paused.id) as from_there,
            streaming(client, f"{path}/events") as from_the_start,
        ):
            from_there.until("RunContinued")
            from_the_start.until("RunContinued")
            gate.open()
            second = going_on.rest()
            assert from_there.rest() == second
            assert from_the_start.rest() == first + second
    ids = [frame.id for frame in parse(first + second)[0]]
    assert ids == [str(index) for index in range(len(ids))]
    assert replay(client, path) == first + second
    assert replay(client, path, paused.id) == second


# Resuming as the reference does.


@pytest.mark.parametrize("stored", [False, True])
def test_a_cancelled_run_that_goes_on_is_replayed_from_its_beginning(
    crew: Crew, serve: Serve, *, stored: bool
) -> None:
    solo = crew.agent("Solo", [Text("One. "), Stall()], [Text("Two. "), Stall()], [Text("Three.")])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb() if stored else None))
    path = "/agents/solo/runs/r"
    told: list[bytes] = []
    for where, form in (("/agents/solo/runs", {**GO, "run_id": "r"}), (f"{path}/continue", {})):
        with streaming(client, where, form) as events:
            events.until("RunContent")
            assert client.post(f"{path}/cancel").json()["cancelled"]
            told.append(events.rest())
        assert replay(client, path) == b"".join(told)
    with streaming(client, f"{path}/continue", {"stream": "true"}) as events:
        told.append(events.rest())
    assert replay(client, path) == b"".join(told)
    ids = [frame.id for frame in parse(b"".join(told))[0]]
    assert ids == [str(index) for index in range(len(ids))]


def test_resuming_a_paused_run_does_not_say_that_it_runs(crew: Crew, serve: Serve) -> None:
    solo = crew.agent("Solo", [ToolCall("pay", {"amount": 5})], tools=[pay])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb()))
    assert (
        client.post("/agents/solo/runs", data={**GO, "run_id": "r", "stream": "false"}).json()["status"]
        == "PAUSED"
    )
    for after in (-1, 50):
        first = parse(resume(client, "/agents/solo/runs/r", after))[0][0]
        assert first.event == "replay"
        assert first.json["status"] == "PAUSED"
    assert client.post("/agents/solo/runs/r/cancel").json()["cancelled"]


def test_no_reader_takes_a_character_of_a_text_for_the_end_of_a_line(crew: Crew, serve: Serve) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    client = serve(AgentOS(agents=[crew.agent("Solo", Text(text))]))
    with streaming(client, "/agents/solo/runs", GO) as events:
        raw = events.rest()
    assert [line for line in raw.decode().splitlines() if line] == [
        line for line in raw.decode().split("\n") if line
    ]
    assert parse(raw)[0][-1].json["content"] == text


@pytest.mark.parametrize("stored", [False, True])
def test_resuming_tells_what_follows(crew: Crew, serve: Serve, *, stored: bool) -> None:
    gate = Gate()
    solo = crew.agent("Solo", [Text("So far "), gate, Text("so good")])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb() if stored else None))
    path = "/agents/solo/runs/r"
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        count = len(events.until("RunContent", 2))
        with (
            streaming(client, f"{path}/resume", {"last_event_index": "1"}) as behind,
            streaming(client, f"{path}/resume", {"last_event_index": str(count - 1)}) as level,
        ):
            catch_up = behind.until("catch_up")[0].json
            subscribed = level.until("subscribed")[0].json
            gate.open()
            live = events.rest()
            late, up_to_date = behind.rest(), level.rest()
    assert {key: catch_up[key] for key in ("run_id", "status", "missed_events", "current_event_count")} == {
        "run_id": "r",
        "status": "running",
        "missed_events": count - 2,
        "current_event_count": count,
    }
    assert (subscribed["run_id"], subscribed["current_event_count"]) == ("r", count)
    names = [frame.event for frame in parse(late)[0]]
    assert names.count("subscribed") == 1
    assert names.index("subscribed") == count - 1, "after what was missed, before what happens"
    ours = ("catch_up", "subscribed", "replay")
    assert [f for f in parse(late)[0] if f.event not in ours] == parse(tail(live, 1))[0]
    assert [f for f in parse(up_to_date)[0] if f.event not in ours] == parse(tail(live, count - 1))[0]
    ended = parse(resume(client, path, 1))[0]
    assert ended[0].event == "replay"
    assert (ended[0].json["status"], ended[0].json["last_event_index_requested"]) == ("COMPLETED", 1)
    assert ended[1:] == parse(tail(live, 1))[0]
    assert len(parse(resume(client, path, -1))[0]) == 1 + len(parse(live)[0])
    for form in ({"last_event_index": "-2"}, {"last_event_index": "x"}):
        assert client.post(f"{path}/resume", data=form).status_code == 422
    assert client.post("/agents/solo/runs/unknown/resume", data={}).json() == {"detail": "Run not found"}


def test_an_id_that_no_event_has_is_refused(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("Done."))]))
    client.post("/agents/solo/runs", data={**GO, "run_id": "r"})
    for bad in ("x", "1.5", "--1", "1 2", "9" * 400, "0x1", "\u0663"):
        headers = {b"Last-Event-ID": bad.encode()}
        answer = client.get("/agents/solo/runs/r/events", headers=headers)
        assert answer.status_code == 422, (bad, answer.text)
        assert "last-event-id" in str(answer.json()["detail"])
    for bad in ("x", "-2", "1.5"):
        answer = client.get("/agents/solo/runs/r/events", params={"last_event_id": bad})
        assert answer.status_code == 422, (bad, answer.text)
    assert client.get("/agents/solo/runs/q/events").json() == {"detail": "Run not found"}


# Staying connected.


def test_a_quiet_stream_is_kept_alive(crew: Crew, serve: Serve) -> None:
    gate = Gate()
    agent_os = AgentOS(
        agents=[crew.agent("Solo", [gate, Text("Done.")])], stream=StreamSettings(keepalive=0.05)
    )
    client = serve(agent_os)
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        events.until("keepalive", 3)
        gate.open()
        found, comments = parse(events.rest())
    assert set(comments) == {"keepalive"}
    assert found[-1].event == "RunCompleted"
    assert len(comments) < 200


def test_the_head_comes_before_the_first_event(crew: Crew, serve: Serve) -> None:
    solo = crew.agent("Solo", Text("Done."))
    gate = Gate()
    solo.pre_hooks = [lambda: gate.event.wait(10)]
    client = serve(AgentOS(agents=[solo]))
    with Raw(str(client.base_url)) as raw:
        raw.post("/agents/solo/runs", **GO)
        assert raw.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        gate.open()
        raw.read_until(b"RunCompleted")


# Who does not read.


def flood(crew: Crew) -> Agent:
    """Says far more than fits into the sockets of who does not read."""
    return crew.agent("Solo", Text(["x" * 4_000] * 3_000, burst=True))


@pytest.mark.parametrize("reads", ["nothing", "a byte now and then"])
def test_a_run_is_not_held_back_by_a_client_that_reads(crew: Crew, serve: Serve, reads: str) -> None:
    client = serve(AgentOS(agents=[flood(crew)], db=InMemoryDb()))
    with Raw(str(client.base_url), receive_buffer=4096) as raw:
        raw.post("/agents/solo/runs", **GO, run_id="r")
        raw.read_until(b"RunStarted", 1)
        other = replay(client, "/agents/solo/runs/r")
        if reads != "nothing":
            for _ in range(50):
                raw.socket.recv(1)
        assert parse(other)[0][-1].event == "RunCompleted"
        assert client.get("/agents/solo/runs/r").json()["status"] == "COMPLETED"


@pytest.mark.parametrize("why", ["behind", "silent"])
def test_a_client_that_is_too_slow_is_closed_and_resumes_where_it_was(
    crew: Crew, serve: Serve, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr("kern_async.os.sse._LOOK", 0.05)
    patience = StreamSettings(most_behind=500) if why == "behind" else StreamSettings(send_timeout=1.0)
    gate = Gate()
    steps = [Text(["x" * 4_000] * 2_000, burst=True), gate, Text("done")]
    client = serve(AgentOS(agents=[crew.agent("Solo", steps)], db=InMemoryDb(), stream=patience))
    path = "/agents/solo/runs/r"
    with Raw(str(client.base_url), receive_buffer=4096) as raw:
        raw.post("/agents/solo/runs", **GO, run_id="r")
        raw.read_until(b"RunStarted", 1)
        port = raw.socket.getsockname()[1]
        until(lambda: port not in _clients_of(str(client.base_url)))
        assert client.get(path).json()["status"] == "RUNNING", "the server left, not the client"
        got = b"".join(unchunked(raw.read_to_close()))
    gate.open()
    live = replay(client, path)
    whole = got[: got.rfind(b"\n\n") + 2]
    assert whole
    assert live.startswith(whole)
    assert len(whole) < len(live) / 2
    last = parse(whole)[0][-1].id
    assert whole + replay(client, path, last) == live
    assert parse(live)[0][-1].event == "RunCompleted"


def test_what_a_client_does_not_read_is_not_kept_for_it(
    crew: Crew, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: Counter[int] = Counter()
    encode = frames.frame

    def frame(event: BaseEvent) -> bytes:
        encoded[event.event_index] += 1
        return encode(event)

    monkeypatch.setattr(frames, "frame", frame)
    client = serve(AgentOS(agents=[flood(crew)], db=InMemoryDb()))
    with Raw(str(client.base_url), receive_buffer=4096) as raw:
        raw.post("/agents/solo/runs", **GO, run_id="r", background="true")
        raw.read_until(b"RunStarted", 1)
        until(lambda: client.get("/agents/solo/runs/r").json()["status"] == "COMPLETED")
        assert len(encoded) < 2_000, "what is not sent yet is not even bytes"


# Who leaves.


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("policy", ["cancel", "continue"])
def test_a_client_that_leaves_cancels_its_run_unless_it_is_to_go_on(
    crew: Crew, serve: Serve, provider: ProviderServer, policy: str, stream: str
) -> None:
    gate = Gate()
    client = serve(AgentOS(agents=[crew.agent("Solo", [Text("So "), gate, Text("on")])], db=InMemoryDb()))
    path = "/agents/solo/runs/r"
    with Raw(str(client.base_url)) as raw:
        form = {**GO, "run_id": "r", "stream": stream, "on_disconnect": policy}
        raw.post("/agents/solo/runs", **form)
        provider.wait_until(lambda: bool(provider.requests) and bool(provider.requests[0].streamed))
    if policy == "continue":
        let_it_notice(client)
        gate.open()
    frames_, _ = parse(replay(client, path))
    end = frames_[-1].json
    if policy == "continue":
        assert (end["status"], end["content"]) == ("COMPLETED", "So on")
    else:
        assert (end["status"], end["cancelled_by"]) == ("CANCELLED", "consumer")
        assert provider.requests[0].outcome == "disconnected"


def test_only_the_request_that_began_a_run_ends_it_by_leaving(
    crew: Crew, serve: Serve, provider: ProviderServer
) -> None:
    gate = Gate()
    client = serve(AgentOS(agents=[crew.agent("Solo", [Text("So "), gate, Text("on")])]))
    path = "/agents/solo/runs/r"
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events:
        events.until("RunContent")
        with streaming(client, f"{path}/events") as other:
            other.until("RunContent")
        with streaming(client, f"{path}/resume", {"last_event_index": "-1"}) as another:
            another.until("RunContent")
        with Raw(str(client.base_url)) as raw:
            raw.get(f"{path}/events")
            raw.read_until(b"RunContent")
            raw.reset()
        let_it_notice(client)
        assert client.get(path).json()["status"] == "RUNNING"
        gate.open()
        assert parse(events.rest())[0][-1].json["content"] == "So on"


def test_a_client_that_goes_on_with_a_run_ends_it_by_leaving(crew: Crew, serve: Serve) -> None:
    call = ToolCall("pay", {"amount": 5}, id="call_1")
    solo = crew.agent("Solo", [Text("I pay. "), call], [Text("Paid."), Stall()], tools=[pay])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb()))
    path = "/agents/solo/runs/r"
    client.post("/agents/solo/runs", data={**GO, "run_id": "r"})
    form = {"tools": json.dumps([{"tool_call_id": "call_1", "confirmed": True}])}
    with streaming(client, f"{path}/continue", form) as events:
        events.until("RunContent")
    end = parse(replay(client, path))[0][-1].json
    assert (end["status"], end["cancelled_by"], end["content"]) == ("CANCELLED", "consumer", "I pay. Paid.")


def test_a_client_that_leaves_a_run_that_has_paused_leaves_it_paused(crew: Crew, serve: Serve) -> None:
    call = ToolCall("pay", {"amount": 5}, id="call_1")
    client = serve(AgentOS(agents=[crew.agent("Solo", [Text("I pay. "), call], tools=[pay])]))
    with Raw(str(client.base_url)) as raw:
        raw.post("/agents/solo/runs", **GO, run_id="r")
        raw.read_until(b"RunPaused")
        raw.reset()
    let_it_notice(client)
    assert client.get("/agents/solo/runs/r").json()["status"] == "PAUSED"
    assert client.post("/agents/solo/runs/r/cancel").json()["cancelled"] is True


CROWD = 500


def test_nothing_is_left_of_a_crowd_that_vanishes(crew: Crew, provider: ProviderServer) -> None:
    provider.default = [Text("So "), Stall()]
    check = LeakCheck(patience=10)
    agent_os = AgentOS(agents=[crew.agent("Solo")], max_concurrent_runs=None)

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    agent_os.get_app().add_api_route("/tasks", tasks)
    with served(agent_os) as url, httpx2.Client(base_url=url, timeout=10) as client:
        inside = LeakCheck(patience=10)
        before = client.get("/tasks").json()
        whole = form_request("/agents/solo/runs", **GO)
        shown = form_request("/agents/solo/runs", **GO, stream="false")
        phases: Sequence[tuple[bytes, bytes | None]] = [
            (b"", None),
            (whole[:20], None),
            (whole[:-3], None),
            (whole, None),
            (shown, None),
            (whole, b"200 OK"),
            (whole, b"RunStarted"),
            (whole, b"RunContent"),
            (b"GET /agents/solo/runs/r/events HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
            (b"\x16\x03\x01\0\xff" * 10, None),
        ]
        for number in range(CROWD):
            sent, awaited = phases[number % len(phases)]
            raw = Raw(url)
            raw.send(sent)
            if awaited is not None:
                raw.read_until(awaited)
            raw.reset() if number // len(phases) % 2 else raw.socket.close()
        until(lambda: not client.get("/runs").json(), 30)
        provider.wait_until(lambda: provider.open_requests == 0, 10)
        assert not agent_os.arrivals.coming(("agent", "solo"))
        assert not agent_os.roster.live()
        until(lambda: client.get("/tasks").json() == before)
        client.close()
        until(lambda: not _clients_of(url))
        inside.settle()
    check.settle()


def _clients_of(url: str) -> list[int]:
    """The ports of the clients to which the server has a connection that it has not closed."""
    port = f":{httpx2.URL(url).port:04X}"
    fields = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [
        int(each[2].rpartition(":")[2], 16)
        for each in fields
        if each[1].endswith(port) and each[3] in ("01", "08")
    ]


# Who reads together.


def test_a_hundred_readers_get_the_same_bytes_which_are_made_once(
    crew: Crew, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: Counter[int] = Counter()
    encode = frames.frame

    def frame(event: BaseEvent) -> bytes:
        encoded[event.event_index] += 1
        return encode(event)

    monkeypatch.setattr(frames, "frame", frame)
    gate = Gate()
    solo = crew.agent("Solo", [Text("So "), gate, Text("on " * 300), Text("end")])
    client = serve(AgentOS(agents=[solo]))
    url = str(client.base_url)
    with streaming(client, "/agents/solo/runs", {**GO, "run_id": "r"}) as events, ExitStack() as stack:
        events.until("RunContent")
        readers = [stack.enter_context(Raw(url)) for _ in range(100)]
        for reader in readers:
            reader.get("/agents/solo/runs/r/events")
        for reader in readers:
            reader.read_until(b"RunContent")
        gate.open()
        live = events.rest()
        for reader in readers:
            assert b"".join(unchunked(reader.read_until(b"\r\n0\r\n\r\n"))) == live
    last = parse(live)[0][-1]
    assert encoded.keys() == set(range(int(last.id) + 1))
    # The one reader that there was at first needed nobody to share with.
    assert sum(encoded.values()) <= len(encoded) + 10
    assert max(encoded[index] for index in range(10, int(last.id) + 1)) == 1


# A database that fails.


@pytest.fixture
def kept(crew: Crew, serve: Serve, tmp_path: Path) -> tuple[httpx2.Client, Without]:
    """A server that has a run in its database only, and what takes a table there away for a while."""
    path = str(tmp_path / "kept.db")
    first = serve(AgentOS(agents=[crew.agent("Solo", Text("Done."))], db=SqliteDb(db_file=path)))
    first.post("/agents/solo/runs", data={**GO, "run_id": "r"})

    def rename(table: str, to: str) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"ALTER TABLE {table} RENAME TO {to}")

    @contextmanager
    def without(table: str) -> Generator[None]:
        rename(table, "elsewhere")
        yield
        rename("elsewhere", table)

    solo = Agent(name="Solo", model=crew.model("Solo"))
    return serve(AgentOS(agents=[solo], db=SqliteDb(db_file=path, store_timeout=0.3))), without


def test_a_database_that_fails_in_mid_stream_ends_the_stream_with_a_word(
    kept: tuple[httpx2.Client, Without], tmp_path: Path
) -> None:
    client, without = kept
    whole = replay(client, "/agents/solo/runs/r")
    with without("kern_events"):
        raw = replay(client, "/agents/solo/runs/r")
    found, _ = parse(raw)
    assert [frame.event for frame in found] == ["error"]
    assert (found[0].id, found[0].json.keys()) == ("", {"error", "error_type"})
    assert str(tmp_path).encode() not in raw
    assert parse(whole)[0][-1].event == "RunCompleted"
    assert replay(client, "/agents/solo/runs/r") == whole


def test_a_run_that_cannot_be_looked_for_is_not_unknown(
    kept: tuple[httpx2.Client, Without], tmp_path: Path
) -> None:
    client, without = kept
    path = "/agents/solo/runs/r"
    with without("kern_runs"):
        for method, where in (
            ("GET", path),
            ("GET", f"{path}/events"),
            ("POST", f"{path}/resume"),
            ("POST", f"{path}/cancel"),
            ("POST", f"{path}/continue"),
        ):
            answer = client.request(method, where, data={"x": "y"} if method == "POST" else None)
            assert answer.status_code == 503, (where, answer.text)
            assert "database" in answer.json()["detail"]
            assert str(tmp_path) not in answer.text, "where it is, is not a client's business"
    until(lambda: client.get(path).json().get("status") == "COMPLETED")
