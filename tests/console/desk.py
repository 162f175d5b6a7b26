"""A server in a process of its own, with a model that says what a test scripts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from kern_async.testing import ProviderServer, Text, ToolCall
from kern_async.testing.replies import Steps
from kern_async.testing.request import Request

from ..as_a_user import environment

APP = Path(__file__).with_name("app.py")
TASKS = {"researcher": "Find sources.", "writer": "Write it.", "critic": "Doubt it."}
ANSWER = "The desk has its story."


def numbers(count: int = 100_000) -> list[str]:
    """Deltas of a text in which anything that is lost or doubled shows."""
    return [f"{n} " for n in range(count)]


def counts(text: str) -> int:
    """How many of them a text holds, whole and in order from the first."""
    words = text.split()
    assert words == [str(n) for n in range(len(words))], f"lost or doubled: {text[:200]} ... {text[-200:]}"
    return len(words)


class Desk:
    """`AgentOS` with the team Newsroom (Researcher, Writer, Critic), and the agents Clerk and Writer."""

    def __init__(self, provider: ProviderServer, folder: Path, *, path: str = "", **env: str) -> None:
        self.provider = provider
        self.path = path
        self.says: dict[str, Steps] = {}
        """What a model answers to a message that ends so."""
        self._database = folder / "desk.db"
        self._port = 0
        self._env = environment(**env)
        self._key = env.get("OS_SECURITY_KEY", "")
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self.path}"

    def start(self) -> None:
        command = [sys.executable, APP, self.provider.base_url, self._database, str(self._port), self.path]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._env)
        assert self._process.stdout is not None
        url = self._process.stdout.readline().strip()
        if not url:
            self.stop()
        assert url, "the server has not started"
        self._port = int(url.rpartition(":")[2])

    def stop(self) -> None:
        """As a service manager does."""
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = HttpRequest(self.url + path, data, headers, method=method)
        with urlopen(request, timeout=10) as response:
            return json.load(response)

    def clear(self) -> None:
        """End what a test has left running, and forget what the model was to say."""
        if self._process is not None:
            for status in ("RUNNING", "PENDING", "PAUSED"):
                self.ask("POST", "/runs/cancel", {"status": status, "wait": True})
        self.says.clear()
        self.provider.reset()
        self.provider.default = self._answer

    def _answer(self, request: Request) -> Steps:
        for message, steps in self.says.items():
            if request.last_text.endswith(message):
                return steps
        if "delegate_task_to_member" in request.tool_names:
            if any(item.get("type") == "function_call_output" for item in request.input):
                return Text(ANSWER)
            return [
                ToolCall("delegate_task_to_member", {"member_id": member, "task": task})
                for member, task in TASKS.items()
            ]
        return Text("Nothing to say.")
