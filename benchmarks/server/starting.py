"""The processes of a server and its provider."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import psutil

from benchmarks.children import QUIET
from benchmarks.client import Server
from benchmarks.machine import loop_factory
from benchmarks.provider import ROOT, Provider, provider
from benchmarks.server.amount import Scale

SERVERS = ROOT / "benchmarks" / "servers"
NEEDED = (
    "agno==3.1.10",
    "aiosqlite",
    "fastapi",
    "httptools",
    "openai",
    "pyjwt",
    "python-multipart",
    "sqlalchemy[asyncio]",
    "uvicorn",
    "uvloop",
)
"""What the reference's server is installed from."""

T = TypeVar("T")
At = Callable[[float], contextlib.AbstractContextManager[tuple[Server, Provider]]]
"""A server and a provider that says a word each so many seconds."""


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


def serving(command: list[str], scale: Scale) -> At:
    """Starts such a server, and a provider for it."""

    @contextlib.contextmanager
    def at(interval: float) -> Generator[tuple[Server, Provider]]:
        with (
            tempfile.TemporaryDirectory() as directory,
            provider() as asked,
            process([*command, asked.url, directory, str(interval), str(scale.words)], QUIET) as (url, child),
        ):
            yield Server(url, psutil.Process(child.pid)), asked

    return at


@contextlib.contextmanager
def process(
    command: list[str], environment: dict[str, str] | None = None
) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """A child, and the URL that it says it has."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {})},
    ) as child:
        try:
            assert child.stdout is not None
            url = next((line.strip() for line in child.stdout if line.startswith("http")), None)
            assert url is not None, command
            yield url, child
        finally:
            child.kill()
