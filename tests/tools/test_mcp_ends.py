"""How connections to MCP servers end, wanted or not; and that their processes end with them."""

from __future__ import annotations

import os
import signal
import threading

import anyio
import pytest

from kern_async.exceptions import ToolError
from kern_async.tools.mcp import MCPTools

from .conftest import OldServer, is_alive, run_python, until, use


async def gone(*pids: int) -> None:
    await until(lambda: not any(is_alive(pid) for pid in pids), 3)


async def test_the_process_and_its_children_are_gone_after_the_block(old: OldServer) -> None:
    async with MCPTools(old.command(), env=old.env) as tools:
        [pid] = old.facts("pid")
        child = int(await use(tools, "child"))
        assert is_alive(pid)
        assert is_alive(child)
    assert old.facts("eof"), "it was asked politely first"
    assert not is_alive(pid)
    await gone(child)


async def test_a_server_that_refuses_to_end_is_killed(old: OldServer) -> None:
    async with MCPTools(old.command("stubborn"), env=old.env) as tools:
        [pid] = old.facts("pid")
        child = int(await use(tools, "child"))
    assert not is_alive(pid)
    await gone(child)


async def test_the_process_is_gone_when_the_block_is_left_by_a_cancel(old: OldServer) -> None:
    with anyio.CancelScope() as scope:
        async with MCPTools(old.command(), env=old.env) as tools:
            [pid] = old.facts("pid")
            child = int(await use(tools, "child"))
            scope.cancel()
            await anyio.sleep_forever()
    assert not is_alive(pid)
    await gone(child)


async def test_a_cancel_while_it_connects_leaves_nothing(old: OldServer) -> None:
    async def enter() -> None:
        async with MCPTools(old.command("silent"), env=old.env):
            raise AssertionError("it never answers")

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        pid = await old.fact("pid")
        group.cancel_scope.cancel()
    assert not is_alive(pid)


async def test_a_server_that_never_answers_is_given_up(old: OldServer) -> None:
    tools = MCPTools(old.command("silent"), env=old.env, timeout_seconds=0.5)
    for attempt in (tools.load, tools.connect, tools.__aenter__):
        with pytest.raises(ToolError, match=r"did not answer within 0\.5 seconds"):
            await attempt()
    assert len(old.facts("pid")) == 3
    assert not any(map(is_alive, old.facts("pid")))


async def test_a_server_that_leaves_at_an_unknown_greeting_is_greeted_as_of_old(old: OldServer) -> None:
    async with MCPTools(old.command("strict"), env=old.env) as tools:
        assert await use(tools, "echo") == "{}"
    assert len(old.facts("pid")) == 2


async def test_a_server_that_is_killed_in_mid_call_is_a_tool_error_and_started_again(old: OldServer) -> None:
    errors: list[str] = []

    async def hang() -> None:
        with pytest.raises(ToolError) as caught:
            await use(tools, "hang")
        errors.append(str(caught.value))

    async with MCPTools(old.command(), env=old.env, name="files") as tools:
        async with anyio.create_task_group() as group:
            group.start_soon(hang)
            group.start_soon(hang)
            await until(lambda: len(old.facts("called")) == 2)
            os.kill(old.facts("pid")[0], signal.SIGKILL)
            began = anyio.current_time()
        assert anyio.current_time() - began < 1
        assert errors == [errors[0]] * 2
        assert "MCP server 'files' has ended" in errors[0]
        assert await use(tools, "echo", '{"x": 1}') == '{"x": 1}'
        assert len(old.facts("pid")) == 2
        with pytest.raises(ToolError, match="has ended"):
            await use(tools, "die")


