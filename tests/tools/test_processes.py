from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import AfterValidator, BaseModel

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run.context import RunContext
from kern_async.testing.leaks import LeakCheck
from kern_async.tools import Function, tool
from kern_async.tools.processes import idle_workers, limit_processes

from ..as_a_user import environment

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
        raise NotImplementedError


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def wait_dead(*pids: int, seconds: float = 3) -> None:
    until = time.monotonic() + seconds
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < until, [pid for pid in pids if runs(pid)]
        time.sleep(0.002)


async def call(function: Function, link: Link | None = None, /, **arguments: Any) -> Any:
    context = RunContext(run_id="run", session_id="session", link=link)
    return await function.bind(arguments, context).call()


async def cut(function: Function, *, reports: int = 1, **arguments: Any) -> tuple[list[Any], float]:
    """Call a tool that does not end, cancel it when it has said so much; what it said, and how long it took to die."""
    link = Link()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: call(function, link, **arguments))
        with anyio.fail_after(10):
            while len(link.reports) < reports:
                link.reported = anyio.Event()
                await link.reported.wait()
        began = time.monotonic()
        group.cancel_scope.cancel()
    return link.reports, time.monotonic() - began


@tool(isolation="process")
def pid() -> int:
    return os.getpid()


@tool(isolation="process")
def repeat_for_ever(context: RunContext) -> int:
    context.report(os.getpid())
    return sum(itertools.repeat(0))


@tool(isolation="process")
def match_for_ever(context: RunContext) -> bool:
    context.report(os.getpid())
    return bool(re.match(r"(a+)+$", "a" * 60 + "b"))


@tool(isolation="process")
def stubborn(context: RunContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.report(os.getpid())
    while True:
        time.sleep(10)


@tool(isolation="process")
def tidy(path: str, context: RunContext) -> None:
    def tidy_up(*_: object) -> None:
        Path(path).write_text("tidied up")
        sys.exit()

    signal.signal(signal.SIGTERM, tidy_up)
    context.report(os.getpid())
    time.sleep(60)


@tool(isolation="process")
def with_grandchildren(context: RunContext) -> None:
    meek = subprocess.Popen(["sleep", "60"])
    deaf = subprocess.Popen(
        "trap '' TERM; echo; while :; do sleep 60; done", shell=True, stdout=subprocess.PIPE
    )
    assert deaf.stdout
    deaf.stdout.readline()
    context.report([os.getpid(), meek.pid, deaf.pid])
    time.sleep(60)


@tool(isolation="process")
def crash(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "fork":
        if os.fork() == 0:
            time.sleep(60)
        os._exit(4)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Locked(Exception):
    def __init__(self) -> None:
        super().__init__("it is locked")
        self.lock = threading.Lock()


class Fine(Exception):
    pass


RAISES: dict[str, Callable[[], BaseException]] = {
    "fine": lambda: Fine("as it is"),
    "odd": lambda: Odd(1, 2),
    "locked": Locked,
    "exit": lambda: SystemExit(5),
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "stop": lambda: StopIteration(1),
}


@tool(isolation="process")
def fail(how: str) -> None:
    error = RAISES[how]()
    raise error


class Point(BaseModel):
    x: int
    y: int = 0


@tool(isolation="process")
def mirror(point: Point, names: list[str], factor: int = 2) -> tuple[Point, list[str]]:
    return Point(x=point.x * factor, y=-point.y), names[::-1]


@tool(isolation="process")
def big(text: str) -> str:
    return text * 2


@tool(isolation="process")
def takes_a_function(function: Annotated[Any, AfterValidator(lambda value: lambda: value)]) -> None:
    raise AssertionError


@tool(isolation="process")
def gives(what: str, context: RunContext) -> Any:
    if what == "result":
        return lambda: None
    context.report(threading.Lock())
    return None


@tool(isolation="process")
def changes(context: RunContext) -> Any:
    context.session_state["seen"] = True
    return (
        context.run_id,
        context.session_state,
        context.dependencies,
        context.tool_call_id,
        context.cancelled,
    )


@tool(isolation="process")
def counts(to: int) -> Generator[Any]:
    for number in range(to):
        yield f"{number} "
    yield "done"


@tool(isolation="process")
def surroundings() -> Any:
    return str(Path.cwd()), os.environ.get("KERN_TEST_SURROUNDINGS")


@tool(isolation="process")
def hold(path: str) -> float:
    """Until there is such a file."""
    began = time.monotonic()
    while not Path(path).exists():
        time.sleep(0.001)
    return began


@tool(isolation="process")
def late(context: RunContext) -> int:
    threading.Thread(target=lambda: [context.report("late") or time.sleep(0.001) for _ in range(50)]).start()
    return os.getpid()


async def test_a_worker_is_kept_for_the_next_call() -> None:
    first = await call(pid)
    assert first != os.getpid()
    assert first in idle_workers()
    times: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        assert await call(pid) == first
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.02, "a warm call costs a millisecond or a few"


@pytest.mark.parametrize("endless", [repeat_for_ever, match_for_ever])
async def test_an_endless_loop_in_c_code_dies_at_once(endless: Function) -> None:
    await call(pid)
    (worker,), seconds = await cut(endless)
    assert not runs(worker)
    assert seconds < GRACE
    assert worker not in idle_workers()
    assert await call(pid) != worker, "a worker that was cut is never used again"


async def test_a_worker_that_ignores_term_is_killed_after_the_grace() -> None:
    (worker,), seconds = await cut(stubborn)
    assert not runs(worker)
    assert GRACE <= seconds < GRACE + 0.5


@pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
async def test_a_second_native_cancel_kills_without_waiting_for_the_grace() -> None:
    link = Link()
    link.grace = 60
    task = asyncio.ensure_future(call(stubborn, link))
    await link.reported.wait()
    task.cancel()
    await anyio.sleep(0.05)
    assert runs(link.reports[0])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not runs(link.reports[0])


async def test_a_tool_may_tidy_up_when_it_gets_term(tmp_path: Path) -> None:
    (worker,), seconds = await cut(tidy, path=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "tidied up"
    assert not runs(worker)
    assert seconds < GRACE


async def test_what_the_tool_has_started_dies_with_it() -> None:
    (pids,), seconds = await cut(with_grandchildren)
    assert len(pids) == 3
    assert not any(runs(pid) for pid in pids)
    assert seconds < GRACE + 0.5


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "crash: its worker process ended with exit code 3"),
        ("fork", "crash: its worker process ended with exit code 4"),
        ("SIGSEGV", "crash: its worker process was killed by SIGSEGV"),
        ("SIGKILL", r"crash: its worker process was killed by SIGKILL \(out of memory\?\)"),
    ],
)
async def test_a_worker_that_dies_fails_its_call_only(how: str, said: str) -> None:
    before = await call(pid)
    with pytest.raises(ToolError, match=said):
        await call(crash, how=how)
    assert not runs(before)
    assert await call(pid) != before


