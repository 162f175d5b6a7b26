from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from kern_async.exceptions import RunCancelled, ToolError
from kern_async.run.context import RunContext
from kern_async.tools.command import run_command

GRACE = 0.3


class Link:
    """A run's side of a context."""

    stopping = False
    grace = GRACE

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.reported = anyio.Event()

    def report(self, content: Any, tool_call_id: str | None) -> None:
        self.reports.append(content)
        self.reported.set()

    async def run_process(self, command: Any, **options: Any) -> Any:
        return await run_command(command, **options, grace=self.grace)


@pytest.fixture
def context() -> RunContext:
    return RunContext(run_id="run", session_id="session", link=Link())


def reports(context: RunContext) -> list[Any]:
    assert isinstance(context.link, Link)
    return context.link.reports


async def said(context: RunContext, enough: Callable[[str], bool]) -> str:
    """Wait until the command has said enough."""
    assert isinstance(context.link, Link)
    with anyio.fail_after(10):
        while not enough(text := "".join(context.link.reports)):
            context.link.reported = anyio.Event()
            await context.link.reported.wait()
    return text


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/dev/fd").iterdir()}


# Both say their pids. The shell leads the group; "wait" keeps it, and the traps are inherited.
MEEK = "echo $$; sleep 60 & echo $!; sleep 61 & echo $!; wait"
DEAF = "trap '' TERM; echo $$; (while :; do sleep 60; done) & echo $!; (while :; do sleep 61; done) & echo $!; wait"
LEADERLESS = "trap 'exit 0' TERM; echo $$; (trap '' TERM; while :; do sleep 60; done) & echo $!; sleep 61 & echo $!; wait"


async def cut(context: RunContext, command: str) -> tuple[list[int], float]:
    """Cancel a command when it has said three pids; they, and how long its end took."""
    async with anyio.create_task_group() as group:
        group.start_soon(context.run_process, command)
        text = await said(context, lambda text: text.count("\n") == 3)
        began = time.monotonic()
        group.cancel_scope.cancel()
    return [int(line) for line in text.split()], time.monotonic() - began


async def test_a_command_has_its_output_and_status(context: RunContext) -> None:
    done = await context.run_process(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert done.args == ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert sorted(reports(context)) == ["err\n", "out\n"]


async def test_a_string_is_for_the_shell(context: RunContext) -> None:
    done = await context.run_process("echo $((1 + 1)) | cat")
    assert (done.stdout, done.returncode, done.args) == ("2\n", 0, "echo $((1 + 1)) | cat")


async def test_a_command_has_its_folder_and_environment(context: RunContext, tmp_path: Path) -> None:
    done = await context.run_process(["/bin/sh", "-c", "pwd; echo $A$HOME"], cwd=tmp_path, env={"A": "a"})
    assert done.stdout == f"{tmp_path}\na\n"


async def test_output_is_progress_as_it_comes(context: RunContext) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(
            lambda: context.run_process("printf 'gr\\303'; sleep 0.2; printf '\\274n'; exec sleep 60")
        )
        assert await said(context, lambda text: "n" in text) == "grün"
        group.cancel_scope.cancel()
    assert reports(context)[0] == "gr", "half a character waits for its other half"


async def test_what_is_no_utf_8_is_replaced(context: RunContext) -> None:
    assert (await context.run_process("printf 'a\\377b\\303'")).stdout == "a\ufffdb\ufffd"


@pytest.mark.parametrize("data", ["grün", "grün".encode()])
async def test_input_is_what_the_command_reads(context: RunContext, data: str | bytes) -> None:
    assert (await context.run_process(["cat"], input=data)).stdout == "grün"


async def test_stdin_is_empty_without_input(context: RunContext) -> None:
    assert (await context.run_process(["cat"])).stdout == ""


async def test_much_input_and_output_flow_at_once(context: RunContext) -> None:
    text = "0123456789" * 300_000
    done = await context.run_process("tee /dev/stderr", input=text)
    assert done.stdout == text
    assert done.stderr == text
    assert len("".join(reports(context))) == 2 * len(text)


async def test_a_command_need_not_read_its_input(context: RunContext) -> None:
    done = await context.run_process("exec <&-; echo read nothing; sleep 0.1", input="0" * 10_000_000)
    assert (done.stdout, done.returncode) == ("read nothing\n", 0)


async def test_a_failed_command_is_an_error_if_wanted(context: RunContext) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        await context.run_process("echo why >&2; exit 4", check=True)
    assert (caught.value.returncode, caught.value.stderr) == (4, "why\n")
    assert (await context.run_process("true", check=True)).returncode == 0


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["there-is-no-such-command"], {}),
        ([], {}),
        (["true"], {"cwd": "/there-is-no-such-folder"}),
        (["tr\0ue"], {}),
        ([5], {}),
    ],
)
async def test_a_command_that_cannot_be_started_says_why(
    context: RunContext, command: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ToolError, match="could not be started") as caught:
        await context.run_process(command, **options)
    assert repr(command) in str(caught.value)


