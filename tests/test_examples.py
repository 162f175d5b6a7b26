"""The examples, as a user runs them: each in a process of its own, against a provider on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from kern_async.testing import Forever, Gate, ProviderServer, Request, Stall, Text, ToolCall

from .as_a_user import environment

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
AT_ONCE = 5.0
"""Seconds that a process may take to exit after its last word, on a busy machine."""
PATIENCE = 30.0
"""Seconds until an example that does not end is killed."""

pytestmark = pytest.mark.slow


@contextmanager
def example(
    name: str, provider: ProviderServer, seconds: float | None = None, *arguments: str
) -> Generator[subprocess.Popen[str]]:
    """The running example; every warning in it is an error, and `seconds` is its delay or deadline."""
    options = {} if seconds is None else {"SECONDS": str(seconds)}
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *arguments],
        env=environment(
            OPENAI_BASE_URL=provider.base_url, OPENAI_API_KEY="test", PYTHONIOENCODING="utf-8", **options
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        hung = threading.Timer(PATIENCE, process.kill)
        hung.start()
        try:
            yield process
        finally:
            hung.cancel()
            hung.join()
            process.kill()


def until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints until it has printed `text`."""
    assert process.stdout is not None
    shown = ""
    while not shown.endswith(text):
        character = process.stdout.read(1)
        assert character, shown
        shown += character
    return shown


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def rest_of(
    process: subprocess.Popen[str],
    provider: ProviderServer,
    *,
    exit_code: int = 0,
    logs: str | tuple[str, ...] = (),
) -> str:
    """What it still prints; it must end at once after that, well, and with no request open.

    Of what it logs only lines that begin with one of `logs` are in order.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    last = time.perf_counter()
    for line in process.stdout:
        lines.append(line)
        last = time.perf_counter()
    process.wait(10)
    took = time.perf_counter() - last
    # asyncio's debug mode tells of every slow step, and on a busy machine any is.
    well = ("Executing <", *((logs,) if isinstance(logs, str) else logs))
    complaints = [line for line in process.stderr if not line.startswith(well)]
    assert not complaints
    assert process.returncode == exit_code, "".join(lines)
    assert took < AT_ONCE, "a process whose work is done does not wait for runs"
    provider.wait_until(lambda: provider.open_requests == 0, timeout=1)
    return "".join(lines)


def run(name: str, provider: ProviderServer, seconds: float | None = None, *arguments: str) -> str:
    with example(name, provider, seconds, *arguments) as process:
        return rest_of(process, provider)


def outcomes(provider: ProviderServer) -> list[str | None]:
    return [request.outcome for request in provider.requests]


def kept(shown: str) -> int:
    found = re.search(r"^kept: (\d+) characters$", shown, re.MULTILINE)
    assert found, shown
    return int(found[1])


def asked(request: Request) -> bool:
    """Whether it is the first turn of somebody who has a tool."""
    return bool(request.tool_names) and request.input[-1].get("role") == "user"


def delegate(*members: str) -> list[Text | ToolCall]:
    calls = [ToolCall("delegate_task_to_member", {"member_id": member, "task": "Go."}) for member in members]
    return [Text("I ask them. "), *calls]


# The seed: a streamed team run in one thread, cancelled from another one.


def test_the_seed_cancelled_says_success_and_its_process_ends_at_once(provider: ProviderServer) -> None:
    provider.reply(delegate("storytelleragent", "editoragent"), when=asked)
    provider.default = Forever("word ", 0.002)
    shown = run("team_run_cancellation.py", provider, seconds=0.3)
    cancelling = re.search(r"cancelling run ([0-9a-f]{32})", shown, re.MULTILINE)
    assert cancelling, shown
    assert "it will end cancelled" in shown
    assert re.search(r"^status: cancelled \((Team)?RunCancelled\)$", shown, re.MULTILINE)
    assert shown.endswith("SUCCESS: the team's run was cancelled\n")
    assert len(provider.requests) <= 3, "nothing was asked of the model after the cancel"
    assert set(outcomes(provider)[1:]) <= {"disconnected"}


def test_the_seed_left_alone_completes(provider: ProviderServer) -> None:
    provider.reply(delegate("storytelleragent"), when=asked)
    provider.reply(Text("A dragon wrote code."), when=lambda request: not request.tool_names)
    provider.reply(Text("The end."))
    shown = run("team_run_cancellation.py", provider, seconds=60)
    assert "A dragon wrote code." in shown
    assert "status: completed (TeamRunCompleted)" in shown
    assert "SUCCESS" not in shown
    assert outcomes(provider) == ["completed"] * 3


def test_the_seed_against_a_provider_that_never_speaks_is_cancelled_too(provider: ProviderServer) -> None:
    provider.default = Stall()
    shown = run("team_run_cancellation.py", provider, seconds=0.1)
    assert "status: cancelled (TeamRunCancelled)\ntext: 0 characters\nSUCCESS" in shown
    assert set(outcomes(provider)) <= {"disconnected"}


# The others.


def test_cancel_from_a_task(provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run("cancel_from_a_task.py", provider, seconds=0.1)
    assert "acancel_run returned True; the run is live: False" in shown
    assert "CANCELLED, by request: the user pressed stop" in shown
    assert kept(shown) == len("word ") * shown.count("word ") > 0
    assert outcomes(provider) == ["disconnected"]


def test_cancel_from_a_task_that_comes_too_late(provider: ProviderServer) -> None:
    provider.default = Text("Short.")
    shown = run("cancel_from_a_task.py", provider, seconds=60)
    assert "COMPLETED, by None" in shown
    assert kept(shown) == len("Short.")


def test_cancel_from_a_tool(provider: ProviderServer) -> None:
    provider.reply([ToolCall("transfer", {"account": "C-17", "amount": 100})])
    shown = run("cancel_from_a_tool.py", provider)
    assert "CANCELLED: account C-17 is frozen" in shown
    assert "transfer {'account': 'C-17', 'amount': 100.0}: cancelled" in shown
    assert "model requests: 1" in shown
    assert len(provider.requests) == 1


def test_cancel_from_a_tool_that_sees_no_reason_to(provider: ProviderServer) -> None:
    provider.reply([ToolCall("transfer", {"account": "C-3", "amount": 20})])
    provider.reply(Text("Sent."))
    shown = run("cancel_from_a_tool.py", provider)
    assert "COMPLETED: Sent." in shown
    assert "20.0 euros were sent to C-3." in shown
    assert "model requests: 2" in shown


def test_asyncio_timeout(provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run("asyncio_timeout.py", provider, seconds=1)
    assert "\nTimeoutError\nCANCELLED, by caller\n" in shown
    assert kept(shown) >= len("word ") * shown.count("word ")
    assert outcomes(provider) in (["disconnected"], [])


def test_asyncio_timeout_that_is_long_enough(provider: ProviderServer) -> None:
    provider.default = Text("Short.")
    shown = run("asyncio_timeout.py", provider, seconds=60)
    assert "TimeoutError" not in shown
    assert "COMPLETED, by None\nkept: 6 characters" in shown


def test_deadline(provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run("deadline.py", provider, seconds=1.5)
    assert shown.startswith("CANCELLED by deadline: timeout of 1.5 s\n")
    assert len(re.findall(r"^  CANCELLED: \d+ characters$", shown, re.MULTILINE)) == 2
    assert "interrupted: member " in shown
    assert "(estimated)" in shown
    assert set(outcomes(provider)) <= {"disconnected"}


def test_deadline_that_is_long_enough(provider: ProviderServer) -> None:
    provider.default = Text("Yes.")
    shown = run("deadline.py", provider, seconds=60)
    assert shown.startswith("COMPLETED")
    assert shown.count("  COMPLETED: 4 characters") == 2
    assert "interrupted: nothing" in shown


def is_talker(request: Request) -> bool:
    return "Never come to an end" in request.text


def test_one_member_only(provider: ProviderServer) -> None:
    provider.reply(Forever("words and ", 0.002), when=is_talker)
    provider.reply(
        Text("Time flows."), when=lambda request: "one sentence" in request.text and leading(request)
    )
    provider.default = Text("It is a river.")
    shown = run("one_member_only.py", provider)
    assert "cancelling the Talker after 200 characters" in shown
    assert "Talker was cancelled: it talks too much" in shown
    assert "Thinker completed: It is a river." in shown
    assert "The team completed: Time flows." in shown
    assert sorted(map(str, outcomes(provider))) == ["completed", "completed", "disconnected"]


def leading(request: Request) -> bool:
    return "Sum up" in request.text


def test_one_member_only_that_is_brief(provider: ProviderServer) -> None:
    provider.default = Text("Brief.")
    shown = run("one_member_only.py", provider)
    assert "cancel" not in shown
    assert "Talker completed: Brief." in shown
    assert "The team completed: Brief." in shown


def test_nested_teams(provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run("nested_teams.py", provider, seconds=0.1)
    ends = re.findall(r"^cancelled: (.+)$", shown, re.MULTILINE)
    assert sorted(ends) == ["Illustrator", "Novelist", "Poet", "Publishing House", "Writers"]
    assert ends[-1] == "Publishing House"
    assert ends.index("Writers") > max(ends.index("Poet"), ends.index("Novelist"))
    assert "\nPublishing House: CANCELLED by request, 0 characters\n  Writers: CANCELLED by parent" in shown
    assert outcomes(provider) == ["disconnected"] * 3


def test_nested_teams_left_alone(provider: ProviderServer) -> None:
    provider.default = Text("Waves.")
    shown = run("nested_teams.py", provider, seconds=60)
    assert shown.startswith("Publishing House: COMPLETED, 6 characters\n  Writers: COMPLETED")
    assert len(provider.requests) == 5


def test_plain_script(provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run("plain_script.py", provider)
    assert "CANCELLED by consumer" in shown
    assert kept(shown) >= 300
    assert outcomes(provider) == ["disconnected"]


def test_plain_script_of_a_short_story(provider: ProviderServer) -> None:
    provider.default = Text("The end.")
    shown = run("plain_script.py", provider)
    assert "\nCOMPLETED" in shown
    assert kept(shown) == len("The end.")


def test_plain_script_and_ctrl_c(provider: ProviderServer) -> None:
    provider.default = [Text("Once "), Stall()]
    with example("plain_script.py", provider) as process:
        assert process.stdout is not None
        assert process.stdout.read(len("Once ")) == "Once "
        process.send_signal(signal.SIGINT)
        shown = rest_of(process, provider, exit_code=130)
    # The signal comes while it waits for an event, or in the body of its loop.
    assert re.search("CANCELLED by (caller|consumer)$", shown, re.MULTILINE)
    assert kept(shown) == len("Once ")
    assert outcomes(provider) == ["disconnected"]


MAIL = {"to": "ann@example.org", "text": "At ten."}


def office(provider: ProviderServer) -> None:
    provider.reply([ToolCall("delegate_task_to_member", {"member_id": "clerk", "task": "Mail."})], when=asked)
    provider.reply([Text("I write. "), ToolCall("send_mail", MAIL)], when=asked)
    provider.reply(Text("Sent."), when=lambda request: "The mail to ann" in request.last_text)
    provider.reply(Text("Refused."), when=lambda request: "does not want" in request.last_text)
    provider.reply(Text("That is all."))


def test_ask_first_with_a_yes(provider: ProviderServer) -> None:
    office(provider)
    shown = run("ask_first.py", provider, None, "--yes")
    assert shown.startswith(
        "Clerk wants send_mail({'to': 'ann@example.org', 'text': 'At ten.'}). Allow it? yes"
    )
    assert "(sent to ann@example.org)" in shown
    assert "COMPLETED: That is all." in shown
    assert "I write. Sent." in provider.requests[-1].last_text
    assert len(provider.requests) == 4


def test_ask_first_with_a_no(provider: ProviderServer) -> None:
    office(provider)
    shown = run("ask_first.py", provider, None, "--no")
    assert "(sent" not in shown
    assert "COMPLETED: That is all." in shown
    assert "the user does not want this mail to be sent" in provider.requests[2].last_text


def test_ask_first_in_the_terminal(provider: ProviderServer) -> None:
    office(provider)
    with example("ask_first.py", provider) as process:
        assert process.stdin is not None
        process.stdin.write("y\n")
        process.stdin.close()
        shown = rest_of(process, provider)
    assert "Allow it? [y/n] (sent to ann@example.org)" in shown
    assert "COMPLETED" in shown


def test_stop_gently(provider: ProviderServer) -> None:
    go_on = threading.Event()
    provider.default = [Text("Once "), Gate(go_on), Text("upon a time.")]
    with example("stop_gently.py", provider) as process:
        assert process.stdout is not None
        assert process.stdout.read(len("Once ")) == "Once "
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "\n"
        assert process.stdout.readline() == "[finishing this answer; Ctrl-C again to stop at once]\n"
        go_on.set()
        shown = rest_of(process, provider)
    assert "upon a time.\nCANCELLED by request: Ctrl-C\ninterrupted: nothing\n" in shown
    assert kept(shown) == len("Once upon a time.")
    assert outcomes(provider) == ["completed"]


def test_stop_gently_and_then_at_once(provider: ProviderServer) -> None:
    provider.default = [Text("Once "), Stall()]
    with example("stop_gently.py", provider) as process:
        assert process.stdout is not None
        assert process.stdout.read(len("Once ")) == "Once "
        process.send_signal(signal.SIGINT)
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        shown = rest_of(process, provider)
    assert "[stopping now]\n\nCANCELLED by request: Ctrl-C\ninterrupted: model\n" in shown
    assert kept(shown) == len("Once ")
    assert outcomes(provider) == ["disconnected"]


def test_limits(provider: ProviderServer) -> None:
    provider.reply(
        [ToolCall("delegate_task_to_member", {"member_id": "clerk", "task": "Prices."})], when=asked
    )
    provider.reply(
        [ToolCall("price_of", {"fruit": fruit}) for fruit in ("apple", "pear", "plum")], when=asked
    )
    shown = run("limits.py", provider)
    assert shown.count("looking up: ") == 2
    assert "CANCELLED by limit: limit of 3 tool calls" in shown
    assert "  price_of {'fruit': 'apple'}: 2\n  price_of {'fruit': 'pear'}: 3\n" in shown
    assert "model requests: 2, tool calls: 3" in shown
    assert len(provider.requests) == 2


def test_limits_that_are_wide_enough(provider: ProviderServer) -> None:
    provider.default = Text("Six euros.")
    shown = run("limits.py", provider)
    assert shown.startswith("COMPLETED")
    assert "said: Six euros." in shown


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_kill_a_process_tool(provider: ProviderServer) -> None:
    provider.reply([ToolCall("count_for_ever"), ToolCall("sleep_in_a_shell")])
    shown = run("kill_a_process_tool.py", provider)
    assert "running: True" in shown
    assert "CANCELLED; left running: []" in shown
    assert "interrupted: count_for_ever, sleep_in_a_shell" in shown


def test_kill_a_process_tool_that_nobody_calls(provider: ProviderServer) -> None:
    provider.default = Text("I will not.")
    assert run("kill_a_process_tool.py", provider) == "COMPLETED; left running: []\n"


def test_steer(provider: ProviderServer) -> None:
    provider.reply([ToolCall("search", {"topic": "the sea"})])
    provider.reply(Text("Under Sail."), when=lambda request: "Only books about sailing" in request.last_text)
    shown = run("steer.py", provider)
    assert "the message was taken: True" in shown
    assert "COMPLETED: Under Sail." in shown
    assert shown.count("heard: ") == 2
    assert "a message after the end is taken: False" in shown


def test_mcp_server(provider: ProviderServer) -> None:
    provider.reply(ToolCall("clock_server_pid"))
    provider.reply(ToolCall("clock_wait", {"seconds": 3600}))
    shown = run("mcp_server.py", provider)
    assert "the server has: clock_server_pid, clock_wait\nwaiting for 3600 s\n" in shown
    assert "CANCELLED: nobody waits that long" in shown
    assert "clock_wait {'seconds': 3600}: cancelled" in shown
    server = re.search(r"clock_server_pid {}: (\d+)$", shown, re.MULTILINE)
    assert server
    with pytest.raises(ProcessLookupError):
        os.kill(int(server[1]), 0)
    assert len(provider.requests) == 2


def conversation(request: Request) -> list[str]:
    """What was said in it, by whomever."""
    return [str(item.get("content") or item.get("output")) for item in request.input]


def test_chat_is_stopped_goes_on_and_remembers(provider: ProviderServer, tmp_path: Path) -> None:
    provider.reply([Text("Once upon "), Stall()])
    provider.reply(Text("a time."))
    provider.reply(Text("Moss."))
    file = str(tmp_path / "chat.db")
    with example("chat.py", provider, None, file) as process:
        until(process, "Ctrl-D leaves.]\n> ")
        say(process, "Tell a story about Moss.")
        until(process, "Once upon ")
        process.send_signal(signal.SIGINT)
        assert until(process, "> ") == '\n[stopped: 10 characters are kept, "go on" continues]\n> '
        say(process, "go on")
        assert until(process, "> ") == "Once upon a time.\n> ", "what was kept is shown, and not said again"
        assert process.stdin is not None
        process.stdin.close()
        assert rest_of(process, provider) == "\n"
    assert "Once upon " in conversation(provider.requests[1])[-2]
    with example("chat.py", provider, None, file) as process:
        assert until(process, "> ") == "[1 turn remembered; the last one:]\n> "
        assert until(process, "> ") == "Tell a story about Moss.\nOnce upon a time.\n> "
        say(process, "What was it about?")
        assert until(process, "> ") == "Moss.\n> "
        assert process.stdin is not None
        process.stdin.close()
        rest_of(process, provider)
    told = " ".join(conversation(provider.requests[2]))
    assert "Tell a story about Moss." in told
    assert "Once upon " in told
    assert "a time." in told
    assert outcomes(provider) == ["disconnected", "completed", "completed"]


def test_chat_goes_on_with_an_answer_that_another_process_was_stopped_in(
    provider: ProviderServer, tmp_path: Path
) -> None:
    provider.reply([Text("Once upon "), Stall()])
    provider.reply(Text("a time."))
    file = str(tmp_path / "chat.db")
    with example("chat.py", provider, None, file) as process:
        say(process, "Tell a story.")
        until(process, "Once upon ")
        process.send_signal(signal.SIGINT)
        until(process, "continues]\n> ")
        assert process.stdin is not None
        process.stdin.close()
        rest_of(process, provider)
    with example("chat.py", provider, None, file) as process:
        until(process, '[stopped: 10 characters are kept, "go on" continues]\n> ')
        say(process, "Go on")
        assert until(process, "> ") == "Once upon a time.\n> "
        assert process.stdin is not None
        process.stdin.close()
        rest_of(process, provider)


def test_background(provider: ProviderServer) -> None:
    provider.default = Forever("word ", 0.002)
    shown = run("background.py", provider)
    assert shown.startswith("begun: PENDING\nword ")
    assert "word \n(looking away)\nword " in shown
    assert "acancel_run returned True\nCANCELLED by request: long enough\n" in shown
    assert kept(shown) >= len("word ") * shown.count("word ") == 1000
    assert outcomes(provider) == ["disconnected"]


def test_background_that_ends_before(provider: ProviderServer) -> None:
    provider.default = Text("Short.")
    shown = run("background.py", provider)
    assert "acancel_run returned False\nCOMPLETED\nkept: 6 characters\n" in shown


def test_continue_after_crash(provider: ProviderServer) -> None:
    provider.reply(ToolCall("measure", {"place": "cellar"}))
    provider.reply(Forever("word ", 0.002))
    provider.reply(Text("The end."))
    with example("continue_after_crash.py", provider) as process:
        shown = rest_of(process, provider, logs="run.interrupted")
    assert shown.count("(measuring: cellar)") == 1
    assert "the child ended with -9\nfound: ERROR Interrupted: " in shown
    found = re.search(r"^kept: (\d+) characters, \['cellar: 21.5 degrees'\]$", shown, re.MULTILINE)
    assert found, shown
    assert shown.endswith(f"COMPLETED: {int(found[1]) + len('The end.')} characters, tool calls: 1\n")
    assert outcomes(provider) == ["completed", "disconnected", "completed"]
    assert "word word" in conversation(provider.requests[2])[-2]


# Servers.


def test_server_and_cancel_over_http(provider: ProviderServer, tmp_path: Path) -> None:
    provider.default = Forever("word ", 0.01)
    with example("server.py", provider, None, str(tmp_path / "runs.db"), "0") as process:
        url = served_at(until(process, "\n"))
        script = [EXAMPLES / "cancel_over_http.sh", url, "storytelling-team", "2"]
        shown = subprocess.run(script, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        answers = re.findall(r"^{.*}$", shown, re.MULTILINE)
        run_id = re.search(r"^starting (story-\d+)$", shown, re.MULTILINE)
        assert run_id, shown
        assert [json.loads(answer) for answer in answers] == [
            {"run_id": run_id[1], "status": "CANCELLED", "cancelled": True},
            {"run_id": run_id[1], "status": "CANCELLED", "cancelled": False},
        ]
        assert "the stream's last event:\nevent: TeamRunCancelled\n" in shown
        process.send_signal(signal.SIGTERM)
        rest_of(process, provider, logs="server.")
    assert outcomes(provider) == ["disconnected"] * 2


def test_mounted_app_and_its_page(provider: ProviderServer, tmp_path: Path) -> None:
    provider.default = Forever("word ", 0.01)
    with example("mounted_app.py", provider, None, str(tmp_path / "runs.db"), "0") as process:
        assert process.stderr is not None
        url = next(served_at(line) for line in process.stderr if "http://" in line)
        page = httpx2.get(url, timeout=PATIENCE).text
        runs = re.search(r'^const runs = "(.+)";$', page, re.MULTILINE)
        assert runs, page
        form = {"message": "Go.", "run_id": "the-run"}
        with httpx2.stream("POST", f"{url}/{runs[1]}", data=form, timeout=PATIENCE) as stream:
            lines = stream.iter_lines()
            next(line for line in lines if line == "event: RunContent")
            process.send_signal(signal.SIGTERM)  # with a stream that is open
            names = [line for line in lines if line.startswith("event: ")]
        assert names[-1] == "event: TeamRunCancelled"
        rest_of(process, provider, exit_code=-signal.SIGTERM, logs=("INFO", "server."))
    assert outcomes(provider) == ["disconnected"] * 2


def served_at(line: str) -> str:
    found = re.search(r"http://\S+", line)
    assert found, line
    return found[0]


def test_a_users_own_tests_pass() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            EXAMPLES / "test_my_team.py",
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    for file in EXAMPLES.iterdir():
        if file.is_file():
            assert f'"{file.name}"' in source or file.name in {"demo.py", "browser_page.html"}


def test_examples_name_no_other_server_and_have_a_docstring() -> None:
    for file in EXAMPLES.glob("*.py"):
        text = file.read_text()
        assert text.startswith('"""')
        assert "base_url=" not in text.replace("base_url=provider.base_url", "")