async def test_an_idle_worker_that_has_died_is_not_used() -> None:
    before = await call(pid)
    os.kill(before, signal.SIGKILL)
    wait_dead(before)
    assert await call(pid) != before


async def test_an_exception_keeps_its_type_and_says_where() -> None:
    with pytest.raises(Fine, match="as it is") as caught:
        await call(fail, how="fine")
    (note,) = caught.value.__notes__
    assert note.startswith("In the worker process:\nTraceback")
    assert "in fail" in note
    assert "worker.py" not in note


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("odd", "fail raised Odd: 1 and 2"),
        ("locked", "fail raised Locked: it is locked"),
        ("exit", "fail tried to end the process: SystemExit: 5"),
        ("interrupt", "fail tried to end the process: KeyboardInterrupt"),
        ("cancelled", "fail raised CancelledError"),
        ("stop", "fail raised StopIteration: 1"),
    ],
)
async def test_an_exception_that_cannot_be_raised_here_is_told(how: str, said: str) -> None:
    before = await call(pid)
    with pytest.raises(ToolError, match=said) as caught:
        await call(fail, how=how)
    assert "in fail" in caught.value.__notes__[0]
    assert await call(pid) == before


async def test_arguments_and_results_have_their_types() -> None:
    result = await call(mirror, point={"x": "3", "y": 4}, names=["a", "b"])
    assert result == (Point(x=6, y=-4), ["b", "a"])


