from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from kern_async import RunContext
from kern_async.tools import Toolkit
from kern_async.tools.mcp import MCPTools

from ..as_a_user import environment

SERVERS = Path(__file__).parent / "mcp_servers"


class OldServer:
    """How to start the hand-made server, and what it wrote."""

    def __init__(self, record: Path) -> None:
        self.record = record
        self.env = {"RECORD": str(record)}

    def command(self, mood: str = "") -> list[str]:
        return [sys.executable, "-S", "-E", str(SERVERS / "old.py"), mood]

    def facts(self, key: str) -> list[Any]:
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [fact[key] for line in lines if key in (fact := json.loads(line))]

    async def fact(self, key: str) -> Any:
        """The next fact of this kind, when it is there."""
        return (await until(lambda: self.facts(key)))[-1]


async def until(look: Callable[[], Any], seconds: float = 5) -> Any:
    """Look at another process until there is something to see."""
    with anyio.fail_after(seconds):
        while not (seen := look()):  # noqa: ASYNC110 - another process has no events for us
            await anyio.sleep(0.005)
    return seen


def is_alive(pid: int) -> bool:
    """Whether a process is there and runs: one that has ended and was not waited for by its init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_stale(tools: MCPTools) -> bool:
    """Whether the server has announced other tools, which the next run loads."""
    return any(session.stale for session in tools._alive)


def context(reports: list[Any] | None = None) -> RunContext:
    class Link:
        stopping = False

        def report(self, content: Any, tool_call_id: str | None) -> None:
            if reports is not None:
                reports.append(content)

    link: Any = Link()
    return RunContext(run_id="run", session_id="session", link=link)


async def use(kit: Toolkit, tool: str, arguments: str = "{}", *, reports: list[Any] | None = None) -> str:
    """Call a tool as a run does."""
    functions = await kit.load()
    call: Callable[[], Awaitable[str]] = functions[tool].bind(arguments, context(reports)).call
    return await call()


@pytest.fixture
def old(tmp_path: Path) -> OldServer:
    return OldServer(tmp_path / "record")


@pytest.fixture
def sdk_stdio() -> list[str]:
    return [sys.executable, str(SERVERS / "sdk.py"), "stdio"]


class HttpServer:
    """The SDK's server over HTTP, in a process."""

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, str(SERVERS / "sdk.py"), self.transport, str(self.port)]
        self._process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{'sse' if self.transport == 'sse' else 'mcp'}"


@pytest.fixture(params=["streamable-http", "sse"])
def http(request: pytest.FixtureRequest) -> Generator[HttpServer]:
    server = HttpServer(request.param)
    server.start()
    yield server
    server.kill()


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, with everything that Python warns of as an error."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
