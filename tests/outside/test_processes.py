"""Ctrl-C, and processes that end or fork with a live run: in real processes, with warnings as errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from kern_async.testing import Hang, Text, ToolCall

from ..as_a_user import environment

if TYPE_CHECKING:
    from outside.conftest import Stage

PRELUDE = """
import asyncio, atexit, json, os, threading, time
from kern_async import Agent
from kern_async.engine import registry
from kern_async.models.openai import OpenAIResponses

kept = []

def keep(run_context):
    kept.append(registry.find(run_context.run_id))

def report():
    for run in kept:
        ends = [e for e in run.log.events if e.event in ("RunCancelled", "RunCompleted", "RunError")]
        last = ends[-1] is run.log.events[-1] if ends else None
        by = [getattr(e, "cancelled_by", None) for e in ends]
        print(json.dumps({"ends": [e.event for e in ends], "by": by, "last": last,
                          "live": list(registry.get_active_runs())}), flush=True)

atexit.register(report)

def agent(**options):
    return Agent(model=OpenAIResponses(id="model"), pre_hooks=[keep], **options)
"""


def child(stage: Stage, code: str) -> subprocess.Popen[str]:
    env = environment(
        OPENAI_BASE_URL=stage.provider.base_url, OPENAI_API_KEY="key", PYTHONPATH=os.pathsep.join(sys.path)
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + textwrap.dedent(code)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[str], *, code: int = 0) -> tuple[list[Any], str]:
    """What the child reported, and its standard error."""
    try:
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, err
    for fault in ("Warning", "never retrieved", "Exception ignored", "was destroyed", "Unhandled"):
        assert fault not in err
    return [json.loads(line) for line in out.splitlines()], err


def end(by: str) -> dict[str, Any]:
    return {"ends": ["RunCancelled"], "by": [by], "last": True, "live": []}


MAINS = {
    "awaited": """
        asyncio.run(agent().arun("go"))
    """,
    "streamed": """
        async def main():
            async for _ in agent().arun("go", stream=True):
                pass
        asyncio.run(main())
    """,
    "in a block": """
        async def main():
            async with agent().arun("go", stream=True) as events:
                async for _ in events:
                    pass
        asyncio.run(main())
    """,
    "trio": """
        import trio
        async def main():
            await agent().arun("go")
        trio.run(main)
    """,
    "sync": """
        agent().run("go")
    """,
    "sync streamed": """
        for _ in agent().run("go", stream=True):
            pass
    """,
}


@pytest.mark.parametrize("main", MAINS)
def test_ctrl_c_ends_the_run_and_the_process_as_usual(stage: Stage, main: str) -> None:
    process = child(stage, MAINS[main])
    stage.provider.wait_until(lambda: any(request.streamed for request in stage.provider.requests), 20)
    process.send_signal(signal.SIGINT)
    reports, err = finished(process, code=-signal.SIGINT)
    assert reports == [end("caller")]
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") <= 2  # asyncio.run shows the CancelledError that it came from
    stage.provider.wait_until(lambda: stage.provider.open_requests == 0)


LEAVES = {
    "return": """
        def seek():
            for event in agent().run("go", stream=True):
                if event.event == "RunContent":
                    return
        seek()
    """,
    "held": """
        events = agent().run("go", stream=True)
        next(event for event in events if event.event == "RunContent")
    """,
}


@pytest.mark.parametrize(("leave", "by"), [("return", "consumer"), ("held", "shutdown")])
def test_a_process_settles_its_live_run_before_it_ends(stage: Stage, leave: str, by: str) -> None:
    reports, _ = finished(child(stage, LEAVES[leave]))
    assert reports == [end(by)]
    stage.provider.wait_until(lambda: stage.provider.open_requests == 0)


TOOLS = {
    "sync": "def tool():\n    begun.set()\n    threading.Event().wait()\n",
    "stubborn": (
        "async def tool():\n"
        "    begun.set()\n"
        "    while True:\n"
        "        try:\n"
        "            await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError:\n"
        "            pass\n"
    ),
}


@pytest.mark.parametrize("kind", TOOLS)
def test_a_tool_that_goes_on_does_not_keep_the_process(stage: Stage, kind: str) -> None:
    stage.provider.reply(ToolCall("tool"))
    process = child(
        stage,
        "begun = threading.Event()\n"
        + TOOLS[kind]
        + "events = agent(tools=[tool], cancel_grace=0.3).run('go', stream=True)\n"
        + "next(events)\n"
        + "begun.wait()\n"
        + "print(json.dumps(time.time()), flush=True)\n",
    )
    reports, _ = finished(process)
    assert reports[1:] == [end("shutdown")]
    assert time.time() - reports[0] < 2.5


def test_a_forked_child_can_run_again(stage: Stage) -> None:
    stage.provider.default = Text("answer")
    reports, _ = finished(
        child(
            stage,
            """
            import warnings
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            one = agent()
            print(json.dumps(one.run("go").content), flush=True)
            live = one.run("go", stream=True, run_id="parents")
            next(live)
            pid = os.fork()
            if pid == 0:
                atexit.unregister(report)
                print(json.dumps([list(registry.get_active_runs()), one.run("go").content]), flush=True)
            else:
                _, status = os.waitpid(pid, 0)
                print(json.dumps([status, [event.event for event in live][-1]]), flush=True)
                kept.clear()
            """,
        )
    )
    assert reports == ["answer", [[], "answer"], [0, "RunCompleted"]]


def test_a_forked_child_does_not_wait_at_its_exit_for_its_parents_runs(stage: Stage) -> None:
    stage.provider.default = Hang()
    reports, _ = finished(
        child(
            stage,
            """
            import warnings
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            live = agent().run("go", stream=True, run_id="parents")
            next(live)
            began = time.monotonic()
            pid = os.fork()
            if pid == 0:
                atexit.unregister(report)
                live.close()
            else:
                _, status = os.waitpid(pid, 0)
                print(json.dumps([status, time.monotonic() - began]), flush=True)
                live.close()
            """,
        )
    )
    (status, seconds), parents = reports
    assert status == 0
    assert seconds < 2.5, "the grace and its margin are 4 seconds"
    assert parents == end("consumer")


def test_a_process_waits_at_its_exit_for_the_clean_up_of_a_tool(stage: Stage) -> None:
    stage.provider.reply(ToolCall("tool"))
    reports, _ = finished(
        child(
            stage,
            """
            begun = threading.Event()

            async def tool():
                begun.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(1)  # longer than the loop itself is waited for
                    print(json.dumps("cleaned"), flush=True)

            live = agent(tools=[tool], cancel_grace=6).run("go", stream=True)
            next(live)
            begun.wait()
            """,
        )
    )
    assert reports == ["cleaned", end("shutdown")]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("leave", ["break", "cancel_run"])
def test_eager_tasks_end_their_runs_too(stage: Stage, leave: str) -> None:
    reports, _ = finished(
        child(
            stage,
            f"""
            async def main():
                asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
                async with agent().arun("go", stream=True) as events:
                    async for event in events:
                        if event.event == "RunContent":
                            if {leave == "break"}:
                                break
                            events.cancel()
            asyncio.run(main())
            """,
        )
    )
    assert reports == [end("consumer" if leave == "break" else "request")]
