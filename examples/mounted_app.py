"""An application of one's own, with a team mounted under /os and a page that runs it: http://localhost:8000/.

`lifespan=agent_os.lifespan` ends the live runs when the application ends: uvicorn waits for streams that are open, and
an app that is mounted has no lifespan of its own. A key, or a log-in of one's own, belongs before it: docs/security.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse

from kern_async import Agent, Team
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses
from kern_async.os import AgentOS

model = OpenAIResponses(os.environ.get("OPENAI_MODEL") or "gpt-5-mini")
team = Team(
    name="Storytelling Team",
    model=model,
    members=[
        Agent(name="Storyteller", model=model, description="You tell stories in simple words."),
        Agent(name="Editor", model=model, description="You say how a story should be told."),
    ],
    mode="broadcast",
)
agent_os = AgentOS(
    teams=[team],
    db=SqliteDb(sys.argv[1] if len(sys.argv) > 1 else "stories.db"),
    shutdown_grace=2,
)

app = FastAPI(lifespan=agent_os.lifespan)
app.mount("/os", agent_os.get_app())


@app.get("/")
async def page() -> FileResponse:
    """The page of one's own."""
    return FileResponse(Path(__file__).with_name("browser_page.html"))


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
