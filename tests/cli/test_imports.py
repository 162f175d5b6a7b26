"""Naming an object on the command line: what cannot be found or fails is one line, exit 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kern_async.testing import ProviderServer, Text

from ..as_a_user import environment
from .conftest import Cli, one_line


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:solo", "no module 'nowhere'"),
        ("play.nowhere:solo", "no module 'play.nowhere'"),
        ("nowhere.py:solo", "no file nowhere.py"),
        ("some/where.py:solo", "no file some/where.py"),
        ("play:nobody", "play has no 'nobody'; there is play:solo, play:storytelling_team, play:clerk"),
        ("play:solo.nobody", "play has no 'solo.nobody'"),
        ("play", "which object of play? there is play:solo, "),
        ("play:", "which object of play?"),
        ("play:number", "play:number is of type int, not an Agent or a Team"),
        ("play:make", "play:make is a function, make(), not an Agent or a Team"),
        ("play:Agent", "play:Agent is the class Agent, not an object of it"),
        (":solo", "'' is no name of a module; give module:name"),
        (".:solo", "'.' is no name of a module"),
        ("a b:solo", "'a b' is no name of a module"),
        ("", "'' is no name of a module"),
    ],
)
def test_what_is_not_there_is_one_line(cli: Cli, target: str, said: str) -> None:
    done = cli("run", target, "Go.")
    assert (done.code, done.out) == (2, "")
    assert said in one_line(done.err)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nsolo = nobody\n", "broken.py:2: NameError: name 'nobody' is not defined"),
        (
            "import nothing_like_this\n",
            "broken.py:1: ModuleNotFoundError: No module named 'nothing_like_this'",
        ),
        ("solo = (\n", "broken.py:1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit('no')\n", "broken.py:2: SystemExit: no"),
        ("from kern_async import Agent\nsolo = Agent(title='x')\n", "broken.py:2: TypeError:"),
        (
            "from kern_async import Team\n\nteam = Team([])\n",
            "broken.py:3: kern_async.exceptions.ConfigurationError:",
        ),
        ("raise ValueError('two\\nlines')\n", "broken.py:1: ValueError: two lines"),
    ],
)
@pytest.mark.parametrize("target", ["broken:solo", "broken.py:solo"])
def test_a_module_that_fails_says_where_and_why(
    cli: Cli, stage: Path, code: str, said: str, target: str
) -> None:
    (stage / "broken.py").write_text(code)
    done = cli("run", target, "Go.")
    assert (done.code, done.out) == (2, "")
    line = one_line(done.err)
    assert said in line
    assert line.endswith("(--debug shows the whole traceback)")


def test_debug_shows_the_whole_traceback(stage: Path) -> None:
    (stage / "broken.py").write_text("def f():\n    return nobody\n\nf()\n")
    done = subprocess.run(
        [sys.executable, "-m", "kern_async", "run", "broken:solo", "Go.", "--debug"],
        env=environment(),
        cwd=stage,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "line 4, in <module>" in done.stderr
    assert done.stderr.endswith(
        "kern-async: broken cannot be imported: broken.py:2: NameError: name 'nobody' is not defined\n"
    )


def test_a_file_is_run_with_what_lies_beside_it(cli: Cli, stage: Path, provider: ProviderServer) -> None:
    provider.default = Text("Here.")
    place = stage / "elsewhere"
    place.mkdir()
    (place / "beside.py").write_text("NAME = 'Solo'\n")
    (place / "wave.py").write_text(  # a name of the standard library's
        "from beside import NAME\nfrom kern_async import Agent\nfrom kern_async.models.openai import OpenAIResponses\n"
        "class Box:\n    solo = Agent(name=NAME, model=OpenAIResponses('model'))\n"
    )
    assert cli("run", "elsewhere/wave.py:Box.solo", "Go.").out == "Here.\n"
    assert str(stage) not in str(getattr(sys.modules.get("wave"), "__file__", ""))
