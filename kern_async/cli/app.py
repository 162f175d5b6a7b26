"""The commands and their options. What a command needs is imported when it is called, so that `--help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Protocol, cast, runtime_checkable

import typer
import typer.main

from .exits import Exit, Refused

DEFAULT_URL = "http://localhost:7777"
EXITS = (
    "Exit codes: 0 done, the run COMPLETED; 1 the run ended ERROR, or had ended before it could be cancelled; "
    "2 wrong usage, not found, no connection, refused; 3 the run is PAUSED; 130 the run was CANCELLED, by whomever, "
    "or Ctrl-C; 141 nobody reads the output."
)

app = typer.Typer(
    name="kern-async",
    help="Run agents and teams, here or on a server, watch them and stop them.",
    epilog=EXITS,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Mode(StrEnum):
    """How urgent a cancel is."""

    now = "now"
    after_tools = "after_tools"
    after_turn = "after_turn"


class Action(StrEnum):
    """What to do with sessions."""

    list = "list"
    show = "show"
    delete = "delete"


Url = Annotated[
    str, typer.Option("--url", metavar="URL", envvar="KERN_ASYNC_URL", help="The server.", show_default=True)
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="OS_SECURITY_KEY",
        show_envvar=True,
        help="The server's key; better in the environment, where `ps` of the system does not show it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there.")]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the whole traceback when the module cannot be imported.")
]


@app.command()
def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME", help="An AgentOS, a team or an agent; or path/to/file.py:name."
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Where to listen; AGENT_OS_HOST, or localhost, if not given."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="AGENT_OS_PORT, or 7777, if not given; 0 lets the system choose.",
        ),
    ] = None,
    debug: Debug = False,
) -> int:
    """Serve agents and teams over HTTP. Ctrl-C and SIGTERM end their runs in order."""
    from .serving import serve as serve_it

    return serve_it(target, host=host, port=port, debug=debug)


@app.command()
def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="module:name or path/to/file.py:name; with --url team:ID, agent:ID or an id.",
        ),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to ask; - reads it from stdin.")],
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Run on this server, not in this process.")
    ] = None,
    key: Key = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="The session that the run belongs to.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Whose run it is.")] = None,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The run's id, random if not given.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Cancel the run when it takes longer.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Run a team or an agent, and show it live. The first Ctrl-C cancels the run, a second one leaves at once."""
    from .here import Wish, prompt_of, run_here

    wish = Wish(
        prompt=prompt_of(prompt),
        session_id=session,
        user_id=user,
        run_id=run_id,
        timeout=timeout,
        as_json=as_json,
    )
    if url is None:
        return run_here(target, wish, debug=debug)
    from .client import Server
    from .there import run_there

    with Server(url, key) as server:
        return run_there(server, target, wish)


@app.command()
def ps(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> int:
    """List the live runs of a server, members below their teams."""
    from .client import Server
    from .listing import ps as list_them

    with Server(url, key) as server:
        return list_them(server, as_json=as_json)


@app.command()
def watch(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's id, or a beginning that no other has.")
    ],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Follow a run of a server from its beginning. Ctrl-C leaves it alone."""
    from .client import Server
    from .watching import watch as watch_it

    with Server(url, key) as server:
        return watch_it(server, run_id, as_json=as_json)


@app.command()
def cancel(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", help="Ids of runs, of members too, or beginnings that no other has."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are live now.")] = False,
    team: Annotated[str | None, typer.Option(metavar="ID", help="Those of a team.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="Those of an agent.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Those of a session.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Those of a user.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when they have ended.")] = False,
    mode: Annotated[
        Mode | None, typer.Option(help="after_tools lets running tools finish, after_turn the answer too.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Told to whoever reads their end.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """Cancel runs of a server: some, all, or those of somebody."""
    from .client import Server
    from .stopping import Which
    from .stopping import cancel as cancel_them

    which = Which(
        run_ids=run_ids or [],
        everything=everything,
        team_id=team,
        agent_id=agent,
        session_id=session,
        user_id=user,
    )
    which.check()
    with Server(url, key) as server:
        return cancel_them(
            server, which, wait=wait, mode=mode.value if mode else None, reason=reason, as_json=as_json
        )


@app.command()
def sessions(
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.list,
    session_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Which to show or delete.")
    ] = None,
    db: Annotated[
        str | None, typer.Option("--db", metavar="FILE", help="An SQLite file, not a server.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="List those of one user.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="List so many at most.")] = 50,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> int:
    """List, show or delete stored sessions, of a server or in a file."""
    from .client import Server
    from .sessions import FileShelf, ServerShelf, delete_sessions, list_sessions, show_session

    chosen = session_ids or []
    if action is Action.list and chosen:
        raise Refused("`sessions list` takes no id; `sessions show` does")
    if action is Action.show and len(chosen) != 1:
        raise Refused("show which session? Give one id")
    if action is Action.delete and not chosen:
        raise Refused("delete which session? Give its id")
    with nullcontext() if db is not None else Server(url, key) as server:
        shelf = FileShelf(db or "") if server is None else ServerShelf(server)
        if action is Action.list:
            return list_sessions(shelf, user_id=user, limit=limit, as_json=as_json)
        if action is Action.show:
            return show_session(shelf, chosen[0], as_json=as_json)
        return delete_sessions(shelf, chosen, as_json=as_json)


@app.command()
def demo() -> int:
    """Watch a team complete one run, and be stopped in the middle of the next; needs no key."""
    from .demo import main

    return main()


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"kern-async {version('kern-async')}")
        except PackageNotFoundError:
            typer.echo("kern-async, not installed")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@runtime_checkable
class _UsageError(Protocol):
    """What typer raises for wrong usage, whose class it does not make public."""

    exit_code: int

    def format_message(self) -> str: ...


def invoke(arguments: Sequence[str] | None) -> int:
    """Do what the arguments say, and return the exit code.

    Raises:
        Refused: they are wrong, or it cannot be done.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(app)
    try:
        # Not `app(...)`, which ends the process itself when nobody reads the output.
        with command.make_context("kern-async", given) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return Exit.cancelled
    except Exception as error:
        if isinstance(error, _UsageError):
            raise Refused(_usage(error)) from None
        raise
    return cast("int", code)


def _usage(error: _UsageError) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "kern-async")
    return f"{message}; see `{command} --help`" if message else f"see `{command} --help`"
