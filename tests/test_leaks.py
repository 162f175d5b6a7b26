"""The leak check sees what is left, and nothing else. It looks after every other test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from kern_async.agent import Agent
from kern_async.backend import current_loop
from kern_async.engine import stragglers
from kern_async.models.base import ModelRequest
from kern_async.models.openai import OpenAIResponses
from kern_async.run.base import Work
from kern_async.run.message import Message
from kern_async.testing import Hang, ProviderServer, Text
from kern_async.testing.inventory import visit_background_loop
from kern_async.testing.leaks import Kind, LeakCheck, LeakError


def a_check(*allow: Kind) -> LeakCheck:
    return LeakCheck(allow=allow, patience=0.05)


async def test_a_task_nobody_encloses_is_seen() -> None:
    check = a_check()
    release, ended = anyio.Event(), anyio.Event()

    async def work() -> None:
        await release.wait()
        ended.set()

    current_loop().spawn(work, name="forgotten", on_lost=lambda: None)
    with pytest.raises(LeakError, match=r"task: .*forgotten"):
        await check.asettle()
    release.set()
    await ended.wait()
    await check.asettle()


@pytest.mark.parametrize("daemon", [False, True])
def test_a_thread_that_waits_is_seen(daemon: bool) -> None:
    check = a_check()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="kern-tool-lookup", daemon=daemon)
    thread.start()
    with pytest.raises(LeakError, match="thread: kern-tool-lookup"):
        check.settle()
    release.set()
    thread.join()
    check.settle()


@pytest.mark.parametrize("job", ["python", "c"])
async def test_a_busy_thread_of_a_pool_is_seen_and_an_idle_one_is_not(job: str) -> None:
    check = a_check()
    lock = threading.Lock()  # `acquire` has no frame of its own: the pool's is the innermost

    def wait() -> None:
        lock.acquire()

    lock.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, wait if job == "python" else lock.acquire)
        with anyio.fail_after(5):
            try:
                while {leak.kind for leak in check.leaks()} != {"task", "thread"}:
                    await anyio.lowlevel.checkpoint()
            finally:
                lock.release()
    await check.asettle()


async def test_a_listening_and_a_connected_socket_are_seen() -> None:
    check = a_check()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0],
        pytest.raises(LeakError) as caught,
    ):
        await check.asettle()
    assert [leak.kind for leak in caught.value.leaks] == ["socket"] * 3
    await check.asettle()


def test_a_child_process_is_seen_until_it_is_waited_for() -> None:
    check = a_check()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.stdin
        with pytest.raises(LeakError, match=rf"process: {child.pid} .*input"):
            check.settle()
        child.stdin.close()
    check.settle()


async def test_a_straggler_is_seen_unless_it_is_allowed() -> None:
    check, lenient = a_check(), a_check("straggler")
    ended = stragglers.list_straggler(Work(kind="tool", name="stubborn", run_id="r1"))
    with pytest.raises(LeakError, match="straggler: tool stubborn of r1"):
        await check.asettle()
    await lenient.asettle()
    ended()
    await check.asettle()


async def test_an_idle_connection_to_a_provider_is_closed_and_a_busy_one_is_seen(
    provider: ProviderServer,
) -> None:
    check = a_check()
    model = OpenAIResponses("any", api_key="any", base_url=provider.base_url)
    request = ModelRequest(messages=[Message(role="user", content="Hello")])

    async def ignore(kind: str, text: str) -> None:
        pass

    async def ask() -> None:
        await model.respond(request, ignore)

    provider.reply(Text("Hello"))
    await ask()
    await check.asettle()
    async with anyio.create_task_group() as tasks:
        provider.reply(Hang())
        tasks.start_soon(ask)
        await provider.await_for_request(2)
        with pytest.raises(LeakError, match="socket"):
            await check.asettle()
        assert provider.open_requests == 1
        tasks.cancel_scope.cancel()
    await check.asettle()


def plant_in_the_loop_of_run() -> Callable[[], object]:
    """Leaves a task there, and returns what ends it."""
    releases: list[Callable[[], object]] = []

    async def plant() -> None:
        release = anyio.Event()
        current_loop().spawn(release.wait, name="forgotten", on_lost=lambda: None)
        releases.append(partial(current_loop().soon, release.set))

    visit_background_loop(plant)
    return releases[0]


def test_the_loop_of_run_is_looked_at_too(provider: ProviderServer) -> None:
    check = a_check()
    agent = Agent(model=OpenAIResponses("any", api_key="any", base_url=provider.base_url))
    agent.run("Hello").raise_for_status()
    check.settle()
    release = plant_in_the_loop_of_run()
    with pytest.raises(LeakError, match=r"task: .*forgotten"):
        check.settle()
    release()
    check.settle()


async def test_the_loop_of_run_is_looked_at_from_any_other(provider: ProviderServer) -> None:
    check = a_check()
    agent = Agent(model=OpenAIResponses("any", api_key="any", base_url=provider.base_url))
    output = await anyio.to_thread.run_sync(agent.run, "Hello")
    output.raise_for_status()
    await check.asettle()
    release = plant_in_the_loop_of_run()
    with pytest.raises(LeakError, match=r"task: .*forgotten"):
        await check.asettle()
    release()
    await check.asettle()


async def test_what_is_just_ending_is_waited_for() -> None:
    check = LeakCheck(patience=30)
    release = anyio.Event()
    current_loop().spawn(release.wait, name="ending", on_lost=lambda: None)
    assert check.leaks()
    release.set()
    await check.asettle()


@pytest.mark.virtual_time
async def test_waiting_in_virtual_time_lets_real_threads_end() -> None:
    check = LeakCheck(patience=30)
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    threading.Timer(0.05, release.set).start()
    await check.asettle()
    assert not thread.is_alive()


PLANTED = """
import threading, anyio, hypothesis, pytest
from kern_async.backend import current_loop

kept = []

@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_async_leak():
    current_loop().spawn(anyio.sleep_forever, name="forgotten", on_lost=lambda: None)

@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
@hypothesis.given(hypothesis.strategies.just(0))
async def test_given_leak(zero):
    current_loop().spawn(anyio.sleep_forever, name="forgotten", on_lost=lambda: None)

def test_sync_leak():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, daemon=True).start()

@pytest.mark.leaves("thread")
def test_named_leak():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, daemon=True).start()

def test_own_event_loop():
    for backend in ("asyncio", "trio"):
        anyio.run(anyio.to_thread.run_sync, int, backend=backend)

async def test_clean():
    await anyio.to_thread.run_sync(int)
"""


def test_every_test_is_looked_after(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_planted.py").write_text(PLANTED)
    command = [sys.executable, "-m", "pytest", "-c", str(pytestconfig.inipath), "-p", "no:cacheprovider"]
    command += [f"--rootdir={tmp_path}", "test_planted.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert {line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("ERROR ")} == {
        "ERROR test_planted.py::test_async_leak[trio]",
        "ERROR test_planted.py::test_given_leak[asyncio]",
        "ERROR test_planted.py::test_given_leak[trio]",
        "ERROR test_planted.py::test_sync_leak",
    }, done.stdout
    assert "9 passed, 4 errors" in done.stdout
