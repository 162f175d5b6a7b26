"""Runs over HTTP: beginning, continuing and looking at them, and what is said to forms that are wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kern_async import Agent, RunContext, tool
from kern_async.db.in_memory import InMemoryDb
from kern_async.db.sqlite import SqliteDb
from kern_async.os import AgentOS
from kern_async.testing import Gate, ProviderServer, Stall, Status, Text, ToolCall

from ..agent.crew import Crew
from .conftest import Serve
from .wire import Raw, events_of, let_it_notice, parse, streaming

paid: list[int] = []


@pytest.fixture(autouse=True)
def nothing_is_paid_yet() -> None:
    paid.clear()


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay."""
    paid.append(amount)
    return f"paid {amount}"


@tool(external_execution=True)
def measure(what: str) -> str:
    """Measure it."""
    raise AssertionError(what)


@pytest.fixture
def aside() -> Generator[ThreadPoolExecutor]:
    """Requests whose answers are waited for elsewhere."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def ask(client: httpx2.Client, path: str = "/agents/solo/runs", **fields: Any) -> httpx2.Response:
    return client.post(path, data={"message": "Go.", "stream": "false", **fields})


def payer(crew: Crew, *after: Any, **options: Any) -> Agent:
    call = ToolCall("pay", {"amount": 5}, id="call_1")
    return crew.agent("Solo", [Text("I pay. "), call], *(after or (Text("Paid."),)), tools=[pay], **options)


# Creating.


@pytest.mark.parametrize("kind", ["agent", "team"])
def test_a_run_streams_its_events_to_its_end(crew: Crew, serve: Serve, kind: str) -> None:
    writer = crew.agent("Writer", Text("Hello there"))
    team = crew.team(Text("Hello there"), members=[crew.agent("Other")], name="Writer")
    client = serve(AgentOS(agents=[writer]) if kind == "agent" else AgentOS(teams=[team]))
    with streaming(client, f"/{kind}s/writer/runs", {"message": "Hi.", "run_id": "r"}) as events:
        frames, _ = parse(events.rest())
    prefix = "Team" if kind == "team" else ""
    assert frames[0].event == f"{prefix}RunStarted"
    assert frames[-1].event == f"{prefix}RunCompleted"
    assert [frame.id for frame in frames] == [str(index) for index in range(len(frames))]
    assert {frame.json["run_id"] for frame in frames} == {"r"}
    assert all(frame.json["event"] == frame.event for frame in frames)
    assert frames[-1].json["content"] == "Hello there"


def test_a_run_that_is_not_streamed_answers_with_its_output_whatever_its_end(
    crew: Crew, serve: Serve, aside: ThreadPoolExecutor, provider: ProviderServer
) -> None:
    client = serve(
        AgentOS(
            agents=[
                crew.agent("Good", Text("Well done")),
                crew.agent("Bad", Status(400, "no such thing")),
                crew.agent("Slow", [Text("So "), Stall()]),
                payer(crew),
            ]
        )
    )
    good = ask(client, "/agents/good/runs")
    assert good.status_code == 200
    assert (good.json()["status"], good.json()["content"]) == ("COMPLETED", "Well done")
    bad = ask(client, "/agents/bad/runs")
    assert bad.status_code == 200
    assert bad.json()["status"] == "ERROR"
    assert "no such thing" in bad.json()["error"]
    paused = ask(client)
    assert paused.status_code == 200
    assert (paused.json()["status"], paused.json()["content"]) == ("PAUSED", "I pay. ")
    assert len(paused.json()["requirements"]) == 1
    slow = aside.submit(ask, client, "/agents/slow/runs", run_id="slow")
    provider.wait_until(lambda: bool(crew.requests("Slow")) and bool(crew.requests("Slow")[0].streamed))
    assert client.post("/agents/slow/runs/slow/cancel").json()["cancelled"] is True
    cancelled = slow.result()
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "CANCELLED"
    assert client.post(f"/agents/solo/runs/{paused.json()['run_id']}/cancel").json()["cancelled"] is True


def test_what_a_form_says_reaches_the_run(crew: Crew, serve: Serve) -> None:
    seen: list[RunContext] = []

    def look(ctx: RunContext) -> str:
        """Look."""
        seen.append(ctx)
        return "seen"

    solo = crew.agent("Solo", ToolCall("look"), Text('{"city": "Bonn"}'), tools=[look])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb()))
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    answer = ask(
        client,
        run_id="mine",
        session_id="s",
        user_id="ann",
        session_state=json.dumps({"a": [1, None]}),
        metadata=json.dumps({"trace": "t"}),
        dependencies=json.dumps({"unit": "m"}),
        output_schema=json.dumps(schema),
    )
    assert answer.status_code == 200, answer.text
    output = answer.json()
    assert output["status"] == "COMPLETED", output
    assert (output["run_id"], output["session_id"], output["user_id"]) == ("mine", "s", "ann")
    assert output["metadata"] == {"trace": "t"}
    assert output["session_state"] == {"a": [1, None]}
    assert output["content"] == {"city": "Bonn"}
    assert seen[0].dependencies == {"unit": "m"}
    assert '"city"' in json.dumps(crew.requests()[0].body)


def test_images_and_files_reach_the_provider(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("A cat."))]))
    answer = client.post(
        "/agents/solo/runs",
        data={
            "message": "What is it?",
            "stream": "false",
            "images": json.dumps([{"url": "https://example.org/cat.png", "filepath": None}]),
            "input_files": json.dumps(
                [{"content": base64.b64encode(b"inline").decode(), "mime_type": "text/plain"}]
            ),
        },
        files=[
            ("files", ("cat.png", b"\x89PNG\0\xff", "image/png")),
            ("files", ("cat.pdf", b"%PDF", "application/pdf")),
        ],
    )
    assert answer.json()["content"] == "A cat.", answer.text
    sent = json.dumps(crew.requests()[0].body)
    assert "https://example.org/cat.png" in sent
    for kind, content in (
        ("image/png", b"\x89PNG\0\xff"),
        ("application/pdf", b"%PDF"),
        ("text/plain", b"inline"),
    ):
        assert f"data:{kind};base64,{base64.b64encode(content).decode()}" in sent
    assert "What is it?" in sent


def test_fields_that_mean_nothing_here_are_ignored(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("Yes."))]))
    answer = ask(
        client,
        version="3",
        monitor="true",
        factory_input="{",
        knowledge_filters='{"a": 1}',
        session_id="",
        user_id="",
        run_id="",
        session_state="",
        timeout="",
        no_such_field="x",
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"] == "Yes."


def test_a_client_can_do_without_the_finer_events(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[payer(crew)], db=InMemoryDb()))
    brief = parse(ask(client, stream="true", stream_events="false", run_id="r").content)[0]
    names = [frame.event for frame in brief]
    assert names == ["RunStarted", *["RunContent"] * (len(names) - 2), "RunPaused"]
    assert len(names) > 2
    every = parse(client.get("/agents/solo/runs/r/events").content)[0]
    assert [frame for frame in every if frame.id in {each.id for each in brief}] == brief
    assert len(every) > len(brief)
    assert client.post("/agents/solo/runs/r/cancel").json()["cancelled"] is True


def test_a_timeout_is_the_run_s_deadline(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", [Text("Well "), Stall()])]))
    output = ask(client, timeout="0.2").json()
    assert (output["status"], output["cancelled_by"], output["content"]) == ("CANCELLED", "deadline", "Well ")


def test_a_run_id_is_used_once(crew: Crew, serve: Serve, tmp_path: Path) -> None:
    db = SqliteDb(db_file=str(tmp_path / "kept.db"))
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("One."), [Text("Well "), Stall()])], db=db))
    assert ask(client, run_id="stored").json()["status"] == "COMPLETED"
    with streaming(client, "/agents/solo/runs", {"message": "Go.", "run_id": "live"}) as events:
        events.until("RunContent")
        for run_id in ("live", "stored"):
            for stream in ("true", "false"):
                again = ask(client, run_id=run_id, stream=stream)
                assert again.status_code == 409
                assert run_id in again.json()["detail"]
        assert client.post("/agents/solo/runs/live/cancel").json()["status"] == "CANCELLED"
        assert events_of(events.rest())[-1] == "RunCancelled"
    assert len(crew.requests()) == 2


# In the background.


def test_a_background_run_needs_a_database(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo")]))
    for stream in ("true", "false"):
        answer = ask(client, background="true", stream=stream)
        assert answer.status_code == 400
        assert "db=" in answer.json()["detail"]
    assert not crew.requests()


def test_a_background_run_is_answered_at_once_and_goes_on(crew: Crew, serve: Serve) -> None:
    gate = Gate()
    client = serve(AgentOS(agents=[crew.agent("Solo", [gate, Text("At last")])], db=InMemoryDb()))
    answer = ask(client, background="true", run_id="r", session_id="s")
    assert answer.status_code == 202
    assert answer.json()["status"] in ("PENDING", "RUNNING")
    assert (answer.json()["run_id"], answer.json()["session_id"]) == ("r", "s")
    gate.open()
    assert events_of(client.get("/agents/solo/runs/r/events").content)[-1] == "RunCompleted"
    assert client.get("/agents/solo/runs/r").json()["content"] == "At last"


def test_a_streamed_background_run_goes_on_without_its_reader(crew: Crew, serve: Serve) -> None:
    gate = Gate()
    solo = crew.agent("Solo", [Text("At "), gate, Text("last")])
    client = serve(AgentOS(agents=[solo], db=InMemoryDb()))
    form = {"message": "Go.", "background": "true", "run_id": "r"}
    with streaming(client, "/agents/solo/runs", form) as events:
        events.until("RunContent")
    let_it_notice(client)
    gate.open()
    frames, _ = parse(client.get("/agents/solo/runs/r/events").content)
    assert (frames[-1].event, frames[-1].json["content"]) == ("RunCompleted", "At last")


# Continuing.


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("said", ["requirements", "tools"])
def test_a_paused_run_goes_on_with_what_was_decided(
    crew: Crew, serve: Serve, said: str, stream: str, *, stored: bool
) -> None:
    client = serve(AgentOS(agents=[payer(crew)], db=InMemoryDb() if stored else None))
    output = ask(client, run_id="r").json()
    (requirement,) = output["requirements"]
    if said == "requirements":
        requirement["tool_execution"]["confirmed"] = True
        decided = [requirement]
    else:
        decided = [{"tool_call_id": requirement["tool_execution"]["tool_call_id"], "confirmed": True}]
    answer = client.post(
        "/agents/solo/runs/r/continue",
        data={said: json.dumps(decided), "session_id": output["session_id"], "stream": stream},
    )
    assert answer.status_code == 200, answer.text
    assert paid == [5]
    if stream == "false":
        assert (answer.json()["status"], answer.json()["content"]) == ("COMPLETED", "I pay. Paid.")
    else:
        frames, _ = parse(answer.content)
        assert (frames[0].event, frames[-1].event) == ("RunContinued", "RunCompleted")
        assert frames[-1].json["content"] == "I pay. Paid."


def test_a_call_that_is_refused_is_not_made(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[payer(crew, Text("Then not."))]))
    ask(client, run_id="r")
    tools = [{"tool_call_id": "call_1", "confirmed": False, "confirmation_note": "too dear"}]
    form = {"tools": json.dumps(tools), "stream": "false"}
    answer = client.post("/agents/solo/runs/r/continue", data=form)
    assert answer.json()["status"] == "COMPLETED", answer.text
    assert paid == []
    assert "too dear" in crew.told()[0]


def test_what_was_executed_elsewhere_comes_back(crew: Crew, serve: Serve) -> None:
    call = ToolCall("measure", {"what": "it"}, id="call_1")
    client = serve(AgentOS(agents=[crew.agent("Solo", call, Text("Three metres."), tools=[measure])]))
    ask(client, run_id="r")
    tools = [{"tool_call_id": "call_1", "result": "3 m"}]
    form = {"tools": json.dumps(tools), "stream": "false"}
    answer = client.post("/agents/solo/runs/r/continue", data=form)
    assert answer.json()["content"] == "Three metres.", answer.text
    assert crew.told() == ["3 m"]


@pytest.mark.parametrize("form", [{}, {"tools": "[]"}, {"requirements": "[]"}, {"tools": ""}])
def test_a_run_of_which_nothing_was_decided_pauses_again(
    crew: Crew, serve: Serve, form: dict[str, str]
) -> None:
    client = serve(AgentOS(agents=[payer(crew)]))
    ask(client, run_id="r")
    answer = client.post("/agents/solo/runs/r/continue", data={"stream": "false", **form})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "PAUSED"
    assert len(answer.json()["requirements"]) == 1
    assert client.post("/agents/solo/runs/r/cancel").json() == {
        "run_id": "r",
        "status": "CANCELLED",
        "cancelled": True,
    }
    assert paid == []


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("how", ["CANCELLED", "ERROR"])
def test_a_run_that_was_cut_short_goes_on(
    crew: Crew, serve: Serve, how: str, stream: str, *, stored: bool
) -> None:
    first = [Text("One. "), Stall()] if how == "CANCELLED" else Status(400, "not now")
    agent = crew.agent("Solo", first, Text("Two."))
    client = serve(AgentOS(agents=[agent], db=InMemoryDb() if stored else None))
    if how == "ERROR":
        assert ask(client, run_id="r").json()["status"] == how
    else:
        with streaming(client, "/agents/solo/runs", {"message": "Go.", "run_id": "r"}) as events:
            events.until("RunContent")
            assert client.post("/agents/solo/runs/r/cancel").json()["status"] == how
    before = parse(client.get("/agents/solo/runs/r/events").content)[0]
    answer = client.post("/agents/solo/runs/r/continue", data={"stream": stream, "input": "Go on."})
    assert answer.status_code == 200, answer.text
    assert crew.requests()[-1].last_text == "Go on."
    if stream == "false":
        assert answer.json()["status"] == "COMPLETED"
        assert answer.json()["content"].endswith("Two.")
        return
    frames, _ = parse(answer.content)
    assert (frames[0].event, frames[-1].event) == ("RunContinued", "RunCompleted")
    if stored:
        assert int(frames[0].id) == int(before[-1].id) + 1
        everything = parse(client.get("/agents/solo/runs/r/events").content)[0]
        assert everything == [*before, *frames]


def test_what_cannot_be_continued_says_why(crew: Crew, serve: Serve) -> None:
    solo = crew.agent("Solo", Text("Done."), [Text("Well "), Stall()])
    client = serve(AgentOS(agents=[solo, crew.agent("Other")], db=InMemoryDb()))
    ask(client, run_id="done")

    def go_on(path: str, **form: str) -> httpx2.Response:
        return client.post(f"/agents/{path}/continue", data={"stream": "false", **form})

    done = go_on("solo/runs/done")
    assert done.status_code == 409
    assert "COMPLETED" in done.json()["detail"]
    for path in ("other/runs/done", "solo/runs/unknown"):
        assert go_on(path).status_code == 404
        assert go_on(path).json() == {"detail": "Run not found"}
    assert go_on("nobody/runs/done").json() == {"detail": "Agent not found"}
    assert go_on("solo/runs/done", session_id="another").status_code == 404
    for form in ({"fork": "true"}, {"regenerate": "true"}, {"continue_from": "3"}):
        assert go_on("solo/runs/done", **form).status_code == 400
    with streaming(client, "/agents/solo/runs", {"message": "Go.", "run_id": "live"}) as events:
        events.until("RunContent")
        live = go_on("solo/runs/live")
        assert live.status_code == 409
        assert "live" in live.json()["detail"]
        client.post("/agents/solo/runs/live/cancel")
    assert len(crew.requests()) == 2


MISFITS: list[tuple[dict[str, str], int]] = [
    ({"tools": '[{"tool_call_id": "no such call", "confirmed": true}]'}, 400),
    ({"tools": '[{"confirmed": true}]'}, 400),
    ({"tools": '[{"tool_call_id": "call_1", "confirmed": "perhaps"}]'}, 422),
    ({"tools": '{"tool_call_id": "call_1"}'}, 422),
    ({"tools": "[1]"}, 422),
    ({"tools": "[{"}, 422),
    ({"requirements": "[{}]"}, 422),
    ({"requirements": '[{"tool_execution": 1}]'}, 422),
    ({"requirements": '[{"tool_execution": {"tool_call_id": "x", "tool_name": "y"}}]'}, 400),
    ({"requirements": '{"a": 1}'}, 422),
    ({"stream": "maybe"}, 422),
    ({"timeout": "0"}, 422),
]


def test_a_decision_that_fits_nothing_changes_nothing(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[payer(crew)]))
    ask(client, run_id="r")
    for form, status in MISFITS:
        answer = client.post("/agents/solo/runs/r/continue", data={"stream": "false", **form})
        assert answer.status_code == status, (form, answer.text)
        assert answer.json()["detail"], form
        assert client.get("/agents/solo/runs/r").json()["status"] == "PAUSED"
    assert client.post("/agents/solo/runs/r/cancel").json()["cancelled"] is True
    assert paid == []


# Looking.


@pytest.mark.parametrize("stored", [False, True])
def test_a_run_is_shown_as_far_as_it_has_come(crew: Crew, serve: Serve, *, stored: bool) -> None:
    gate = Gate()
    solo = crew.agent("Solo", [Text("So far "), gate, Text("so good")])
    client = serve(AgentOS(agents=[solo, crew.agent("Other")], db=InMemoryDb() if stored else None))
    form = {"message": "Go.", "run_id": "r", "session_id": "s"}
    with streaming(client, "/agents/solo/runs", form) as events:
        events.until("RunContent", 2)
        live = client.get("/agents/solo/runs/r").json()
        assert (live["status"], live["content"]) == ("RUNNING", "So far ")
        assert client.get("/agents/solo/runs/r", params={"session_id": "s"}).status_code == 200
        gate.open()
        events.rest()
    ended = client.get("/agents/solo/runs/r")
    assert (ended.json()["status"], ended.json()["content"]) == ("COMPLETED", "So far so good")
    for path, params in (
        ("/agents/other/runs/r", {}),
        ("/agents/solo/runs/unknown", {}),
        ("/agents/solo/runs/r", {"session_id": "another"}),
    ):
        answer = client.get(path, params=params)
        assert answer.status_code == 404
        assert answer.json() == {"detail": "Run not found"}
    assert client.get("/teams/solo/runs/r").json() == {"detail": "Team not found"}


def test_the_runs_of_a_session_are_listed(crew: Crew, serve: Serve) -> None:
    solo = crew.agent("Solo", Text("One."), Status(400, "no"), Text("Elsewhere."))
    other = crew.agent("Other", Text("Another's."))
    client = serve(AgentOS(agents=[solo, other], db=InMemoryDb()))
    ask(client, run_id="a", session_id="s")
    ask(client, run_id="b", session_id="s")
    ask(client, run_id="c", session_id="elsewhere")

    def listed(**params: str) -> list[str]:
        answer = client.get("/agents/solo/runs", params=params)
        assert answer.status_code == 200, answer.text
        return [run["run_id"] for run in answer.json()]

    assert listed(session_id="s") == ["a", "b"]
    assert listed(session_id="s", status="ERROR") == ["b"]
    assert client.get("/agents/other/runs", params={"session_id": "s"}).json() == []
    assert client.get("/agents/solo/runs", params={"session_id": "none"}).status_code == 404
    assert client.get("/agents/solo/runs").status_code == 422
    assert client.get("/agents/solo/runs", params={"session_id": "s", "status": "odd"}).status_code == 422


# How many, and how long.


def test_there_are_no_more_runs_at_once_than_are_allowed(crew: Crew, serve: Serve) -> None:
    solo = crew.agent("Solo", [Text("Well "), Stall()], Text("Free."))
    client = serve(AgentOS(agents=[solo], max_concurrent_runs=1))
    with streaming(client, "/agents/solo/runs", {"message": "Go.", "run_id": "r"}) as events:
        events.until("RunContent")
        full = ask(client)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert client.post("/agents/solo/runs/r/cancel").json()["status"] == "CANCELLED"
    assert ask(client).json()["content"] == "Free."


def test_no_run_begins_while_the_server_stops(crew: Crew, serve: Serve) -> None:
    gate = Gate()
    agent_os = AgentOS(agents=[payer(crew), crew.agent("Slow", [Text("Well "), gate, Text("done")])])
    client = serve(agent_os)
    ask(client, run_id="paused")
    form = {"message": "Go.", "run_id": "live"}
    with streaming(client, "/agents/slow/runs", form) as events:
        events.until("RunContent")
        assert agent_os.stop(30)
        # The paused run, which no database has, is ended as soon as the server has heard of it.
        client.get("/agents/solo/runs/paused/events")
        for answer in (ask(client), client.post("/agents/solo/runs/paused/continue", data={})):
            assert answer.status_code == 503
            assert "shutting down" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/agents/slow/runs/live").json()["status"] == "RUNNING"
        gate.open()
        assert events_of(events.rest())[-1] == "RunCompleted"


# Bad input.

FORM = {"content-type": "application/x-www-form-urlencoded"}
PARTS = {"content-type": "multipart/form-data; boundary=x"}


WRONG: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"", FORM, 422, "message"),
    (b"stream=false", FORM, 422, "message"),
    (b"message=", FORM, 422, "message"),
    (b"message=Go.&session_state={", FORM, 422, "session_state"),
    (b"message=Go.&session_state=[1]", FORM, 422, "session_state"),
    (b"message=Go.&dependencies=3", FORM, 422, "dependencies"),
    (b"message=Go.&metadata=%22x%22", FORM, 422, "metadata"),
    (b"message=Go.&output_schema=nope", FORM, 422, "output_schema"),
    (b"message=Go.&images={}", FORM, 422, "images"),
    (b"message=Go.&images=[{}]", FORM, 422, "images"),
    (b'message=Go.&images=[{"filepath": "/etc/passwd"}]', FORM, 422, "filepath"),
    (b'message=Go.&images=[{"content": "%%%"}]', FORM, 422, "images"),
    (b'message=Go.&audio=[{"url": "x"}]', FORM, 400, "Audio"),
    (b"message=Go.&stream=perhaps", FORM, 422, "stream"),
    (b"message=Go.&background=7", FORM, 422, "background"),
    (b"message=Go.&timeout=soon", FORM, 422, "timeout"),
    (b"message=Go.&timeout=-1", FORM, 422, "timeout"),
    (b"message=Go.&timeout=nan", FORM, 422, "timeout"),
    (b"message=Go.&timeout=inf", FORM, 422, "timeout"),
    (b"message=Go.&on_disconnect=explode", FORM, 422, "on_disconnect"),
    (b"message=Go.&metadata=" + b"[" * 50_000, FORM, 422, "metadata"),
    (b"message=%ff%fe", FORM, 400, "UTF-8"),
    (b"message=a%00b", FORM, 400, "NUL"),
    (b"message=\xff", FORM, 400, "UTF-8"),
    (b'{"message": "Go."}', {"content-type": "application/json"}, 422, "message"),
    (b"message=Go.", {"content-type": "text/plain"}, 422, "message"),
    (b"message=Go.", {}, 422, "message"),
    (b"no boundary at all", {"content-type": "multipart/form-data"}, 400, "boundary"),
    (b"not a part", PARTS, 400, ""),
    (b'--x\r\nContent-Disposition: form-data; name="message"\r\n\r\nGo', PARTS, 422, "message"),
    (b"--x\r\nContent-Disposition: form-data\r\n\r\nGo.\r\n--x--\r\n", PARTS, 400, "name"),
    (
        b'--x\r\nContent-Disposition: form-data; name="message"; filename="m"\r\n\r\nGo.\r\n--x--\r\n',
        PARTS,
        422,
        "message",
    ),
    (b"message=" + b"x" * 70_000, FORM, 413, "larger"),
]


def test_a_form_that_is_wrong_is_refused_with_a_word_that_helps(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo")], max_body_bytes=60_000))
    for content, headers, status, helps in WRONG:
        answer = client.post("/agents/solo/runs", content=content, headers=headers)
        assert answer.status_code == status, (content[:80], answer.text)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["detail"], content
        assert helps in json.dumps(answer.json()["detail"]), (content[:80], answer.text)
    assert not crew.requests()


def test_a_wrong_method_or_address_is_refused(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo")]))
    for method, path in (
        ("PUT", "/agents/solo/runs"),
        ("DELETE", "/agents/solo/runs/r"),
        ("GET", "/agents/solo/runs/r/cancel"),
        ("POST", "/agents/solo/runs/r/events"),
        ("PATCH", "/runs"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == 405, (method, path)
        assert answer.json()["detail"]
        assert answer.headers["allow"]
    assert client.get("/no/such/path").status_code == 404
    assert client.get("/agents/solo/runs/%ff").status_code == 400
    assert client.get("/agents/solo/runs/a%00b").status_code == 400
    assert ask(client, "/agents/nobody/runs").json() == {"detail": "Agent not found"}
    assert ask(client, "/teams/solo/runs").json() == {"detail": "Team not found"}
    assert client.get("/agents/solo/runs/" + "x" * 5000).status_code in (404, 431)
    assert not crew.requests()


def test_a_request_that_breaks_off_begins_no_run(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("Yes."))]))
    for head in (
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Type: multipart/form-data; boundary=x",
    ):
        with Raw(str(client.base_url)) as raw:
            raw.send(b"POST /agents/solo/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n" + head)
            raw.send(b"\r\n\r\nmessage=Go.&x=")
    with Raw(str(client.base_url)) as raw:
        raw.send(b"POST /agents/solo/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: nine\r\n\r\n")
        assert raw.read_until(b"\r\n").startswith(b"HTTP/1.1 400")
    assert ask(client).json()["content"] == "Yes."
    assert len(crew.requests()) == 1


def test_nothing_is_left_of_the_runs_of_a_session_that_was_deleted(crew: Crew, serve: Serve) -> None:
    client = serve(AgentOS(agents=[crew.agent("Solo", Text("Secret."))], db=InMemoryDb()))
    form = {"message": "Go.", "run_id": "r", "session_id": "s", "stream": "false"}
    assert client.post("/agents/solo/runs", data=form).json()["content"] == "Secret."
    assert client.get("/agents/solo/runs/r").status_code == 200
    assert client.delete("/sessions/s").status_code == 204
    for answer in (
        client.get("/agents/solo/runs/r"),
        client.get("/agents/solo/runs/r/events"),
        client.post("/agents/solo/runs/r/cancel"),
        client.post("/agents/solo/runs/r/resume"),
    ):
        assert (answer.status_code, answer.json()) == (404, {"detail": "Run not found"})
