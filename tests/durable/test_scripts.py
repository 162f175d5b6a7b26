"""Scripts that end in every way: what they did is in their database when they are gone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from kern_async import Agent
from kern_async.testing import Forever, ProviderServer, ToolCall

from .children import run_script
from .places import Place
from .whole import WholeModel

EXAMPLE = Path(__file__).parents[2] / "examples" / "team_run_cancellation.py"

PRELUDE = """
import asyncio, os, sys, threading
import anyio
from kern_async import Agent, RunContext, Team
from kern_async.db.sqlite import SqliteDb
from kern_async.models.base import Model, ModelReply
from kern_async.testing.scripted import ScriptedModel, call

db = SqliteDb(db_file=sys.argv[1])

class Endless(Model):
    async def respond(self, request, emit):
        for number in range(10_000):
            await emit("text", "word ")
            await anyio.sleep(0.01)
            if number == 20:
                print("speaking", flush=True)

def team(*turns):
    def model():
        return ScriptedModel(turns=turns) if turns else Endless("endless")
    members = [Agent(name="one", model=model()), Agent(name="two", model=model())]
    options = {"model": model(), "mode": "broadcast", "db": db, "store_events": True}
    return Team(name="team", members=members, **options)

"""


def run(
    place: Place, code: str, *, cut: bool = False, variables: dict[str, str] | None = None
) -> tuple[int, str]:
    """How the script ended, and what it complained of; `cut`: with a Ctrl-C while its model speaks."""
    process = run_script(PRELUDE + code, place.spec, variables=variables)
    try:
        if cut:
            assert process.stdout is not None
            assert process.stdout.readline() == "speaking\n"
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    for fault in ("Warning", "never retrieved", "Exception ignored", "was destroyed", "Unhandled"):
        assert fault not in err, err
    return process.returncode, err


def stored(place: Place) -> Any:
    """The only root run that there is."""
    db = place.database()
    reader = Agent(model=WholeModel("reader"), db=db)
    [session] = reader.list_sessions()
    whole = reader.get_session(session.session_id)
    assert whole is not None
    [root] = [run for run in whole.runs if run.parent_run_id is None]
    db.close()
    return root


def check_cancelled(output: Any, *by: str) -> None:
    """It and its members are CANCELLED, with what they had said, and the user's message."""
    assert output.status.value == "CANCELLED"
    assert output.cancelled_by in by
    if output.events is not None:
        assert output.events[-1].event == output.event
    members = getattr(output, "member_responses", [])
    for member in members:
        assert (member.status.value, member.cancelled_by) == ("CANCELLED", "parent")
    assert any(each.content and set(each.content.split()) == {"word"} for each in [output, *members])
    assert next(message.content for message in output.messages if message.role == "user") == "Go."


LEAVES = {
    "a consumer that returns": (
        """
def read():
    for event in team().run("Go.", stream=True):
        if event.event == "RunContent":
            return
read()
""",
        "consumer",
    ),
    "an end with a stream that is held": (
        """
events = team().run("Go.", stream=True)
next(event for event in events if event.event == "RunContent")
""",
        "shutdown",
    ),
    "a sys.exit with a live run in a thread": (
        """
heard = threading.Event()
def read():
    for event in team().run("Go.", stream=True):
        if event.event == "RunContent":
            heard.set()
threading.Thread(target=read, daemon=True).start()
heard.wait()
sys.exit(0)
""",
        "shutdown",
    ),
    "an event loop that ends with a live stream": (
        """
async def main():
    events = team().arun("Go.", stream=True)
    async for event in events:
        if event.event == "RunContent":
            kept.append(events)
            return
kept = []
asyncio.run(main())
""",
        "shutdown",
    ),
    "an event loop that ends with a live task": (
        """
async def main():
    heard = asyncio.Event()
    async def read():
        async for event in team().arun("Go.", stream=True):
            if event.event == "RunContent":
                heard.set()
    kept.append(asyncio.create_task(read()))
    await heard.wait()
kept = []
asyncio.run(main())
""",
        "caller or shutdown",  # asyncio cancels reader and run in no order
    ),
    "an event loop that ends with a live background run": (
        """
async def main():
    who = team()
    run = await who.arun("Go.", background=True)
    async for event in who.run_events(run.run_id):
        if event.event == "RunContent":
            return
asyncio.run(main())
""",
        "shutdown",
    ),
}


@pytest.mark.parametrize("leave", LEAVES)
def test_a_live_run_is_settled_and_stored_when_its_process_is_gone(leave: str, sqlite: Place) -> None:
    code, by = LEAVES[leave]
    assert run(sqlite, code)[0] == 0
    check_cancelled(stored(sqlite), *by.split(" or "))
    assert set(sqlite.statuses(roots=False).values()) == {"CANCELLED"}
    sqlite.check_whole()


CTRL_C = {
    "sync": "team().run('Go.')",
    "sync, streamed": "for _ in team().run('Go.', stream=True): pass",
    "awaited": "asyncio.run(team().arun('Go.'))",
}


@pytest.mark.parametrize("how", CTRL_C)
def test_a_run_that_ctrl_c_ends_is_stored(how: str, sqlite: Place) -> None:
    code, err = run(sqlite, CTRL_C[how], cut=True)
    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    check_cancelled(stored(sqlite), "caller")


def test_a_script_that_ends_right_after_a_run_has_stored_it(sqlite: Place) -> None:
    assert run(sqlite, "team('All of it.').run('Go.')") == (0, "")
    output = stored(sqlite)
    assert (output.status.value, output.content) == ("COMPLETED", "All of it.")
    assert output.events[-1].event == "TeamRunCompleted"
    assert [member.content for member in output.member_responses] == ["All of it."] * 2


TOOL = """
def leave(context: RunContext):
    context.session_state["left"] = True
    sys.exit(3)

model = ScriptedModel(turns=[["Bye. ", call("leave")], "Still there."])
Agent(model=model, tools=[leave], db=db).run("Go.")
"""


def test_a_tool_that_exits_loses_nothing_of_its_run(sqlite: Place) -> None:
    run(sqlite, TOOL)
    output = stored(sqlite)
    assert output.status.value in ("COMPLETED", "ERROR")
    assert (output.content or "").startswith("Bye. ")
    assert output.session_state == {"left": True}


def test_the_example_that_cancels_a_team_stores_it_with_a_database(
    provider: ProviderServer, sqlite: Place
) -> None:
    """Its consumer returns in mid-stream, at a member's end, and the script is over then."""
    provider.reply(
        [
            ToolCall("delegate_task_to_member", {"member_id": "storytelleragent", "task": "Write."}),
            ToolCall("delegate_task_to_member", {"member_id": "editoragent", "task": "Edit."}),
        ]
    )
    provider.default = Forever(interval=0.02)
    code = EXAMPLE.read_text()
    assert code.count("    team = Team(\n") == 1
    assert code.count("from __future__ import annotations\n") == 1
    code = code.replace("from __future__ import annotations\n", "")
    code = code.replace("    team = Team(\n", "    team = Team(db=db,\n").replace(
        '"SECONDS", "8"', '"SECONDS", "0.7"'
    )
    variables = {"OPENAI_BASE_URL": provider.base_url, "OPENAI_API_KEY": "key"}
    assert run(sqlite, code, variables=variables)[0] == 0
    output = stored(sqlite)
    assert output.status.value == "CANCELLED"
    assert [member.status.value for member in output.member_responses] == ["CANCELLED"] * 2
    assert all(set(member.content.split()) == {"word"} for member in output.member_responses)
    assert sorted(sqlite.statuses(roots=False).values()) == ["CANCELLED"] * 3
