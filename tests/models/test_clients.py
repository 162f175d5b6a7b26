from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import httpx2
import openai
import pytest

from kern_async.exceptions import ConfigurationError
from kern_async.models import clients
from kern_async.models.base import ModelRequest
from kern_async.models.clients import close_clients
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.run.message import Message
from kern_async.testing.provider import ProviderServer
from kern_async.testing.replies import Gate, Text

from .conftest import Ask, OpenAI

REQUEST = ModelRequest(messages=[Message(role="user", content="hello")])
Main = Callable[[], Coroutine[Any, Any, None]]


async def ignore(kind: str, text: str) -> None:
    pass


def run_on_uvloop(main: Main) -> None:
    anyio.run(main, backend_options={"use_uvloop": True})


def run_on_trio(main: Main) -> None:
    anyio.run(main, backend="trio")


def run_on_anyio(main: Main) -> None:
    anyio.run(main)


def run_on_asyncio(main: Main) -> None:
    asyncio.run(main())


@pytest.fixture
def loops() -> Callable[[], set[object]]:
    """The loops that have clients now and had none before: that of `run()` stays as long as the process."""
    before = set(clients._loops)
    return lambda: set(clients._loops) - before


RUNNERS = pytest.mark.parametrize("run", [run_on_asyncio, run_on_anyio, run_on_uvloop, run_on_trio])


@RUNNERS
def test_connections_are_closed_when_their_loop_ends(
    run: Callable[[Main], None], model: OpenAI, provider: ProviderServer, loops: Callable[[], set[object]]
) -> None:
    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        await model.respond(REQUEST, ignore)
        assert provider.open_connections == 1, "it is kept for the next request"
        assert len(anyio.get_running_tasks()) == tasks

    for _ in range(3):
        run(main)
        provider.wait_until(lambda: provider.open_connections == 0)
    gc.collect()
    assert not loops()


@RUNNERS
def test_connections_are_closed_when_their_loop_ends_in_an_error(
    run: Callable[[Main], None], model: OpenAI, provider: ProviderServer
) -> None:
    async def main() -> None:
        await model.respond(REQUEST, ignore)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)
    provider.wait_until(lambda: provider.open_connections == 0)


