"""The server of these tests, in a process of its own: `python app.py PROVIDER_URL DATABASE PORT [PATH]`.

With a path, its app is mounted there in somebody's own. It prints its URL when it listens.
"""

from __future__ import annotations

import sys

from fastapi import FastAPI

from kern_async import Agent, Team, tool
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses
from kern_async.os import AgentOS


@tool
def look_up(topic: str) -> str:
    """Find sources.

    Args:
        topic: What about.
    """
    return f"three sources on {topic}"


@tool(requires_confirmation=True)
def send_mail(to: str) -> str:
    """Send a mail.

    Args:
        to: Who gets it.
    """
    return f"sent to {to}"


def main(provider: str, database: str, port: int, path: str) -> None:
    model = OpenAIResponses(id="small-model", api_key="key", base_url=provider, max_retries=0)
    researcher = Agent(name="Researcher", model=model, tools=[look_up])
    writer = Agent(name="Writer", model=model)
    critic = Agent(name="Critic", model=model)
    newsroom = Team(name="Newsroom", model=model, members=[researcher, writer, critic])
    clerk = Agent(name="Clerk", model=model, tools=[send_mail])
    agent_os = AgentOS(
        name="Night desk",
        teams=[newsroom],
        agents=[clerk, writer],
        db=SqliteDb(db_file=database),
        shutdown_grace=0.05,
    )
    app = None
    if path:
        app = FastAPI(lifespan=agent_os.lifespan)
        app.mount(path, agent_os.get_app())
    agent_os.serve(app, host="127.0.0.1", port=port, on_ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "".join(sys.argv[4:]))
