"""Our server of `benchmarks.server`: `ours.py PROVIDER DIRECTORY INTERVAL WORDS`."""

from __future__ import annotations

import sys
from pathlib import Path

from kern_async import Agent, Team
from kern_async.db.sqlite import SqliteDb
from kern_async.models.openai import OpenAIResponses
from kern_async.os import AgentOS


def main() -> None:
    base_url, directory, interval, words = sys.argv[1:]

    def model(name: str) -> OpenAIResponses:
        return OpenAIResponses(name, base_url=base_url, api_key="bench", max_retries=0)

    def team(name: str, what: str) -> Team:
        members = [Agent(name=member, model=model(what)) for member in ("first", "second")]
        return Team(name=name, members=members, model=model("leader"))

    AgentOS(
        agents=[
            Agent(name="crowd", model=model(f"speaks {interval}")),
            Agent(name="teller", model=model(f"tells {words}")),
        ],
        teams=[team("speaking", "speaks 0.02"), team("waiting", "waits")],
        db=SqliteDb(Path(directory) / "ours.db"),
        max_concurrent_runs=None,
    ).serve(host="127.0.0.1", port=0, on_ready=lambda url: print(url, flush=True))


main()