async def test_a_timeout_ends_the_group_and_keeps_the_output(context: RunContext) -> None:
    with pytest.raises(subprocess.TimeoutExpired, match=r"after 0\.2 seconds") as caught:
        await context.run_process(MEEK, timeout=0.2)
    output: Any = caught.value.output
    pids = [int(line) for line in output.split()]
    assert len(pids) == 3
    assert not any(runs(pid) for pid in pids)


async def test_a_cancel_ends_grandchildren_too(context: RunContext) -> None:
    pids, seconds = await cut(context, MEEK)
    assert not any(runs(pid) for pid in pids)
    assert seconds < GRACE, "nothing refused TERM"


async def test_what_ignores_term_is_killed_after_the_grace(context: RunContext) -> None:
    pids, seconds = await cut(context, DEAF)
    assert not any(runs(pid) for pid in pids)
    assert GRACE <= seconds < GRACE + 0.5


async def test_what_outlives_its_leader_is_killed_after_the_grace(context: RunContext) -> None:
    pids, seconds = await cut(context, LEADERLESS)
    assert not any(runs(pid) for pid in pids)
    assert GRACE <= seconds < GRACE + 0.5


async def test_a_command_may_tidy_up(context: RunContext, tmp_path: Path) -> None:
    command = f"trap 'sleep 0.1; touch {tmp_path}/tidy; exit' TERM; echo $$; echo; echo; while :; do sleep 0.01; done"
    (pid,), seconds = await cut(context, command)
    assert (tmp_path / "tidy").exists()
    assert not runs(pid)
    assert seconds < GRACE


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_second_native_cancel_kills_without_waiting_for_the_grace(context: RunContext) -> None:
    assert isinstance(context.link, Link)
    context.link.grace = 60
    task = asyncio.ensure_future(context.run_process(DEAF))
    text = await said(context, lambda text: text.count("\n") == 3)
    task.cancel()
    await anyio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(runs(int(pid)) for pid in text.split())


async def test_a_background_process_that_holds_the_output_is_not_waited_for(context: RunContext) -> None:
    began = time.monotonic()
    done = await context.run_process("sleep 60 & echo $!")
    assert time.monotonic() - began < 3
    assert done.returncode == 0
    assert not runs(int(done.stdout)), "and ended: nothing outlives the call"


async def test_a_background_process_may_say_its_last_words(context: RunContext) -> None:
    assert (await context.run_process("(sleep 0.1; echo last) & echo first")).stdout == "first\nlast\n"


async def test_a_background_process_with_pipes_of_its_own_is_ended_too(context: RunContext) -> None:
    done = await context.run_process("sleep 60 >/dev/null 2>&1 & echo $!")
    assert not runs(int(done.stdout))


async def test_a_command_that_closes_its_output_is_waited_for(context: RunContext) -> None:
    done = await context.run_process("exec >&- 2>&-; sleep 0.3; exit 5")
    assert done.returncode == 5


async def test_a_killed_command_says_which_signal(context: RunContext) -> None:
    assert (await context.run_process("kill -9 $$")).returncode == -signal.SIGKILL


async def test_nothing_is_started_in_a_run_that_is_to_stop(context: RunContext, tmp_path: Path) -> None:
    assert context.link is not None
    context.link.stopping = True  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RunCancelled):
        await context.run_process(["touch", str(tmp_path / "file")])
    assert not (tmp_path / "file").exists()


async def test_a_context_without_a_run_says_so() -> None:
    with pytest.raises(ToolError, match="context of a run"):
        await RunContext(run_id="run", session_id="session").run_process("true")


async def test_many_run_side_by_side(context: RunContext) -> None:
    async def one(number: int) -> None:
        done = await context.run_process(f"sleep 0.1; echo {number}")
        assert done.stdout == f"{number}\n"

    before = descriptors()
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert descriptors() <= before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_event_loop_in_any_thread_may_run_commands(context: RunContext, backend: str) -> None:
    results: list[int] = []

    def main() -> None:
        results.append(anyio.run(context.run_process, "exit 6", backend=backend).returncode)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert results == [6]


def test_an_event_loop_that_is_closed_under_a_command_ends_it(context: RunContext) -> None:
    loop = asyncio.new_event_loop()
    running = context.run_process(MEEK)
    task = loop.create_task(running)
    loop.run_until_complete(said(context, lambda text: text.count("\n") == 3))
    pids = [int(pid) for pid in "".join(reports(context)).split()]
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del task
    with suppress(RuntimeError):  # anyio's, for its scopes miss the loop
        running.close()
    until = time.monotonic() + 3
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_interpreters_exit_kills_commands(tmp_path: Path) -> None:
    code = f"""
import sys, threading, time, anyio
from kern_async.tools.command import run_command
say = lambda text: print(text, end="", flush=True)
options = dict.fromkeys(("input", "cwd", "env", "timeout"))
async def main(): await run_command({DEAF!r}, **options, check=False, report=say, grace=9)
threading.Thread(target=anyio.run, args=(main,), daemon=True).start()
time.sleep(1)
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    pids = done.stdout.split()
    assert len(pids) == 3
    assert not any(runs(int(pid)) for pid in pids)
