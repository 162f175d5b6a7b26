"""An `AgentOS` on a real port, in a thread of its own, with clients in the test's.

`crew` makes agents and teams with a scripted provider; `serve` serves them until the test ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import pytest

from kern_async.os import AgentOS
from kern_async.testing import ProviderServer

from ..agent.crew import Crew

Serve = Callable[..., httpx2.Client]


@pytest.fixture
def crew(provider: ProviderServer) -> Crew:
    return Crew(provider)


@contextmanager
def served(agent_os: AgentOS, **options: Any) -> Generator[str]:
    """Serve on a free port; gives the URL."""
    ready = threading.Event()
    urls: list[str] = []
    failed: list[BaseException] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    def main() -> None:
        try:
            agent_os.serve(host="127.0.0.1", port=0, on_ready=on_ready, **options)
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="served")
    thread.start()
    try:
        assert ready.wait(10)
        assert urls, failed
        yield urls[0]
    finally:
        agent_os.stop(0)
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Generator[Serve]:
    """Serve an `AgentOS`, and give a client of it."""
    with ExitStack() as stack:

        def start(agent_os: AgentOS, **options: Any) -> httpx2.Client:
            url = stack.enter_context(served(agent_os, **options))
            return stack.enter_context(httpx2.Client(base_url=url, timeout=10))

        yield start
