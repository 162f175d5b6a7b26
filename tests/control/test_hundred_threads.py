"""A hundred sync tools asleep in threads and cancelled: bounded, fair, and no reason to wait at exit (SPEC §6)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import anyio
import pytest

from kern_async import RunStatus, abandoned, cancel_run
from kern_async.testing import Text, ToolCall
from kern_async.tools.threads import ThreadUsage, limit_threads, thread_usage

from ..agent.crew import Crew
from ..as_a_user import environment
from .stage import Stage, answers, is_cancelled

MAX_THREADS, MAX_ABANDONED = 40, 100


@pytest.fixture(autouse=True)
def usual_limits() -> Generator[None]:
    yield
    limit_threads(max_threads=MAX_THREADS, max_abandoned_threads=MAX_ABANDONED)


class Sleepers:
    """A sync tool that sleeps until the test wakes it, and how many of it sleep."""

    def __init__(self) -> None:
        self.begun = 0
        self.most = 0
        self.cancelled: set[str] = set()
        """The runs that were cancelled: no tool of theirs may start any more."""
        self.late: list[str] = []
        self._asleep = 0
        self._guard = threading.Lock()
        self.wake = threading.Event()

    def tool(self, run: str) -> str:
        with self._guard:
            self.begun += 1
            self._asleep += 1
            self.most = max(self.most, self._asleep)
            if run in self.cancelled:
                self.late.append(run)
        assert self.wake.wait(30)
        with self._guard:
            self._asleep -= 1
        return "awake"

    async def all_awake(self) -> None:
        self.wake.set()
        with anyio.fail_after(10):
            while abandoned() or thread_usage() != ThreadUsage(0, 0, 0):  # noqa: ASYNC110 - threads end unannounced
                await anyio.sleep(0.001)


async def put_to_sleep_and_cancel(
    stage: Stage, sleepers: Sleepers, name: str, count: int, *, expect: int
) -> Any:
    """A run of `count` parallel calls that is cancelled when `expect` of them sleep, and the others wait."""
    agent = stage.crew.agent(name, [ToolCall("tool", {"run": name})] * count, tools=[sleepers.tool])
    before = sleepers.begun
    usage: list[ThreadUsage] = []

    async def act() -> None:
        await stage.until(
            lambda: sleepers.begun == before + expect and thread_usage().waiting == count - expect
        )
        usage.append(thread_usage())
        sleepers.cancelled.add(name)
        assert cancel_run(f"run-{name}")

    output = await stage.run(agent, act, run_id=f"run-{name}")
    assert is_cancelled(output)
    assert answers(output) == ["cancelled"] * count
    assert len(output.abandoned) == expect
    assert output.settled_at - output.requested_at < 1, "nobody waits for a thread"
    assert sleepers.begun == before + expect
    return output


async def test_a_hundred_tools_of_one_run_are_never_more_threads_than_there_may_be(stage: Stage) -> None:
    sleepers = Sleepers()
    await put_to_sleep_and_cancel(stage, sleepers, "Many", 100, expect=MAX_THREADS)
    assert thread_usage() == (0, 0, MAX_THREADS)
    assert len(abandoned()) == MAX_THREADS
    await sleepers.all_awake()
    assert sleepers.begun == sleepers.most == MAX_THREADS
    assert sleepers.late == []


async def test_a_hundred_that_were_left_starve_no_later_run_and_the_next_ones_say_who_is_in_the_way(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    stage, sleepers = Stage(crew), Sleepers()
    for number in range(5):
        await put_to_sleep_and_cancel(stage, sleepers, f"Crowd {number}", 20, expect=20)
        quick = await quick_run(crew, f"Quick {number}")
        assert (quick.status, answers(quick)) == (RunStatus.completed, ["quick"])
    assert thread_usage() == (0, 0, MAX_ABANDONED)
    assert exhausted(caplog) == []

    await put_to_sleep_and_cancel(stage, sleepers, "One too many", MAX_THREADS, expect=MAX_THREADS)
    assert thread_usage() == (0, 0, MAX_ABANDONED + MAX_THREADS)
    assert sleepers.most == MAX_ABANDONED + MAX_THREADS
    assert exhausted(caplog) == []

    # Now both budgets are full. Who comes waits, says so, and can be cancelled as anybody can.
    await put_to_sleep_and_cancel(stage, sleepers, "Waiting", 3, expect=0)
    (record,) = exhausted(caplog)
    assert record["waiting"] == "tool"
    assert record["abandoned"] == ["tool"]
    assert record["run_id"] == "run-Waiting"

    outputs: list[Any] = []
    async with anyio.create_task_group() as group:

        async def later() -> None:
            outputs.append(await quick_run(crew, "Later"))

        group.start_soon(later)
        await stage.until(lambda: thread_usage().waiting == 1)
        assert outputs == []
        await sleepers.all_awake()
    assert (outputs[0].status, answers(outputs[0])) == (RunStatus.completed, ["quick"])
    assert sleepers.most == MAX_ABANDONED + MAX_THREADS
    assert sleepers.late == []
    assert len(exhausted(caplog)) == 1


def quick() -> str:
    return "quick"


async def quick_run(crew: Crew, name: str) -> Any:
    return await crew.agent(name, ToolCall("quick"), Text("I see."), tools=[quick]).arun("Go.")


def exhausted(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [
        record.__dict__["kern"] for record in caplog.records if record.message.startswith("threads.exhausted")
    ]


@pytest.mark.parametrize("most", [(1, 0), (1, 1), (2, 3)])
async def test_budgets_of_any_size_hold(stage: Stage, most: tuple[int, int]) -> None:
    threads, left = most
    limit_threads(max_threads=threads, max_abandoned_threads=left)
    sleepers, begun, number = Sleepers(), 0, 0
    while begun < threads + left:
        room = min(threads, threads + left - begun)
        await put_to_sleep_and_cancel(stage, sleepers, f"Crowd {number}", threads + 1, expect=room)
        begun, number = begun + room, number + 1
    assert sleepers.begun == threads + left
    await put_to_sleep_and_cancel(stage, sleepers, "Waiting", 2, expect=0)
    await sleepers.all_awake()
    assert sleepers.most == threads + left
    assert sleepers.late == []


async def test_a_token_comes_back_with_its_thread(stage: Stage) -> None:
    """A single thread for all: each that ends lets the next one in."""
    limit_threads(max_threads=1, max_abandoned_threads=0)
    for number in range(5):
        sleepers = Sleepers()
        await put_to_sleep_and_cancel(stage, sleepers, f"Crowd {number}", 3, expect=1)
        await sleepers.all_awake()
        assert sleepers.begun == 1
        output = await quick_run(stage.crew, f"Quick {number}")
        assert answers(output) == ["quick"]


SCRIPT = """
import sys, threading, time
import anyio
from kern_async import Agent, abandoned, cancel_run
from kern_async.testing.scripted import ScriptedModel, call

