"""Starting servers in processes of their own, and clients of many kinds."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2

from kern_async.testing import ProviderServer

from ..as_a_user import environment
from .hosted import OPTIONS

ROOT = Path(__file__).parents[2]
BUSY = 2.0
"""Seconds more that a process may take to exit where others want the processors, too."""


class Host:
    """A server's process, and a client of it. `prefix` is where the `AgentOS` is mounted."""

    def __init__(self, process: subprocess.Popen[str], url: str, prefix: str) -> None:
        self.process = process
        self.url = url
        self.prefix = prefix
        self.client = httpx2.Client(
            base_url=url + prefix, timeout=20, limits=httpx2.Limits(max_connections=None)
        )
        self._signalled = 0.0

    def signal(self, number: signal.Signals) -> None:
        self._signalled = self._signalled or time.monotonic()
        self.process.send_signal(number)

    def ended(self, within: float) -> int:
        """The exit code of the process, which ends so many seconds after its first signal, and complains of nothing."""
        code = self.process.wait(max(0.0, self._signalled + within + BUSY - time.monotonic()))
        assert self.process.stderr is not None
        complaints = [
            line
            for line in self.process.stderr.read().splitlines()
            if not re.match(r"INFO|server\.|run\.interrupted|Executing <", line)
        ]
        assert not complaints
        return code

    def post(self, path: str, **fields: Any) -> httpx2.Response:
        return self.client.post(
            f"/{path}/runs",
            data={"message": "Go.", "stream": "false", "timeout": "0.001", **fields},
        )

    def get(self, path: str, run_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/{path}/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def stream(self, path: str, run_id: str, **fields: Any) -> Generator[httpx2.Response]:
        """The stream of a new run; it stays open and is read when the test reads it."""
        data = {"message": "Go.", "run_id": run_id, **fields}
        with self.client.stream("POST", f"/{path}/runs", data=data) as response:
            assert response.status_code == 200, response.read()
            yield response

    @contextmanager
    def never_reads(self, path: str, run_id: str) -> Generator[socket.socket]:
        """The connection of a client that starts a run and takes nothing of its stream but the first bytes."""
        address = urlsplit(self.url)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(10)
            connection.connect((address.hostname, address.port))
            body = urlencode({"message": "Go.", "run_id": run_id})
            head = (
                f"POST {self.prefix}/{path}/runs HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall((head + body).encode())
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            yield connection


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """What is left of a stream, to its end."""
    frames = response.read().decode().split("\n\n")
    assert frames.pop() == "", "a frame is cut"
    return [json.loads(frame.split("data: ", 1)[1]) for frame in frames if not frame.startswith(":")]


@contextmanager
def served(
    provider: ProviderServer, *, uvicorn: tuple[str, ...] | None = None, **options: Any
) -> Generator[Host]:
    """`serve()` in a process of its own, or with `uvicorn`, a plain one with these arguments that serves a host."""
    given = json.dumps(options)
    python = [sys.executable, "-X", "dev", "-W", "error", "-m"]
    command = [*python, "tests.os.hosted", given]
    if uvicorn is not None:
        command = [*python, "uvicorn", "tests.os.hosted:app", "--port", "0", *uvicorn]
    env = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "test"}
    if uvicorn is not None:
        env[OPTIONS] = given
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        hung = threading.Timer(50, process.kill)
        hung.start()
        try:
            host = Host(process, _url(process, uvicorn is not None), "" if uvicorn is None else "/os")
            with host.client:
                yield host
        finally:
            hung.cancel()
            hung.join()
            process.kill()


def _url(process: subprocess.Popen[str], told_in_log: bool) -> str:
    pipe = process.stderr if told_in_log else process.stdout
    assert pipe is not None
    for line in pipe:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError(process.stderr.read() if process.stderr is not None else "")
