"""The reference's server of `benchmarks.server`, run in an environment of its own, with the arguments of `ours.py`."""

from __future__ import annotations

import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    base_url, directory, interval, words = sys.argv[1:]
    agents: Any = import_module("agno.agent")
    teams: Any = import_module("agno.team")
    models: Any = import_module("agno.models.openai")
    sqlite: Any = import_module("agno.db.sqlite")
    server: Any = import_module("agno.os")
    uvicorn: Any = import_module("uvicorn")
    db = sqlite.SqliteDb(db_file=str(Path(directory) / "reference.db"))

    def model(name: str) -> Any:
        return models.OpenAIResponses(id=name, base_url=base_url, api_key="bench", max_retries=0)

    def agent(name: str, what: str, **options: Any) -> Any:
        return agents.Agent(
            id=name, name=name, model=model(what), store_events=True, telemetry=False, **options
        )

    def team(name: str, what: str) -> Any:
        members = [agent(member, what) for member in ("first", "second")]
        return teams.Team(
            id=name,
            name=name,
            members=members,
            model=model("leader"),
            db=db,
            store_events=True,
            stream_member_events=True,
            telemetry=False,
        )

    agent_os = server.AgentOS(
        agents=[agent("crowd", f"speaks {interval}", db=db), agent("teller", f"tells {words}", db=db)],
        teams=[team("speaking", "speaks 0.02"), team("waiting", "waits")],
        telemetry=False,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(agent_os.get_app(), log_level="error", access_log=False)

    server = uvicorn.Server(config)
    start = server.startup

    async def startup(sockets: Any = None) -> None:
        await start(sockets)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)

    server.startup = startup
    server.run([listener])


main()