begun = []

def sleep() -> str:
    begun.append(threading.current_thread())
    time.sleep(3600)
    return "never"

def agent(name: str, count: int) -> Agent:
    return Agent(name=name, model=ScriptedModel(name, [[call("sleep") for _ in range(count)]]), tools=[sleep])

async def main() -> None:
    for number in range(4):
        async with agent(f"a{number}", 25).arun("go", stream=True, run_id=f"r{number}") as events:
            while len(begun) < 25 * (number + 1):
                await anyio.sleep(0.001)
            assert cancel_run(f"r{number}")
            async for _ in events:
                pass
        assert events.output.status.value == "CANCELLED"

if sys.argv[1] == "sync":
    for number in range(4):
        run = agent(f"s{number}", 25).run("go", stream=True, run_id=f"s{number}")
        with run as events:
            next(events)
            while len(begun) < 25 * (number + 1):
                time.sleep(0.001)
        assert run.output.status.value == "CANCELLED"
else:
    anyio.run(main, backend=sys.argv[1])
assert len(begun) == len(abandoned()) == 100
assert all(thread.is_alive() for thread in begun)
print("left", time.time(), flush=True)
"""


@pytest.mark.parametrize("how", ["asyncio", "trio", "sync"])
def test_the_process_exits_at_once_with_a_hundred_threads_asleep(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT, how],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    exited = time.time()
    assert (done.returncode, done.stdout[:4]) == (0, "left"), done.stderr
    # The debug mode tells of every slow step of a slow machine.
    quiet = ("run.straggler", "Executing <")
    warned = [line for line in done.stderr.splitlines() if not line.startswith(quiet)]
    assert warned == []
    assert exited - float(done.stdout.split()[1]) < 2
