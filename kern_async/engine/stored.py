"""Sessions and runs as their database has them, for users to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kern_async.db.base import (
    DeleteSession,
    FindEvents,
    FindRun,
    FindRuns,
    FindSession,
    FindSessions,
    FindTree,
    ImportSession,
    RunRecord,
    SessionRecord,
)
from kern_async.db.database import BaseDb
from kern_async.exceptions import ConfigurationError, SessionBusy, WriteRejected
from kern_async.run.base import BaseOutput
from kern_async.run.session import Session, SessionSummary

from .asking import Talk, ask, tell
from .ending import RunOutputs
from .kept import Kept, kept_from_records
from .transfer import exported, forked, imported


def events_by_run(found: Sequence[tuple[int, str]]) -> dict[str, list[dict[str, Any]]]:
    """Stored events as data, run by run, in their order."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _, text in found:
        event: dict[str, Any] = json.loads(text)
        runs.setdefault(event["run_id"], []).append(event)
    return runs


def find_events(db: BaseDb, root_run_id: str) -> Talk[list[tuple[int, str]]]:
    """All stored events of a tree: index and JSON."""
    found: list[tuple[int, str]] = []
    while True:
        some = yield from ask(db, FindEvents(root_run_id=root_run_id, after=found[-1][0] if found else -1))
        if not some:
            return found
        found += some


def find_tree(db: BaseDb, root_run_id: str) -> Talk[Kept | None]:
    """What is kept of a root run and those below it."""
    records: Sequence[RunRecord] = yield from ask(db, FindTree(root_run_id=root_run_id))
    if not records:
        return None
    events = events_by_run((yield from find_events(db, root_run_id)))
    return kept_from_records(records, events)[0]


def run_output(db: BaseDb, run_id: str, session_id: str | None) -> Talk[RunOutputs | None]:
    """What is stored of a run, with those below it."""
    record: RunRecord | None = yield from ask(db, FindRun(run_id=run_id))
    if record is None or session_id not in (None, record.key.session_id):
        return None
    root = yield from find_tree(db, record.key.root_run_id)
    if root is None:
        return None
    return next((kept.output for kept in root.tree() if kept.output.run_id == run_id), None)


def session(db: BaseDb, session_id: str) -> Talk[Session | None]:
    """A session with all its runs."""
    found: SessionRecord | None = yield from ask(db, FindSession(session_id=session_id))
    if found is None:
        return None
    records: Sequence[RunRecord] = yield from ask(db, FindRuns(session_id=session_id))
    events: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record.key.parent_run_id is None:
            events |= events_by_run((yield from find_events(db, record.key.run_id)))
    outputs: dict[str, BaseOutput] = {
        kept.output.run_id: kept.output for root in kept_from_records(records, events) for kept in root.tree()
    }
    seed = found.seed
    return Session.model_construct(
        session_id=session_id,
        user_id=seed.user_id,
        agent_id=seed.entity_id if seed.kind == "agent" else None,
        team_id=seed.entity_id if seed.kind == "team" else None,
        session_state={key: json.loads(text) for key, text in found.state.items()},
        runs=[outputs[record.key.run_id] for record in records],
        created_at=found.created_at,
        updated_at=found.updated_at,
    )


def sessions(
    db: BaseDb, *, user_id: str | None, limit: int | None, offset: int
) -> Talk[list[SessionSummary]]:
    """Sessions without their runs, the last changed first."""
    found: Sequence[SessionRecord] = yield from ask(
        db, FindSessions(user_id=user_id, limit=limit, offset=offset)
    )
    return [
        SessionSummary(
            session_id=each.seed.session_id,
            user_id=each.seed.user_id,
            agent_id=each.seed.entity_id if each.seed.kind == "agent" else None,
            team_id=each.seed.entity_id if each.seed.kind == "team" else None,
            created_at=each.created_at,
            updated_at=each.updated_at,
            run_count=each.run_count,
        )
        for each in found
    ]


def delete_session(db: BaseDb, session_id: str) -> Talk[bool]:
    """Delete a session; say whether there was one.

    Raises:
        ConfigurationError: it has live runs.
    """
    try:
        (deleted,) = yield from tell(db, DeleteSession(session_id=session_id))
    except SessionBusy as error:
        raise ConfigurationError(f"{error}; cancel its runs first") from error
    return bool(deleted)


def export_session(db: BaseDb, session_id: str) -> Talk[dict[str, Any] | None]:
    """A session as JSON data, with all that `import_session` needs."""
    whole = yield from _whole(db, session_id)
    return exported(whole.session, whole.runs, whole.events) if whole is not None else None


def _whole(db: BaseDb, session_id: str) -> Talk[ImportSession | None]:
    found: SessionRecord | None = yield from ask(db, FindSession(session_id=session_id))
    if found is None:
        return None
    records: Sequence[RunRecord] = yield from ask(db, FindRuns(session_id=session_id))
    events: list[tuple[str, int, str, str]] = []
    for record in records:
        if record.key.parent_run_id is None:
            root = record.key.run_id
            for index, text in (yield from find_events(db, root)):
                events.append((root, index, json.loads(text)["run_id"], text))
    return ImportSession(session=found, runs=records, events=events)


def import_session(db: BaseDb, data: Any, session_id: str | None) -> Talk[str]:
    """Store what `export_session` gave; returns the session's id.

    Raises:
        ConfigurationError: the data are not what `export_session` gives, or an id is in use.
    """
    write = imported(data, session_id=session_id)
    yield from _write(db, write)
    return write.session.seed.session_id


def fork_session(db: BaseDb, session_id: str, new_id: str) -> Talk[str | None]:
    """Store a copy of the session under another id, with new run ids; None: there is no such session."""
    whole = yield from _whole(db, session_id)
    if whole is None:
        return None
    yield from _write(db, forked(whole, new_id))
    return new_id


def _write(db: BaseDb, write: ImportSession) -> Talk[None]:
    try:
        yield from tell(db, write)
    except WriteRejected as error:
        raise ConfigurationError(f"{error}; nothing was imported") from error
