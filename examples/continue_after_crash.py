"""A process is killed in the middle of a run, and another one goes on with it from the database.

The tool has been called and its result is stored, so it is not called again; the answer goes on where it was cut.
`lease_seconds` is how long a process that died counts as alive: short here, 30 seconds if it is not given.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from kern_async import Agent, RunStatus
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses

RUN = "the-report"


def measure(place: str) -> str:
    """Measure the temperature of a place.

    Args:
        place: Where.
    """
    print(f"(measuring: {place})", flush=True)
    return f"{place}: 21.5 degrees"


def reporter(db_file: str | Path) -> Agent:
    """The same agent in both processes."""
    return Agent(
        name="Reporter",
        model=OpenAIResponses(id="gpt-5.2"),
        tools=[measure],
        db=SqliteDb(db_file, lease_seconds=1),
        store_events=True,  # what is said is then stored about twenty times a second
    )


def child(db_file: str) -> None:
    """Begin the run, and show what it says; somebody will kill this process."""
    with reporter(db_file).run(
        "Measure the cellar, then write a long report.", stream=True, run_id=RUN
    ) as events:
        for event in events:
            if event.event == "RunContent":
                print(event.content, end="", flush=True)


def begin_and_kill(db_file: Path, characters: int = 400) -> None:
    """Have a child process begin the run, and kill it when it has said so much."""
    with subprocess.Popen(
        [sys.executable, __file__, "child", str(db_file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while characters and (character := process.stdout.read(1)):
            print(character, end="", flush=True)
            characters -= 1
        process.kill()
    print(f"\nthe child ended with {process.returncode}")


async def go_on(db_file: Path) -> None:
    """Find the run, wait until it counts as dead, and continue it."""
    agent = reporter(db_file)
    found = await agent.aget_run_output(RUN)
    while found is not None and found.status is RunStatus.running:  # until its lease is over
        await asyncio.sleep(0.1)
        found = await agent.aget_run_output(RUN)
    assert found is not None
    print(f"found: {found.status} {found.error_type}: {found.error}")
    print(f"kept: {len(found.content or '')} characters, {[call.result for call in found.tools or ()]}")
    if found.status is not RunStatus.completed:
        found = await agent.acontinue_run(run_id=RUN)
    print(f"{found.status}: {len(found.content or '')} characters, tool calls: {len(found.tools or ())}")
    assert agent.db is not None
    await agent.db.aclose()


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "runs.db"
            begin_and_kill(file)
            asyncio.run(go_on(file))
