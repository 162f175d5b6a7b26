"""What the runtime logs: ids, status and times, and never content."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import anyio
import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kern_async import abandoned, cancel_run
from kern_async.testing import Text, ToolCall

if TYPE_CHECKING:
    from outside.conftest import Stage


@pytest.fixture
def logs() -> Generator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured
    structlog.reset_defaults()


async def test_a_run_logs_its_start_and_its_end_without_content(stage: Stage, logs: list[EventDict]) -> None:
    stage.provider.default = Text("the secret answer")
    output = await stage.team(session_id="session").arun("the secret question", run_id=stage.RUN)
    assert output.content
    own = [record for record in logs if record["run_id"] == stage.RUN]
    assert [record["event"] for record in own] == ["run.started", "run.ended"]
    for record in own:
        assert (record["session_id"], record["team_id"]) == ("session", "team")
        assert record["log_level"] == "info"
    assert own[1]["status"] == "COMPLETED"
    assert own[1]["output_tokens"] == output.metrics.output_tokens
    members = [record for record in logs if record["run_id"] != stage.RUN]
    assert {record["parent_run_id"] for record in members} == {stage.RUN}
    assert {record["agent_id"] for record in members} == {"first", "second"}
    assert "secret" not in str(logs)


async def test_a_cancelled_run_and_its_straggler_are_logged(stage: Stage, logs: list[EventDict]) -> None:
    begun, released = threading.Event(), threading.Event()

    def wait(what: str) -> str:
        """Wait."""
        begun.set()
        assert released.wait(10)
        return what

    stage.provider.reply(ToolCall("wait", {"what": "secret"}))
    async with stage.agent(tools=[wait]).arun("secret", stream=True, run_id=stage.RUN) as events:
        await stage.provider.await_until(begun.is_set)
        events.cancel(reason="enough")
        async for _ in events:
            pass
    released.set()
    await stage.provider.await_until(lambda: not abandoned())
    assert [record["event"] for record in logs] == ["run.started", "run.straggler", "run.ended"]
    _, straggler, ended = logs
    assert (straggler["log_level"], straggler["kind"], straggler["name"]) == ("warning", "thread", "wait")
    assert (straggler["run_id"], straggler["agent_id"]) == (stage.RUN, "agent")
    assert (ended["status"], ended["cancelled_by"]) == ("CANCELLED", "request")
    assert 0 <= ended["cancel_latency"] < 5
    assert "secret" not in str(logs)


@pytest.mark.parametrize("then", ["goes on", "returns"])
async def test_a_tool_that_blocks_the_loop_is_named(stage: Stage, logs: list[EventDict], then: str) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def cancel() -> None:
        begun.wait(10)
        cancel_run(stage.RUN)
        cancelled.set()

    async def block() -> None:
        """Block the event loop."""
        begun.set()
        cancelled.wait(10)
        time.sleep(0.3)  # noqa: ASYNC251 - the fault that is to be found
        if then == "goes on":
            await anyio.sleep_forever()

    stage.provider.reply(ToolCall("block"))
    thread = threading.Thread(target=cancel)
    thread.start()
    output = await stage.agent(tools=[block]).arun("go", run_id=stage.RUN)
    thread.join()
    assert output.is_cancelled
    (blocked,) = [record for record in logs if record["event"] == "loop.blocked"]
    assert blocked["log_level"] == "warning"
    assert blocked["run_id"] == stage.RUN
    assert blocked["tools"] == ["block"]
    assert 0.25 <= blocked["seconds"] < 5


async def test_an_unconfigured_structlog_prints_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.provider.default = Text("answer")
    assert not structlog.is_configured()
    await stage.agent().arun("go")
    assert capsys.readouterr() == ("", "")
