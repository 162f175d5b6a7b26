from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kern_async.cli import main
from kern_async.testing.provider import ProviderServer

from ..as_a_user import environment
from .fake import FakeServer

PLAY = """
    from kern_async import Agent, Team, tool
    from kern_async.models.openai import OpenAIResponses
    from kern_async.team import TeamMode

    model = OpenAIResponses("model", max_retries=0)
    solo = Agent(name="Solo", model=model)
    members = [Agent(name="StorytellerAgent", model=model), Agent(name="EditorAgent", model=model)]
    storytelling_team = Team(name="Storytelling Team", members=members, model=model, mode=TeamMode.broadcast)

    @tool(requires_confirmation=True)
    def pay(amount: int) -> str:
        return "paid"

    clerk = Agent(name="Clerk", model=model, tools=[pay])
    number = 7

    def make() -> Agent:
        return solo
"""


def write_play(place: Path) -> None:
    (place / "play.py").write_text(textwrap.dedent(PLAY))


@dataclass
class Result:
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: ProviderServer) -> Generator[Path]:
    """The current directory, with a module `play` whose model is the provider."""
    write_play(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    for name in ("KERN_ASYNC_URL", "OS_SECURITY_KEY", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls a command in this process."""

    def call(*arguments: str) -> Result:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err, "no colours but on a terminal"
        assert "Traceback" not in err
        return Result(int(code), out, err)

    return call


@pytest.fixture
def fake() -> Generator[FakeServer]:
    with FakeServer() as server:
        yield server


@dataclass
class Started:
    """A command in a process of its own."""

    process: subprocess.Popen[str]
    url: str = ""
    log: str = ""

    def line(self, pattern: str) -> str:
        """Read stdout to the line in which this is found."""
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if re.search(pattern, line):
                return line
        raise AssertionError(f"{pattern!r} did not come: {seen}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def end(self) -> Result:
        out, err = self.process.communicate(timeout=20)
        assert "Traceback" not in err, err
        return Result(self.process.returncode, out, err)


@pytest.fixture
def start(stage: Path) -> Generator[Callable[..., Started]]:
    """Starts a command in a process of its own, with warnings as errors."""
    started: list[Started] = []

    def call(*arguments: str, **more: str) -> Started:
        started.append(launch(stage, *arguments, **more))
        return started[-1]

    yield call
    for each in started:
        each.kill()


def launch(cwd: Path, *arguments: str, **more: str) -> Started:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "kern_async", *arguments],
        env=environment(**{"PYTHONIOENCODING": "utf-8"} | more),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Started(process)


def one_line(text: str) -> str:
    """The one line that this is."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.strip()