async def test_arguments_and_results_may_be_big() -> None:
    text = "0123456789" * 300_000
    assert await call(big, text=text) == text * 2


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (
            takes_a_function,
            {"function": 1},
            r"takes_a_function: its argument 'function' \(function\) cannot be pickled",
        ),
        (gives, {"what": "result"}, r"gives: its result \(function\) cannot be pickled"),
        (
            gives,
            {"what": "report"},
            r"gives: the progress \(_thread.lock\) that it reported cannot be pickled",
        ),
    ],
)
async def test_what_cannot_be_pickled_is_named(
    function: Function, arguments: dict[str, Any], said: str
) -> None:
    before = await call(pid)
    with pytest.raises(ToolError, match=said):
        await call(function, **arguments)
    assert await call(pid) == before


async def test_the_context_is_a_copy() -> None:
    state: dict[str, Any] = {"n": 1}
    context = RunContext(
        run_id="r", session_id="s", session_state=state, dependencies={"a": [1]}, tool_call_id="c"
    )
    assert await changes.bind({}, context).call() == ("r", {"n": 1, "seen": True}, {"a": [1]}, "c", False)
    assert state == {"n": 1}
    context.dependencies["lock"] = threading.Lock()
    with pytest.raises(ToolError, match=r"changes: the run context's dependencies cannot be pickled"):
        await changes.bind({}, context).call()
    assert await counts.bind({"to": 1}, context).call() == "0 done", "a tool without a context does not care"


async def test_what_a_generator_yields_is_progress() -> None:
    link = Link()
    assert await call(counts, link, to=3) == "0 1 2 done"
    assert link.reports == ["0 ", "1 ", "2 ", "done"]


async def test_what_an_earlier_call_has_left_running_says_nothing() -> None:
    worker = await call(late, Link())
    link = Link()
    for _ in range(20):
        assert await call(counts, link, to=0) == "done"
    assert set(link.reports) == {"done"}
    assert await call(pid) == worker


async def test_a_worker_is_where_its_parent_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await call(pid)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERN_TEST_SURROUNDINGS", "here")
    assert await call(surroundings) == (str(tmp_path), "here")
    monkeypatch.undo()
    assert await call(surroundings) == (str(Path.cwd()), None)


async def test_so_many_run_at_once(tmp_path: Path) -> None:
    limit_processes(max_processes=1)
    try:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: call(hold, path=str(tmp_path / "first")))
                await anyio.wait_all_tasks_blocked()
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(call, pid)
                    await anyio.wait_all_tasks_blocked()
                    waiting.cancel_scope.cancel()  # the waiting, at once
                group.start_soon(call, pid)
                limit_processes(max_processes=2)
                await call(pid)
                (tmp_path / "first").touch()
    finally:
        limit_processes(max_processes=6)


@pytest.mark.parametrize("limits", [{"max_processes": 0}, {"max_idle": -1}])
def test_limits_make_sense(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        limit_processes(**limits)


async def test_no_more_idle_workers_are_kept_than_wanted() -> None:
    limit_processes(max_idle=1)
    try:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(call, pid)
        assert len(idle_workers()) == 1
        limit_processes(max_idle=0)
        assert idle_workers() == []
    finally:
        limit_processes(max_idle=2)


async def test_a_cancel_while_a_worker_starts_loses_none() -> None:
    limit_processes(max_idle=0)
    limit_processes(max_idle=4)
    for _ in range(5):
        with anyio.move_on_after(0):
            await call(pid)
    with anyio.move_on_after(0.001):
        await call(pid)


async def test_only_a_busy_worker_is_a_leak(tmp_path: Path) -> None:
    limit_processes(max_idle=0)
    limit_processes(max_idle=2)
    check = LeakCheck()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: call(hold, path=str(tmp_path / "go")))
        with anyio.fail_after(5):
            while not [leak for leak in check.leaks() if leak.kind == "process"]:
                await anyio.lowlevel.checkpoint()
        (tmp_path / "go").touch()
    assert idle_workers()
    await check.asettle()


