"""A server in a process of its own, whose models ask the provider of the test.

`python -m tests.os.hosted '{"db": FILE}'` serves it; `uvicorn tests.os.hosted:app` serves an application of somebody's
own in which it is mounted at `/os`, and has its options from the environment.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from fastapi import FastAPI

from kern_async import Agent, Team, tool
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses
from kern_async.os import AgentOS

OPTIONS = "KERN_TEST_OPTIONS"
CANCEL_GRACE = 2.0
STORE_TIMEOUT = 2.0


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pay an amount."""
    return f"paid {amount}"


def agent(name: str, **options: Any) -> Agent:
    return Agent(name=name, model=OpenAIResponses(name, max_retries=0), cancel_grace=CANCEL_GRACE, **options)


def make(*, db: str, grace: float = 10.0, lease_seconds: float = 30.0) -> AgentOS:
    """Two members who are asked at once, one agent, and one whose tool waits for a yes."""
    return AgentOS(
        agents=[agent("solo"), agent("payer", tools=[pay])],
        teams=[
            Team(
                name="crowd",
                members=[agent("first"), agent("second")],
                model=OpenAIResponses("crowd", max_retries=0),
                mode="broadcast",
                cancel_grace=CANCEL_GRACE,
            )
        ],
        db=SqliteDb(db, store_timeout=STORE_TIMEOUT, lease_seconds=lease_seconds),
        shutdown_grace=grace,
    )


def mounted(agent_os: AgentOS) -> FastAPI:
    """An application of somebody's own, which may end the runs and go on itself."""
    app = FastAPI(lifespan=agent_os.lifespan)

    @app.get("/own")
    async def own() -> str:
        return "here"

    @app.post("/own/stop")
    async def stop() -> bool:
        await agent_os.shutdown(0)
        return agent_os.closed

    app.mount("/os", agent_os.get_app())
    return app


def main() -> None:
    given: dict[str, Any] = json.loads(sys.argv[1])
    app = None
    if given.pop(
        "named", False
    ):  # then this module is imported once more, and the application has another server
        os.environ[OPTIONS] = json.dumps(given)
        app = "tests.os.hosted:app"
    make(**given).serve(app, host="127.0.0.1", port=0, on_ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
elif OPTIONS in os.environ:
    app = mounted(make(**json.loads(os.environ[OPTIONS])))