def test_one_model_serves_several_loops_at_once(model: OpenAI, provider: ProviderServer) -> None:
    runners = [run_on_asyncio, run_on_anyio, run_on_uvloop, run_on_trio]
    if model.transport == "aiohttp":
        runners.remove(run_on_trio)
    together = threading.Barrier(len(runners))
    failures: list[BaseException] = []

    def work(run: Callable[[Main], None]) -> None:
        async def main() -> None:
            together.wait()
            for _ in range(10):
                async with anyio.create_task_group() as group:
                    for _ in range(3):
                        group.start_soon(model.respond, REQUEST, ignore)

        try:
            run(main)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(provider.requests) == 30 * len(runners)
    provider.wait_until(lambda: provider.open_connections == 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_was_closed_without_care_is_let_go(
    model: OpenAI, provider: ProviderServer, loops: Callable[[], set[object]]
) -> None:
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(model.respond(REQUEST, ignore))
        loop.close()
        assert len(loops()) == 1
    run_on_asyncio(lambda: model.respond(REQUEST, ignore))  # pyright: ignore[reportArgumentType]
    gc.collect()
    assert not loops()
    provider.wait_until(lambda: provider.open_connections == 0)


async def test_models_of_one_configuration_share_their_connections(
    ask: Ask, provider: ProviderServer
) -> None:
    for kind in (OpenAIResponses, OpenAIChat, OpenAIResponses):
        await ask(kind("m", base_url=provider.base_url, api_key="k", temperature=0.5))
    assert provider.open_connections == 1
    await ask(OpenAIResponses("m", base_url=provider.base_url, api_key="another"))
    assert provider.open_connections == 2


async def test_many_streams_are_spread_over_clients_and_few_are_not(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    gate = Gate()
    provider.reply([Text("x"), gate], times=100)
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(ask, model)
        await provider.await_until(lambda: provider.open_requests == 100)
        of_loop = clients._of_this_loop()
        (of_endpoint,) = of_loop._by_endpoint.values()
        spread = [32, 32, 32, 4] if model.transport == "httpx" else [100]
        assert [shard.streams for shard in of_endpoint._shards] == spread
        gate.open()
    assert not any(shard.streams for shard in of_endpoint._shards)
    before = provider.open_connections
    for _ in range(5):
        await ask(model)
    assert provider.open_connections <= before


async def test_configurations_that_nobody_uses_are_closed_in_a_long_life(
    ask: Ask, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_ENDPOINTS_PER_LOOP", 3)
    gate = Gate()
    provider.reply([Text("x"), gate])
    async with anyio.create_task_group() as group:
        group.start_soon(ask, OpenAIResponses("m", base_url=provider.base_url, api_key="in use"))
        await provider.await_for_request()
        for key in range(10):
            await ask(OpenAIResponses("m", base_url=provider.base_url, api_key=f"key {key}"))
        await provider.await_until(lambda: provider.open_connections == 3)
        assert provider.open_requests == 1
        gate.open()


async def test_a_model_can_be_closed_early_and_used_again(
    model: OpenAI, ask: Ask, provider: ProviderServer
) -> None:
    await model.aclose()
    await ask(model)
    await model.aclose()
    await provider.await_until(lambda: provider.open_connections == 0)
    await ask(model)
    assert provider.open_connections == 1


async def test_a_close_is_whole_even_if_it_is_cancelled(
    model: OpenAI, ask: Ask, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(clients._STREAMS_PER_CLIENT, model.transport, 1)
    gate = Gate()
    provider.reply([Text("x"), gate], times=3)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask, model)
        await provider.await_for_request(3)
        gate.open()
    assert provider.open_connections == 3, "one for each client"
    with anyio.CancelScope() as scope:
        scope.cancel()
        await model.aclose()
    await provider.await_until(lambda: provider.open_connections == 0)


async def test_the_users_own_clients_are_used_and_stay_open(ask: Ask, provider: ProviderServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(headers={"x-mine": "http"}))
        model = OpenAIResponses("m", base_url=provider.base_url, api_key="k", http_client=http)
        own = await stack.enter_async_context(
            openai.AsyncOpenAI(
                base_url=provider.base_url,
                api_key="mine",
                default_headers={"x-mine": "openai"},
                max_retries=5,
            )
        )
        chat = OpenAIChat("m", client=own)
        for each in (model, chat, model):
            await ask(each)
            await each.aclose()
        await close_clients()
        told = [(r.headers["x-mine"], r.headers["authorization"]) for r in provider.requests]
        assert told == [("http", "Bearer k"), ("openai", "Bearer mine"), ("http", "Bearer k")]
        assert provider.open_connections == 2, "nobody closed them"
        assert not http.is_closed
    await provider.await_until(lambda: provider.open_connections == 0)


async def test_a_client_that_retries_does_not_retry_for_us(ask: Ask, provider: ProviderServer) -> None:
    from kern_async.testing.replies import Status

    provider.reply(Status(500))
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key="mine", max_retries=5) as own:
        with pytest.raises(Exception, match="500"):
            await ask(OpenAIResponses("m", client=own))
    assert len(provider.requests) == 1


async def test_the_aiohttp_transport_says_what_it_needs(
    anyio_backend_name: str, ask: Ask, monkeypatch: pytest.MonkeyPatch, provider: ProviderServer
) -> None:
    with pytest.raises(ConfigurationError, match="'curl': it is one of 'httpx', 'aiohttp'"):
        OpenAIChat("m", transport="curl")  # pyright: ignore[reportArgumentType]
    model = OpenAIChat("m", transport="aiohttp", base_url=provider.base_url, api_key="k")
    if anyio_backend_name == "trio":
        with pytest.raises(ConfigurationError, match="asyncio's event loops only"):
            await ask(model)
    else:
        await ask(model)
        assert provider.requests[-1].headers["user-agent"].startswith("AsyncOpenAI/")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kern-async\[aiohttp\]'"):
        OpenAIChat("m", transport="aiohttp")