def test_event_loops_of_several_threads_share_the_workers() -> None:
    results: list[Any] = []

    def many(backend: str) -> None:
        async def main() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(one)

        async def one() -> None:
            results.append(await call(pid))

        anyio.run(main, backend=backend)

    limit_processes(max_processes=3)
    try:
        threads = [threading.Thread(target=many, args=(b,)) for b in ("asyncio", "trio", "asyncio")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        limit_processes(max_processes=6)
    assert len(results) == 30
    assert len(set(results)) < 10


class Owner:
    def method(self) -> None: ...


async def coroutine() -> None: ...


async def async_generator() -> Any:
    yield 1


def test_only_what_a_worker_can_import_is_a_process_tool() -> None:
    def nested() -> None: ...

    for function, why in (
        (lambda: 1, "a lambda"),
        (nested, "defined inside of a function"),
        (Owner.method, "is a method"),
        (Owner().method, "is no plain function"),
        (coroutine, "is async"),
        (async_generator, "is async"),
        (print, "is no plain function"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            tool(name="it", isolation="process")(function)  # pyright: ignore[reportArgumentType]


def replaced() -> None: ...


was_replaced = tool(isolation="process")(replaced)
replaced = 5  # type: ignore[assignment]


async def test_a_function_that_is_not_under_its_name_is_refused() -> None:
    with pytest.raises(ToolError, match=r"replaced is something else"):
        await call(was_replaced)


def script(tmp_path: Path, code: str) -> Path:
    head = """
    import itertools, os, signal, subprocess, sys, threading, time
    import anyio
    from kern_async import RunContext
    from kern_async.tools import tool
    from kern_async.tools.processes import idle_workers

    def say(what):  # a line in one write, even if Python's output is unbuffered: workers write to the same pipe
        print(f"{what}\\n", end="", flush=True)

    def call(function, report=None):
        class Link:
            stopping, grace = False, 0.3
            def report(self, content, tool_call_id): say(content)
        return function.bind({}, RunContext(run_id="r", session_id="s", link=Link())).call()

    @tool(isolation="process")
    def pid() -> int:
        print("from the worker\\n", end="")
        return os.getpid()

    @tool(isolation="process")
    def endless(context: RunContext) -> int:
        context.report(os.getpid())
        return sum(itertools.repeat(0))
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(head) + textwrap.dedent(code))
    return path


def run(path: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", path],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


def test_a_script_may_have_process_tools(tmp_path: Path) -> None:
    done = run(
        script(
            tmp_path,
            """
    if __name__ == "__main__":
        assert anyio.run(call, pid) != os.getpid()
    """,
        )
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "from the worker\n")


def test_a_script_without_a_main_guard_is_told(tmp_path: Path) -> None:
    done = run(script(tmp_path, "anyio.run(call, pid)"))
    assert done.returncode == 1
    assert "start agents below `if __name__ ==" in done.stderr


def test_code_that_is_in_no_file_is_refused() -> None:
    code = "from kern_async.tools import tool\n@tool(isolation='process')\ndef it(): ..."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigurationError" in done.stderr
    assert "is in no file" in done.stderr


def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
    @tool(isolation="process")
    def starts(context: RunContext) -> None:
        context.report(subprocess.Popen(["sleep", "60"]).pid)
        context.report(os.getpid())
        sum(itertools.repeat(0))

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(call, endless)
            group.start_soon(call, starts)
            say(await call(pid))

    if __name__ == "__main__":
        anyio.run(main)
    """,
    )
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids: list[int] = []
        while len(pids) < 4:
            line = parent.stdout.readline()
            assert line, "it has ended by itself"
            pids += [int(line)] if line.strip().isdigit() else []
        assert all(runs(pid) for pid in pids)
        parent.kill()
    wait_dead(*pids)


def test_the_interpreter_does_not_wait_for_workers(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
    if __name__ == "__main__":
        anyio.run(call, pid)
        threading.Thread(target=anyio.run, args=(call, endless), daemon=True).start()
        time.sleep(1)
        print(time.time(), flush=True)
    """,
    )
    done = run(path)
    ended = time.time()
    assert (done.returncode, done.stderr) == (0, "")
    _, busy, at = done.stdout.split("\n")[:3]
    assert ended - float(at) < 0.5
    assert not runs(int(busy))


def test_a_fork_leaves_the_parents_workers_alone(tmp_path: Path) -> None:
    done = run(
        script(
            tmp_path,
            """
    if __name__ == "__main__":
        worker = anyio.run(call, pid)
        child = os.fork()
        if child == 0:
            assert idle_workers() == []
            own = anyio.run(call, pid)
            assert own not in (worker, os.getpid())
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        assert anyio.run(call, pid) == worker
    """,
        )
    )
    assert (done.returncode, done.stderr) == (0, "")
