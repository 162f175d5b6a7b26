"""Stored sessions and runs, as agents and teams give them."""

from __future__ import annotations

import uuid
from typing import Any

from kern_async.db.base import FindSessions
from kern_async.db.database import BaseDb
from kern_async.engine import stored
from kern_async.engine.asking import T, Talk, drive, drive_in_thread
from kern_async.engine.ending import RunOutputs
from kern_async.engine.following import EventReader, live_output
from kern_async.exceptions import ConfigurationError
from kern_async.run.session import Session, SessionSummary

from .arguments import check_count, check_text


class Sessions:
    """Reading and changing what is stored in the `db`.

    Each verb has an async twin with an `a` before its name, but `run_events`, which is for both. The plain ones block
    the calling thread while they wait, a running event loop included. A cancel of an async one ends the waiting only:
    what it was to write may still be written.

    Raises:
        ConfigurationError: there is no `db`, or an argument is wrong.
        DatabaseUnusable: the database cannot be used as it is.
        StoreError: it did not answer within `store_timeout`.
    """

    db: BaseDb | None
    session_id: str | None
    store_timeout: float | None

    def _database(self) -> BaseDb:
        if self.db is None:
            raise ConfigurationError(
                f"{self} has no database; give db=, such as db=SqliteDb(db_file='runs.db')"
            )
        return self.db

    @property
    def _patience(self) -> float:
        return self._database().store_timeout if self.store_timeout is None else self.store_timeout

    def _hold(self, talk: Talk[T]) -> T:
        return drive_in_thread(talk, self._patience)

    async def _ahold(self, talk: Talk[T]) -> T:
        return await drive(talk, self._patience)

    # Sessions.

    def get_session(self, session_id: str | None = None) -> Session | None:
        """A session with its state and all its runs, members' too; None if there is none.

        Without an id it is the one that this agent or team names as its `session_id`.
        """
        return self._hold(self._session(session_id))

    async def aget_session(self, session_id: str | None = None) -> Session | None:
        """`get_session` for async code."""
        return await self._ahold(self._session(session_id))

    def _session(self, session_id: str | None) -> Talk[Session | None]:
        check_text("session_id", session_id)
        session_id = session_id or self.session_id
        if session_id is None:
            raise ConfigurationError("which session? Give session_id=")
        return stored.session(self._database(), session_id)

    def list_sessions(
        self, *, user_id: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[SessionSummary]:
        """The sessions of the database, the last changed first; if given, of one user only, and `limit` at most."""
        return self._hold(self._summaries(user_id, limit, offset))

    async def alist_sessions(
        self, *, user_id: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[SessionSummary]:
        """`list_sessions` for async code."""
        return await self._ahold(self._summaries(user_id, limit, offset))

    def _summaries(self, user_id: str | None, limit: int | None, offset: int) -> Talk[list[SessionSummary]]:
        check_text("user_id", user_id)
        check_count("limit", limit)
        check_count("offset", offset)
        return stored.sessions(self._database(), FindSessions(user_id=user_id, limit=limit, offset=offset))

    def delete_session(self, session_id: str) -> bool:
        """Delete a session and all that belongs to it; return whether there was one.

        Raises:
            ConfigurationError: one of its runs is live; cancel it first.
        """
        return self._hold(self._deletion(session_id))

    async def adelete_session(self, session_id: str) -> bool:
        """`delete_session` for async code."""
        return await self._ahold(self._deletion(session_id))

    def _deletion(self, session_id: str) -> Talk[bool]:
        check_text("session_id", session_id)
        return stored.delete_session(self._database(), session_id)

    def fork_session(self, session_id: str, new_session_id: str | None = None) -> str | None:
        """Copy a session with its ended and paused runs, which get new ids; return the copy's id.

        `new_session_id` is a random one if it is not given. None if there is no such session.

        Raises:
            ConfigurationError: `new_session_id` is in use.
        """
        return self._hold(self._fork(session_id, new_session_id))

    async def afork_session(self, session_id: str, new_session_id: str | None = None) -> str | None:
        """`fork_session` for async code."""
        return await self._ahold(self._fork(session_id, new_session_id))

    def _fork(self, session_id: str, new_id: str | None) -> Talk[str | None]:
        check_text("session_id", session_id)
        check_text("new_session_id", new_id)
        return stored.fork_session(self._database(), session_id, new_id or uuid.uuid4().hex)

    def export_session(self, session_id: str) -> dict[str, Any] | None:
        """A session with everything in it, as JSON data for `import_session`; None if there is none."""
        return self._hold(self._export(session_id))

    async def aexport_session(self, session_id: str) -> dict[str, Any] | None:
        """`export_session` for async code."""
        return await self._ahold(self._export(session_id))

    def _export(self, session_id: str) -> Talk[dict[str, Any] | None]:
        check_text("session_id", session_id)
        return stored.export_session(self._database(), session_id)

    def import_session(self, data: dict[str, Any], session_id: str | None = None) -> str:
        """Store what `export_session` gave, under another session id if one is given; return the session's id.

        Runs that were live when they were exported come back as ERROR, `Interrupted`, and can be continued.

        Raises:
            ConfigurationError: the data are not what `export_session` gives, or an id of theirs is in use. Then
                nothing is stored.
        """
        return self._hold(self._import(data, session_id))

    async def aimport_session(self, data: dict[str, Any], session_id: str | None = None) -> str:
        """`import_session` for async code."""
        return await self._ahold(self._import(data, session_id))

    def _import(self, data: dict[str, Any], session_id: str | None) -> Talk[str]:
        check_text("session_id", session_id)
        return stored.import_session(self._database(), data, session_id)

    # Runs.

    def get_run_output(self, run_id: str, session_id: str | None = None) -> RunOutputs | None:
        """What a run has left, or has come to so far, with its members'; None if there is no such run.

        A live run's status is PENDING or RUNNING. Runs that this process holds are found without a `db`, too. With
        `session_id` a run of another session counts as none.
        """
        output, found = self._live(run_id, session_id)
        return output if found else self._hold(stored.run_output(self._database(), run_id, session_id))

    async def aget_run_output(self, run_id: str, session_id: str | None = None) -> RunOutputs | None:
        """`get_run_output` for async code."""
        output, found = self._live(run_id, session_id)
        if found:
            return output
        return await self._ahold(stored.run_output(self._database(), run_id, session_id))

    def _live(self, run_id: str, session_id: str | None) -> tuple[RunOutputs | None, bool]:
        check_text("run_id", run_id)
        check_text("session_id", session_id)
        output = live_output(run_id)
        if output is None:
            return None, self.db is None
        return (output if session_id in (None, output.session_id) else None), True

    def run_events(self, run_id: str, after: int = -1) -> EventReader:
        """The events of a run, and of those below it, whose `event_index` is greater than `after`.

        Iterate over it with `for` or `async for`: first comes what was missed, then what happens, up to the run's
        terminal or paused event. It never holds the run back, and leaving it changes nothing for the run. A run that
        has ended has the events that `store_events=True` stored, and its end; one that is neither stored nor live has
        none. A cancelled wait loses no event.

        Raises:
            ConfigurationError: an argument is wrong.
            StoreError: while it is read, if the database does not answer.
        """
        check_text("run_id", run_id)
        check_count("after", after, least=-1)
        return EventReader(self.db, run_id, after)
