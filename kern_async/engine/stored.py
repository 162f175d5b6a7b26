"""Sessions and runs as their database has them, for users to look at."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kern_async.db.base import (
    INTERRUPTED,
    LIVE,
    CountSessions,
    DeleteSession,
    FindEvents,
    FindOpenings,
    FindRun,
    FindRuns,
    FindSession,
    FindSessions,
    FindTree,
    ImportSession,
    RunRecord,
    SessionRecord,
    SessionSeed,
    SetSession,
)
from kern_async.db.database import BaseDb
from kern_async.exceptions import ConfigurationError, SessionBusy, WriteRejected
from kern_async.run.base import BaseOutput
from kern_async.run.session import Session, SessionSummary

from .asking import Talk, ask, tell
from .ending import RunOutputs
from .kept import Kept, kept_from_records


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


def session(
    db: BaseDb, session_id: str, *, events: bool = True, messages: bool = True
) -> Talk[Session | None]:
    """A session with all its runs; those are without their events, or messages and tool calls, if not asked for."""
    found: SessionRecord | None = yield from ask(db, FindSession(session_id=session_id))
    if found is None:
        return None
    records: Sequence[RunRecord] = yield from ask(db, FindRuns(session_id=session_id, bare=not messages))
    wanted = {
        record.key.root_run_id
        for record in records
        # The text of a run that has not come to an end may be in its events only.
        if events or record.status in LIVE or record.error_type == INTERRUPTED
    }
    of_runs: dict[str, list[dict[str, Any]]] = {}
    for root_run_id in wanted:
        of_runs |= events_by_run((yield from find_events(db, root_run_id)))
    outputs: dict[str, BaseOutput] = {
        kept.output.run_id: kept.output
        for root in kept_from_records(records, of_runs)
        for kept in root.tree()
    }
    return Session.model_construct(**_fields(found), runs=[outputs[record.key.run_id] for record in records])


def _fields(found: SessionRecord) -> dict[str, Any]:
    seed = found.seed
    return {
        "session_id": seed.session_id,
        "session_name": found.name,
        "user_id": seed.user_id,
        "agent_id": (seed.entity_id or None) if seed.kind == "agent" else None,
        "team_id": (seed.entity_id or None) if seed.kind == "team" else None,
        "metadata": json.loads(found.metadata) if found.metadata is not None else None,
        "session_state": {key: json.loads(text) for key, text in found.state.items()},
        "created_at": found.created_at,
        "updated_at": found.updated_at,
    }


def _summary(found: SessionRecord) -> SessionSummary:
    return SessionSummary.model_construct(**_fields(found), run_count=found.run_count)


def session_summary(db: BaseDb, session_id: str) -> Talk[SessionSummary | None]:
    """A session without its runs."""
    found: SessionRecord | None = yield from ask(db, FindSession(session_id=session_id))
    return None if found is None else _summary(found)


def sessions(db: BaseDb, find: FindSessions) -> Talk[list[SessionSummary]]:
    """Sessions without their runs."""
    found: Sequence[SessionRecord] = yield from ask(db, find)
    return [_summary(each) for each in found]


def count_sessions(db: BaseDb, find: CountSessions) -> Talk[int]:
    """How many such sessions there are."""
    return (yield from ask(db, find))


def openings(db: BaseDb, session_ids: Sequence[str]) -> Talk[dict[str, Any]]:
    """What the first run of each session was asked, as JSON data; sessions without a run are left out."""
    found: Mapping[str, str | None] = yield from ask(db, FindOpenings(session_ids=session_ids))
    return {session_id: _asked(json.loads(text)) for session_id, text in found.items() if text is not None}


def _asked(output: dict[str, Any]) -> Any:
    asked: dict[str, Any] = output.get("input") or {}
    return asked.get("input_content")


def create_session(
    db: BaseDb,
    *,
    session_id: str,
    kind: Literal["agent", "team"],
    entity_id: str | None,
    user_id: str | None,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Talk[None]:
    """Store a session that has no run yet; metadata and state are JSON data.

    Raises:
        SessionExists: there is one of this id.
    """
    now = time.time()
    record = SessionRecord(
        seed=SessionSeed(session_id=session_id, user_id=user_id, kind=kind, entity_id=entity_id or ""),
        state=_texts(state or {}),
        created_at=now,
        updated_at=now,
        name=name,
        metadata=None if metadata is None else json.dumps(metadata, ensure_ascii=False),
    )
    yield from tell(db, ImportSession(session=record, runs=()))


def update_session(
    db: BaseDb,
    session_id: str,
    *,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Talk[bool]:
    """Put what is given, JSON data, in the place of what is stored; say whether there is such a session."""
    write = SetSession(
        session_id=session_id,
        name=name,
        metadata=None if metadata is None else json.dumps(metadata, ensure_ascii=False),
        state=None if state is None else _texts(state),
    )
    (changed,) = yield from tell(db, write)
    return bool(changed)


def _texts(state: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value, ensure_ascii=False) for key, value in state.items()}


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
    from .transfer import exported

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
    from .transfer import imported

    write = imported(data, session_id=session_id)
    yield from _write(db, write)
    return write.session.seed.session_id


def fork_session(db: BaseDb, session_id: str, new_id: str) -> Talk[str | None]:
    """Store a copy of the session under another id, with new run ids; None: there is no such session."""
    from .transfer import forked

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
