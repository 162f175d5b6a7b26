"""How servers end: real processes with real signals, and what is in their databases afterwards."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from kern_async import Agent, RunStatus, tool
from kern_async.db.in_memory import InMemoryDb
from kern_async.engine.run import Run
from kern_async.exceptions import ConfigurationError
from kern_async.os import AgentOS
from kern_async.testing import Forever, Gate, ProviderServer, Stall, Text, ToolCall
from kern_async.testing.scripted import ScriptedModel

from ..agent.crew import Crew
from .conftest import served as served_here
from .hosted import CANCEL_GRACE, STORE_TIMEOUT
from .hosts import Host, events, served

GRACE = 0.5
BOUND = GRACE + CANCEL_GRACE + STORE_TIMEOUT
RUNS = 50
SHOUTED = 30
PIECE = "x" * 200_000

SIGNALS = (signal.SIGTERM, signal.SIGINT)
OWN = None
"""`serve()`, which owns the signals."""
PLAIN = ()
"""A plain uvicorn, in whose application the server is mounted."""


def stored(db: Path) -> dict[str, tuple[str, str]]:
    """Every run in the file: its status and its output."""
    with closing(sqlite3.connect(db)) as connection:
        return {
            run_id: (status, output)
            for run_id, status, output in connection.execute("SELECT run_id, status, output FROM kern_runs")
        }


def last_stored_events(db: Path) -> dict[str, str]:
    query = "SELECT root_run_id, json_extract(body, '$.event'), max(event_index) FROM kern_events GROUP BY root_run_id"
    with closing(sqlite3.connect(db)) as connection:
        return {run_id: event for run_id, event, _ in connection.execute(query)}


def speaking(provider: ProviderServer, count: int) -> None:
    """Wait until so many answers have begun."""
    provider.wait_until(lambda: sum(bool(each.streamed) for each in provider.requests) >= count, 30)


@contextmanager
def crowd(host: Host, provider: ProviderServer) -> Generator[dict[str, httpx2.Response]]:
    """Live runs of the team, each streamed to a client that stays."""
    with ExitStack() as stack:
        streams = {
            f"run-{n}": stack.enter_context(host.stream("teams/crowd", f"run-{n}")) for n in range(RUNS)
        }
        speaking(provider, 2 * RUNS)
        yield streams


@pytest.mark.slow
@pytest.mark.parametrize("uvicorn", [OWN, PLAIN], ids=["serve", "mounted"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_every_run_cancelled_stored_and_told_to_its_reader(
    provider: ProviderServer, tmp_path: Path, number: signal.Signals, uvicorn: tuple[str, ...] | None
) -> None:
    provider.default = [Text("Once "), Forever("word ", 0.5)]
    db = tmp_path / "runs.db"
    with (
        served(provider, uvicorn=uvicorn, db=str(db), grace=GRACE) as host,
        crowd(host, provider) as streams,
    ):
        host.signal(number)
        for run_id, response in streams.items():
            last = events(response)[-1]
            assert (last["event"], last["run_id"]) == ("TeamRunCancelled", run_id)
            assert last["cancelled_by"] == "shutdown"
        # uvicorn ends itself with the signal that it got, but takes the keyboard's for good.
        assert host.ended(BOUND) == (0 if uvicorn is OWN or number == signal.SIGINT else -number)
    runs = stored(db)
    assert len(runs) == 3 * RUNS
    assert {status for status, _ in runs.values()} == {"CANCELLED"}
    for n in range(RUNS):
        assert '"cancelled_by":"shutdown"' in runs[f"run-{n}"][1].replace(": ", ":")
    assert last_stored_events(db) == dict.fromkeys(streams, "TeamRunCancelled")
    provider.wait_until(lambda: provider.open_requests == 0)


@pytest.mark.slow
@pytest.mark.parametrize("uvicorn", [OWN, PLAIN], ids=["serve", "mounted"])
def test_a_client_that_never_reads_does_not_hold_the_exit(
    provider: ProviderServer, tmp_path: Path, uvicorn: tuple[str, ...] | None
) -> None:
    provider.default = [Text([PIECE] * SHOUTED), Stall()]
    db = tmp_path / "runs.db"
    with served(provider, uvicorn=uvicorn, db=str(db), grace=0) as host, ExitStack() as stack:
        stack.enter_context(host.never_reads("agents/solo", "deaf"))
        provider.wait_until(lambda: [len(each.streamed) for each in provider.requests] == [SHOUTED], 30)
        host.signal(signal.SIGTERM)
        assert host.ended(CANCEL_GRACE + STORE_TIMEOUT) == (0 if uvicorn is OWN else -signal.SIGTERM)
    assert {status for status, _ in stored(db).values()} == {"CANCELLED"}
    assert set(last_stored_events(db).values()) == {"RunCancelled"}


@pytest.mark.parametrize("uvicorn", [OWN, PLAIN], ids=["serve", "mounted"])
def test_runs_go_on_for_the_grace_and_new_ones_are_refused(
    provider: ProviderServer, tmp_path: Path, uvicorn: tuple[str, ...] | None
) -> None:
    gate = Gate()
    provider.default = [Text("Once "), gate, Text("upon a time.")]
    with (
        served(provider, uvicorn=uvicorn, db=str(tmp_path / "runs.db"), grace=30) as host,
        host.stream("agents/solo", "slow") as response,
    ):
        speaking(provider, 1)
        host.signal(signal.SIGTERM)
        refused(host)
        gate.open()
        last = events(response)[-1]
        assert (last["event"], last["content"]) == ("RunCompleted", "Once upon a time.")
        assert host.ended(15) == (0 if uvicorn is OWN else -signal.SIGTERM)
    assert stored(tmp_path / "runs.db")["slow"][0] == "COMPLETED"


def refused(host: Host) -> None:
    """New runs are, once the server has seen the signal; `serve()` still answers, and tells of the live ones."""
    if host.prefix:
        with pytest.raises(httpx2.ConnectError):
            while True:
                httpx2.get(f"{host.url}/own", timeout=20)
        return
    while host.post("agents/solo").status_code != 503:
        pass
    answer = host.post("agents/solo")
    assert answer.json() == {"detail": "The server is shutting down"}
    assert "retry-after" in answer.headers
    assert host.get("agents/solo", "slow")["status"] == "RUNNING"


@pytest.mark.parametrize("uvicorn", [OWN, PLAIN], ids=["serve", "mounted"])
def test_a_second_signal_ends_the_grace(
    provider: ProviderServer, tmp_path: Path, uvicorn: tuple[str, ...] | None
) -> None:
    provider.default = [Text("Once "), Stall()]
    with (
        served(provider, uvicorn=uvicorn, db=str(tmp_path / "runs.db"), grace=60) as host,
        host.stream("agents/solo", "slow") as response,
    ):
        speaking(provider, 1)
        host.signal(signal.SIGTERM)
        refused(host)
        host.signal(signal.SIGTERM)
        assert events(response)[-1]["cancelled_by"] == "shutdown"
        assert host.ended(BOUND) == (0 if uvicorn is OWN else -signal.SIGTERM)


@pytest.mark.slow
def test_a_stored_paused_run_stays_paused_and_goes_on_in_the_next_process(
    provider: ProviderServer, tmp_path: Path
) -> None:
    db = str(tmp_path / "runs.db")
    provider.reply(ToolCall("pay", {"amount": 7}))
    provider.default = Text("It is paid.")
    with served(provider, db=db, grace=60) as host:
        paused = host.post("agents/payer", run_id="paused", timeout="").json()
        assert paused["status"] == "PAUSED"
        host.signal(signal.SIGTERM)
        assert host.ended(BOUND) == 0, "nobody waits for a paused run"
    assert stored(tmp_path / "runs.db")["paused"][0] == "PAUSED"
    with served(provider, db=db) as host:
        found = host.get("agents/payer", "paused")
        assert found["status"] == "PAUSED"
        call = {**found["tools"][0], "confirmed": True}
        answer = host.client.post(
            "/agents/payer/runs/paused/continue", data={"tools": json.dumps([call]), "stream": "false"}
        )
        assert answer.json()["status"] == "COMPLETED"
        assert answer.json()["tools"][0]["result"] == "paid 7"


@pytest.mark.slow
def test_after_sigkill_runs_are_found_interrupted_and_can_be_continued(
    provider: ProviderServer, tmp_path: Path
) -> None:
    db = str(tmp_path / "runs.db")
    provider.default = [Text("Once "), Stall()]
    with served(provider, db=db, lease_seconds=1) as host, ExitStack() as stack:
        for n in range(3):
            stack.enter_context(host.stream("agents/solo", f"solo-{n}"))
        stack.enter_context(host.stream("teams/crowd", "crowd"))
        speaking(provider, 5)
        while not stored(tmp_path / "runs.db").keys() >= {"crowd", "solo-0", "solo-1", "solo-2"}:
            pass  # what was never stored, nobody finds
        host.process.kill()
        host.process.wait()
    provider.default = Text("upon a time.")
    with served(provider, db=db, lease_seconds=1) as host:
        for path, run_id in [("teams/crowd", "crowd"), *(("agents/solo", f"solo-{n}") for n in range(3))]:
            while (found := host.get(path, run_id))["status"] == "RUNNING":
                pass  # until the lease of the dead one is over
            assert (found["status"], found["error_type"]) == ("ERROR", "Interrupted")
            replay = events(host.client.get(f"/{path}/runs/{run_id}/events"))
            assert replay[-1]["event"].removeprefix("Team") == "RunError"
            with host.client.stream("POST", f"/{path}/runs/{run_id}/continue") as response:
                assert events(response)[-1]["event"].removeprefix("Team") == "RunCompleted"
            assert host.get(path, run_id)["status"] == "COMPLETED"
        host.signal(signal.SIGTERM)
        assert host.ended(BOUND) == 0


def test_a_host_may_end_the_runs_and_go_on_itself(provider: ProviderServer, tmp_path: Path) -> None:
    provider.default = [Text("Once "), Stall()]
    with (
        served(provider, uvicorn=PLAIN, db=str(tmp_path / "runs.db"), grace=60) as host,
        host.stream("agents/solo", "slow") as response,
    ):
        speaking(provider, 1)
        assert httpx2.post(f"{host.url}/own/stop", timeout=20).json() is True
        assert events(response)[-1]["cancelled_by"] == "shutdown"
        assert host.post("agents/solo").status_code == 503
        assert host.get("agents/solo", "slow")["status"] == "CANCELLED"
        assert httpx2.get(f"{host.url}/own", timeout=20).json() == "here"
        host.signal(signal.SIGTERM)
        assert host.ended(BOUND) == -signal.SIGTERM


# In this process.


def test_a_server_in_a_thread_is_stopped_from_another_one_and_may_serve_again(
    crew: Crew, provider: ProviderServer
) -> None:
    provider.default = [Text("Once "), Stall()]
    agent_os = AgentOS(agents=[crew.agent("Solo")])
    assert not agent_os.stop()
    for _ in range(2):
        provider.reset()
        provider.default = [Text("Once "), Stall()]
        with (
            served_here(agent_os) as url,
            httpx2.Client(base_url=url, timeout=10) as client,
            client.stream("POST", "/agents/solo/runs", data={"message": "Go."}) as response,
        ):
            speaking(provider, 1)
            assert agent_os.stop(0)
            assert events(response)[-1]["cancelled_by"] == "shutdown"
        assert not agent_os.stop()
        assert agent_os.closed


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("verb", ["create", "continue"])
async def test_a_run_that_is_being_begun_when_the_server_stops_ends_with_the_others(
    crew: Crew, verb: str
) -> None:
    agent = crew.agent("Solo", *[[Text("Once "), Stall()]] * 2)
    agent_os = AgentOS(agents=[agent], db=InMemoryDb(), shutdown_grace=0)
    if verb == "continue":
        async with agent.arun("Go.", stream=True, run_id="r") as first:
            async for event in first:
                if event.event == "RunContent":
                    first.cancel()
    held, let_go = anyio.Event(), anyio.Event()
    begun: list[Run] = []

    async def start() -> Run:
        held.set()
        await let_go.wait()
        return await (
            agent.start_run("Go.", run_id="r") if verb == "create" else agent.start_again(run_id="r")
        )

    async with anyio.create_task_group() as group:

        async def begin() -> None:
            begun.append(await agent_os.begin(start))

        group.start_soon(begin)
        await held.wait()
        group.start_soon(agent_os.shutdown)
        await anyio.wait_all_tasks_blocked()
        assert not agent_os.closed
        let_go.set()
    output = begun[0].output
    assert output is not None
    assert (output.status, output.cancelled_by, output.stored) == (RunStatus.cancelled, "shutdown", True)


async def test_a_run_that_pauses_while_the_server_stops_stays_paused(crew: Crew) -> None:
    @tool(requires_confirmation=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    gate = Gate()
    agent = crew.agent("Solo", [gate, ToolCall("pay", {})], tools=[pay])
    agent_os = AgentOS(agents=[agent], db=InMemoryDb(), shutdown_grace=30)
    run = await agent_os.begin(partial(agent.start_run, "Go."))
    async with anyio.create_task_group() as group:
        group.start_soon(agent_os.shutdown)
        await crew.provider.await_for_request(1)
        gate.open()
    output = await agent.aget_run_output(run.id)
    assert output is not None
    assert output.is_paused
    await agent.acancel_run(run.id)


def test_an_app_that_is_named_ends_its_own_runs(provider: ProviderServer, tmp_path: Path) -> None:
    provider.default = [Text("Once "), Stall()]
    with served(provider, db=str(tmp_path / "runs.db"), grace=4, named=True) as host:
        with host.client.stream("POST", "/os/agents/solo/runs", data={"message": "Go."}) as response:
            speaking(provider, 1)
            host.process.send_signal(signal.SIGTERM)
            assert events(response)[-1]["cancelled_by"] == "shutdown"
        assert host.process.wait(20) == 0


async def broken(_app: object) -> AsyncGenerator[None]:
    raise RuntimeError("no such thing")
    yield


def test_an_application_that_cannot_start_is_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="did not start"):
        an_os().serve(FastAPI(lifespan=asynccontextmanager(broken)), port=0)


def an_os(**options: object) -> AgentOS:
    return AgentOS(agents=[Agent(name="Solo", model=ScriptedModel("solo", ["Hi."]))], **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_told_in_one_line(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=rf"^cannot listen on {host}:{port}: Address already in use; [^\n]+$"
        ):
            an_os().serve(host=host, port=port)


def test_a_host_that_is_none_is_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^cannot listen on nowhere\.invalid:7777: [^\n]+$"):
        an_os(os_security_key="k" * 20).serve(host="nowhere.invalid", port=7777)
    with pytest.raises(ConfigurationError, match=r"^cannot listen on 192\.0\.2\.1:7777: [^\n]+$"):
        an_os(os_security_key="k" * 20).serve(host="192.0.2.1", port=7777)


def test_other_machines_are_not_served_without_a_key() -> None:
    with pytest.raises(ConfigurationError, match=r"^host is '0\.0\.0\.0', [^\n]+$"):
        an_os().serve(host="0.0.0.0", port=0)
    with pytest.raises(ConfigurationError, match=r"^host is"):
        an_os().serve(host="::", port=0)


def test_with_a_key_they_are(provider: ProviderServer) -> None:
    agent_os = an_os(os_security_key="k" * 20)
    threads: list[threading.Thread] = []

    def ask(url: str) -> None:
        def stop() -> None:
            assert httpx2.get(url.replace("0.0.0.0", "127.0.0.1") + "/health", timeout=10).status_code == 200
            agent_os.stop()

        threads.append(threading.Thread(target=stop))
        threads[0].start()

    agent_os.serve(host="0.0.0.0", port=0, on_ready=ask)
    threads[0].join()
