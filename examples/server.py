"""A team on a server: `examples/server.py`, then open http://localhost:7777/console, or use examples/cancel_over_http.sh.

With OPENAI_API_KEY set the model is OpenAI's (OPENAI_MODEL names it), otherwise a small one that runs here and needs no
key. Ctrl-C gives live runs a moment, then they end CANCELLED; runs and sessions are kept in the file.
"""

from __future__ import annotations

import os
import sys

import anyio

from kern_async import Agent, Team
from kern_async.db.sqlite import SqliteDb
from kern_async.models.base import Model
from kern_async.models.llamacpp import LlamaCpp
from kern_async.models.openai import OpenAIResponses
from kern_async.os import AgentOS


def a_model() -> Model:
    """OpenAI's with a key, else the small one, ready to answer."""
    if os.environ.get("OPENAI_API_KEY"):
        return OpenAIResponses(os.environ.get("OPENAI_MODEL") or "gpt-5-mini")
    print("starting the model (SmolLM2, on this machine) ...", flush=True)
    model = LlamaCpp(max_output_tokens=1500)
    anyio.run(model.start)
    return model


def storytelling(model: Model) -> Team:
    """Two members who are asked at once."""
    return Team(
        name="Storytelling Team",
        model=model,
        members=[
            Agent(name="Storyteller", model=model, description="You tell stories in simple words."),
            Agent(name="Editor", model=model, description="You say how a story should be told."),
        ],
        mode="broadcast",
    )


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    db_file = sys.argv[1] if len(sys.argv) > 1 else "stories.db"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 7777
    agent_os = AgentOS(
        name="Stories", teams=[storytelling(a_model())], db=SqliteDb(db_file), shutdown_grace=2
    )
    agent_os.serve(port=port, on_ready=lambda url: print(f"serving at {url}", flush=True))


if __name__ == "__main__":
    main()