async def test_a_server_that_has_gone_for_good_leaves_its_tools_which_say_so(
    old: OldServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    async with MCPTools(old.command(), env=old.env, cwd=home) as tools:
        before = await tools.load()
        home.rmdir()
        os.kill(old.facts("pid")[0], signal.SIGKILL)
        await until(lambda: not is_alive(old.facts("pid")[0]))
        with pytest.raises(ToolError):
            await use(tools, "echo")
        assert list(await tools.load()) == list(before)
        with pytest.raises(ToolError, match="cannot be reached"):
            await use(tools, "echo")
        home.mkdir()
        assert await use(tools, "echo") == "{}"


async def test_blocks_may_be_entered_and_left_in_any_order(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    entered = [anyio.Event(), anyio.Event()]
    left = [anyio.Event(), anyio.Event()]
    go = [anyio.Event(), anyio.Event()]

    async def block(number: int) -> None:
        async with tools:
            entered[number].set()
            await go[number].wait()
        left[number].set()

    async with anyio.create_task_group() as group:
        for number in (0, 1):
            group.start_soon(block, number)
            await entered[number].wait()
        go[0].set()
        await left[0].wait()
        assert await use(tools, "echo") == "{}", "the other block is still open"
        go[1].set()
        await left[1].wait()
    assert len(old.facts("pid")) == 1
    assert not is_alive(old.facts("pid")[0])


async def test_it_may_be_entered_in_one_task_and_left_in_another(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    async with anyio.create_task_group() as group:
        group.start_soon(tools.__aenter__)
        await until(lambda: "echo" in tools.functions)
        group.start_soon(tools.__aexit__)
    assert not is_alive(old.facts("pid")[0])


def test_each_event_loop_has_its_connection_and_close_ends_all(old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    used = threading.Barrier(3)
    closed = threading.Event()

    async def use_it() -> None:
        assert await use(tools, "echo") == "{}"
        await anyio.to_thread.run_sync(used.wait, 10)
        await anyio.to_thread.run_sync(closed.wait, 10)
        assert not any(map(is_alive, old.facts("pid")))

    threads = [
        threading.Thread(target=anyio.run, args=(use_it,), kwargs={"backend": b}) for b in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    used.wait(10)
    assert len(old.facts("pid")) == 2
    anyio.run(tools.close)
    closed.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_the_loop_ends_the_server(backend: str, old: OldServer) -> None:
    tools = MCPTools(old.command(), env=old.env)
    children: list[int] = []

    async def main() -> None:
        children.append(int(await use(tools, "child")))

    for _ in range(2):
        anyio.run(main, backend=backend)
    assert len(old.facts("eof")) == 2
    assert not any(map(is_alive, old.facts("pid")))
    anyio.run(gone, *children)


USE = """
import asyncio, sys
from kern_async import RunContext
from kern_async.tools.mcp import MCPTools

tools = MCPTools(sys.argv[1:] or {command!r}, env={env!r})

async def main():
    functions = await tools.load()
    context = RunContext(run_id="r", session_id="s")
    print(await functions["child"].bind("", context).call(), flush=True)
"""


RUN = "asyncio.run(main())"
LEFT = """
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize("mood", ["", "stubborn"])
@pytest.mark.parametrize(
    "end", [RUN, LEFT, LEFT + "loop.close()", LEFT + "loop.close(); asyncio.run(tools.close())"]
)
def test_the_exit_of_the_interpreter_ends_the_server(end: str, mood: str, old: OldServer) -> None:
    done = run_python(USE.format(command=old.command(mood), env=old.env) + end)
    assert done.returncode == 0
    if end is RUN:  # a loop that was left with tasks in it has things to say
        assert "Warning" not in done.stderr
        assert "Error" not in done.stderr
    anyio.run(gone, int(done.stdout), *old.facts("pid"))


@pytest.mark.slow
def test_close_ends_the_server_of_a_loop_that_does_not_run(old: OldServer) -> None:
    end = LEFT + "asyncio.run(tools.close()); os.kill(os.getpid(), 9)"  # so that nothing is left to the exit
    done = run_python("import os" + USE.format(command=old.command("stubborn"), env=old.env) + end)
    assert done.returncode == -signal.SIGKILL
    anyio.run(gone, int(done.stdout), *old.facts("pid"))


def test_the_server_of_a_closed_loop_is_ended_when_another_is_started(old: OldServer) -> None:
    code = f"""
import json
from pathlib import Path

def state(pid):
    return Path("/proc", str(pid), "stat").exists()

loop.close()
again = asyncio.new_event_loop()
again.run_until_complete(main())
pids = [json.loads(line)["pid"] for line in Path({str(old.record)!r}).open() if "pid" in line]
print(*map(state, pids))
"""
    done = run_python(USE.format(command=old.command("stubborn"), env=old.env) + LEFT + code)
    assert done.stdout.split()[2:] == ["False", "True"], done.stderr
    anyio.run(gone, *old.facts("pid"))


def test_a_dying_interpreter_takes_a_good_server_along(old: OldServer) -> None:
    code = (
        USE.format(command=old.command(), env=old.env)
        + """
import os
async def die():
    await tools.load()
    os.kill(os.getpid(), 9)
asyncio.run(die())
"""
    )
    assert run_python(code).returncode == -signal.SIGKILL
    anyio.run(gone, *old.facts("pid"))


def test_the_exit_ends_a_server_that_serves_the_background_loop(old: OldServer) -> None:
    code = (
        USE.format(command=old.command(), env=old.env)
        + """
from kern_async import Agent
from kern_async.testing.scripted import ScriptedModel

agent = Agent(model=ScriptedModel(turns=["one", "two"]), pre_hooks=[main])
print(agent.run("go").content, agent.run("on").content)
"""
    )
    done = run_python(code)
    assert "Error" not in done.stderr
    assert "Warning" not in done.stderr
    child, other, said = done.stdout.split(maxsplit=2)
    assert said == "one two\n"
    assert len(old.facts("pid")) == 1, "the connection stays for the next run"
    anyio.run(gone, int(child), int(other), *old.facts("pid"))
    assert old.facts("eof")


def test_a_fork_leaves_the_parents_server_alone(old: OldServer) -> None:
    code = (
        USE.format(command=old.command(), env=old.env)
        + """
import atexit, os
async def fork():
    await main()
    if (child := os.fork()) == 0:
        atexit._run_exitfuncs()
        os._exit(0)
    os.waitpid(child, 0)
    functions = await tools.load()
    print(await functions["echo"].bind('{"still": "there"}', RunContext(run_id="r", session_id="s")).call())
asyncio.run(fork())
"""
    )
    done = run_python(code)
    assert '{"still": "there"}' in done.stdout, done.stderr
    assert len(old.facts("pid")) == 1
