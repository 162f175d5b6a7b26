"""`kern-async sessions`: stored conversations, of a server or in an SQLite file."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote

from rich.text import Text

from kern_async.agent import Agent
from kern_async.agent.printing import printable
from kern_async.db.sqlite import SqliteDb
from kern_async.exceptions import KernError

from .client import NotFound, Server
from .exits import Exit, Refused
from .listing import COLOURS, clean, giving_way, plain_table, screen
from .showing import say


class Shelf(Protocol):
    """Where sessions are kept; every method raises `Refused` if it cannot be asked."""

    name: str

    def list(self, *, user_id: str | None, limit: int) -> list[dict[str, Any]]: ...
    def show(self, session_id: str) -> dict[str, Any] | None: ...
    def delete(self, session_id: str) -> bool: ...


class ServerShelf:
    """The sessions of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.name = server.address

    def list(self, *, user_id: str | None, limit: int) -> list[dict[str, Any]]:
        query = {"user_id": user_id, "limit": limit, "sort_by": "updated_at"}
        return self._server.list("/sessions", **query)

    def show(self, session_id: str) -> dict[str, Any] | None:
        path = f"/sessions/{quote(session_id, safe='')}"
        session = self._server.find(path)
        if session is not None:
            session["runs"] = self._server.list(f"{path}/runs")
        return session

    def delete(self, session_id: str) -> bool:
        try:
            self._server.delete(f"/sessions/{quote(session_id, safe='')}")
        except NotFound:
            return False
        return True


class FileShelf:
    """The sessions in an SQLite file.

    Raises:
        Refused: there is no such file; none is made.
    """

    def __init__(self, file: str) -> None:
        if not Path(file).is_file():
            raise Refused(f"there is no database {file}")
        self.name = file
        try:
            self._reader = Agent(name="sessions", db=SqliteDb(file))
        except KernError as error:
            raise Refused(str(error)) from None

    def list(self, *, user_id: str | None, limit: int) -> list[dict[str, Any]]:
        try:
            found = self._reader.list_sessions(user_id=user_id, limit=limit)
        except KernError as error:
            raise Refused(str(error)) from None
        return [each.to_dict() for each in found]

    def show(self, session_id: str) -> dict[str, Any] | None:
        try:
            session = self._reader.get_session(session_id)
        except KernError as error:
            raise Refused(str(error)) from None
        return session.to_dict() if session is not None else None

    def delete(self, session_id: str) -> bool:
        try:
            return self._reader.delete_session(session_id)
        except KernError as error:
            raise Refused(str(error)) from None


def list_sessions(shelf: Shelf, *, user_id: str | None, limit: int, as_json: bool) -> Exit:
    """Print the sessions, the last changed first."""
    sessions = shelf.list(user_id=user_id, limit=limit)
    if as_json:
        sys.stdout.write(json.dumps(sessions, ensure_ascii=False) + "\n")
    elif sessions:
        with_user = any(each.get("user_id") for each in sessions)
        table = plain_table("session", "of", *(["user"] if with_user else []), "changed", "~name")
        for each in sessions:
            name = clean(each.get("session_name") or "")
            table.add_row(
                Text(clean(each.get("session_id"))),
                Text(clean(each.get("team_id") or each.get("agent_id") or "")),
                *([Text(clean(each.get("user_id") or ""))] if with_user else []),
                moment(each.get("updated_at")),
                giving_way(("" if name == each.get("session_id") else name, "dim")),
            )
        screen().print(table)
    else:
        say(f"no sessions in {shelf.name}")
    return Exit.done


def show_session(shelf: Shelf, session_id: str, *, as_json: bool) -> Exit:
    """Print a session's conversation.

    Raises:
        Refused: there is no such session.
    """
    session = shelf.show(session_id)
    if session is None:
        raise Refused(f"{shelf.name} has no session {session_id!r}")
    if as_json:
        sys.stdout.write(json.dumps(session, ensure_ascii=False) + "\n")
        return Exit.done
    console = screen()
    for run in cast("list[dict[str, Any]]", session.get("runs") or []):
        if run.get("parent_run_id"):
            continue  # a member's: its team's answer has what came of it
        status = clean(run.get("status"))
        for line in (
            Text(f"> {_asked(run)}", style="bold"),
            Text(_said(run)),
            Text.assemble(
                (status.lower(), COLOURS.get(status, "")),
                (f"  run {clean(run.get('run_id'))}  {moment(run.get('created_at'))}", "dim"),
            ),
        ):
            console.print(line, soft_wrap=not console.is_terminal)
        console.print()
    return Exit.done


def delete_sessions(shelf: Shelf, session_ids: list[str], *, as_json: bool) -> Exit:
    """Delete sessions with all that belongs to them, and say which.

    Raises:
        Refused: one cannot be deleted; those before it are.
    """
    deleted = {session_id: shelf.delete(session_id) for session_id in session_ids}
    if as_json:
        sys.stdout.write(json.dumps(deleted) + "\n")
    for session_id, done in deleted.items():
        if not done:
            say(f"kern-async: {shelf.name} has no session {session_id!r}")
        elif not as_json:
            sys.stdout.write(f"{clean(session_id)}  deleted\n")
    return Exit.done if all(deleted.values()) else Exit.refused


def _asked(run: dict[str, Any]) -> str:
    """The input of a run, as a server or a database has it."""
    asked = run.get("run_input")
    if asked is None:
        given = cast("dict[str, Any]", run.get("input") or {})
        asked = given.get("input_content")
    if isinstance(asked, dict):
        asked = cast("dict[str, Any]", asked).get("content", cast("dict[str, Any]", asked))
    return _text(asked)


def _said(run: dict[str, Any]) -> str:
    return _text(run.get("content")) or f"({printable(str(run.get('error') or 'no text'))})"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def moment(value: Any) -> str:
    """A time of a database, in seconds, or of a server, as ISO 8601, in this machine's time zone."""
    try:
        when = (
            datetime.fromtimestamp(value).astimezone()
            if isinstance(value, int | float)
            else datetime.fromisoformat(str(value)).astimezone()
        )
    except (ValueError, OverflowError, OSError):
        return ""
    this_year = when.year == datetime.now().astimezone().year
    return when.strftime("%d %b %H:%M" if this_year else "%d %b %Y")
