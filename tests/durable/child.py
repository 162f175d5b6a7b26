"""Another process that uses a database: it does what it is told on its standard input, and answers on its output.

python -m tests.durable.child <file or URL> '{"lease_seconds": 1}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from kern_async import Agent, RunContext, Team
from kern_async.db.database import BaseDb

from .places import Place
from .whole import WholeModel, delegation

STORY = "".join(f"word {number}, " for number in range(60)) + "and the end."
"""What the slow member of a team says; the quick one has finished when it begins."""

QUICK = "Done at once."


def a_team(db: BaseDb, pace: Callable[[], Awaitable[object]] | None = None) -> Team:
    """A team whose first member has finished while its second one speaks."""
    options: dict[str, Any] = {} if pace is None else {"pace": pace}
    quick = Agent(name="quick", model=WholeModel("quick", [(QUICK, ())]))
    slow = Agent(name="slow", model=WholeModel("slow", [(STORY, ())], **options))
    turns = [("I ask. ", delegation("quick", "slow")), ("All are done.", ())]
    return Team(
        name="crowd", members=[quick, slow], model=WholeModel("crowd", turns), db=db, store_events=True
    )


class Child:
    def __init__(self, db: BaseDb, group: anyio.abc.TaskGroup) -> None:
        self.db = db
        self.reader = Agent(model=WholeModel("reader"), db=db)
        self.hurry = False
        self._group = group
        self._outputs: dict[str, Any] = {}

    async def status(self, run_id: str) -> str | None:
        output = await self.reader.aget_run_output(run_id)
        return output.status.value if output is not None else None

    async def crowd(self, runs: list[str], session_id: str) -> None:
        """Begin runs and come back when the second member of each speaks."""

        async def one(run_id: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            words = 0

            async def pace() -> None:
                nonlocal words
                words += 1
                if words == 5:
                    task_status.started()
                await anyio.sleep(0 if self.hurry else 0.1)

            self._outputs[run_id] = await a_team(self.db, pace).arun(
                "Go.", run_id=run_id, session_id=session_id
            )

        async with anyio.create_task_group() as starting:
            for run_id in runs:
                starting.start_soon(self._group.start, one, run_id)

    async def finish(self, runs: list[str]) -> list[Any]:
        """Let the runs end, and say how they did."""
        self.hurry = True
        with anyio.fail_after(30):
            while not self._outputs.keys() >= set(runs):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        ends = (self._outputs[run_id] for run_id in runs)
        return [[end.status.value, end.content, end.stored, end.store_error] for end in ends]

    async def session(self, session_id: str, names: list[str]) -> list[Any]:
        """As many runs as there are names, all at once in one session."""
        return await one_session(self.db, session_id, names)


async def one_session(db: BaseDb, session_id: str, names: list[str]) -> list[Any]:
    """Each of the runs leaves a key of its own in the session's state."""

    async def leave(name: str, context: RunContext) -> str:
        context.session_state[name] = {"left": name}
        return "left"

    ends: list[Any] = []

    async def one(name: str) -> None:
        turns = [("", [("leave", {"name": name})]), (f"I am {name}.", ())]
        agent = Agent(name="many", model=WholeModel("many", turns), tools=[leave], db=db)
        end = await agent.arun("Go.", run_id=name, session_id=session_id)
        ends.append([end.status.value, end.content, end.stored, end.store_error])

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(one, name)
    return ends


async def main() -> None:
    db = Place(sys.argv[1]).database(**json.loads(sys.argv[2]))
    async with anyio.create_task_group() as group:
        child = Child(db, group)
        print("ready", flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            verb, arguments = json.loads(line)
            answer = await getattr(child, verb)(*arguments)
            print(json.dumps(answer), flush=True)
        group.cancel_scope.cancel()
    await db.aclose()


if __name__ == "__main__":
    anyio.run(main)
