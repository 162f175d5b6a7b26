"""Sessions as data that can leave a database: exporting, importing, and copying one under new ids.

What is imported may come from anywhere, so all of it is checked before a store sees it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from kern_async.db.base import (
    INTERRUPTED,
    LIVE,
    ImportSession,
    RunKey,
    RunRecord,
    SessionRecord,
    SessionSeed,
)
from kern_async.exceptions import ConfigurationError

from .newids import with_new_ids, with_new_ids_everywhere
from .transferred import FORMAT, VERSION, ExportedRun, checked

Event: TypeAlias = tuple[str, int, str, str]
"""(root_run_id, event_index, run_id, JSON), as `ImportSession` has it."""


def exported(
    session: SessionRecord, runs: Sequence[RunRecord], events: Sequence[Event] = ()
) -> dict[str, Any]:
    """A session, its runs in the order of their numbers, and their events, as JSON data for `imported`.

    Who owns a run, and its number, are the database's own and no part of it.
    """
    seed = session.seed
    return {
        "format": FORMAT,
        "version": VERSION,
        "session": {
            "session_id": seed.session_id,
            "user_id": seed.user_id,
            "kind": seed.kind,
            "entity_id": seed.entity_id,
            "state": {key: _parsed(value) for key, value in session.state.items()},
            "created_at": float(session.created_at),
            "updated_at": float(session.updated_at),
            "name": session.name,
            "metadata": _parsed(session.metadata),
        },
        "runs": [_exported(run) for run in sorted(runs, key=lambda run: run.number)],
        "events": [
            {"root_run_id": root, "event_index": index, "run_id": run_id, "event": _parsed(event)}
            for root, index, run_id, event in events
        ],
    }


def _exported(run: RunRecord) -> dict[str, Any]:
    key = run.key
    return {
        "run_id": key.run_id,
        "root_run_id": key.root_run_id,
        "parent_run_id": key.parent_run_id,
        "user_id": key.user_id,
        "kind": key.kind,
        "entity_id": key.entity_id,
        "created_at": key.created_at,
        "status": run.status,
        "attempt": run.attempt,
        "output": _parsed(run.output),
        "resume": _parsed(run.resume),
        "error_type": run.error_type,
        "error": run.error,
        "messages": [_parsed(message) for message in run.messages],
        "tools": [_parsed(tool) for tool in run.tools],
    }


def imported(data: Any, *, session_id: str | None = None) -> ImportSession:
    """The write that stores what `exported` gave, under the same ids; `session_id` replaces the session's.

    A run that was live when it was exported is ERROR (`error_type` `Interrupted`): nobody works on it.

    Raises:
        ConfigurationError: it is no such data; the message names what is wrong, and where.
    """
    given = checked(data)
    session = given.session
    new_id = session.session_id if session_id is None else _checked_id(session_id)
    sessions = {session.session_id: new_id}
    seed = SessionSeed(
        session_id=new_id, user_id=session.user_id, kind=session.kind, entity_id=session.entity_id
    )
    record = SessionRecord(
        seed=seed,
        state={key: _text(value) for key, value in session.state.items()},
        created_at=session.created_at,
        updated_at=session.updated_at,
        run_count=sum(run.parent_run_id is None for run in given.runs),
        name=session.name,
        metadata=None if session.metadata is None else _text(session.metadata),
    )
    runs = [_imported(run, number, sessions, new_id) for number, run in enumerate(given.runs, 1)]
    events = [
        (event.root_run_id, event.event_index, event.run_id, _renamed(event.event, {}, sessions))
        for event in given.events
    ]
    return ImportSession(session=record, runs=runs, events=events)


def _imported(run: ExportedRun, number: int, sessions: Mapping[str, str], session_id: str) -> RunRecord:
    live = run.status in LIVE
    return RunRecord(
        key=RunKey(
            run_id=run.run_id,
            root_run_id=run.root_run_id,
            parent_run_id=run.parent_run_id,
            session_id=session_id,
            user_id=run.user_id,
            kind=run.kind,
            entity_id=run.entity_id,
            created_at=run.created_at,
        ),
        number=number,
        status="ERROR" if live else run.status,
        attempt=run.attempt,
        owner=None,
        output=_renamed(run.output, {}, sessions) if run.output is not None else None,
        resume=_renamed(run.resume, {}, sessions) if run.resume is not None else None,
        error_type=INTERRUPTED if live else run.error_type,
        error="the run was live when its session was exported" if live else run.error,
        messages=[_text(message) for message in run.messages],
        tools=[_text(tool) for tool in run.tools],
    )


def forked(write: ImportSession, session_id: str) -> ImportSession:
    """The same session as a new one, of which every run has a new id.

    Outputs say what they are copies of, in `forked_from_run_id` and `forked_from_session_id`. Live runs and those
    below them are left out. What users, models and tools have said stays as it is, whatever ids it speaks of.

    Raises:
        ConfigurationError: the new id is no text, is empty, or is the session's own.
    """
    old_id = write.session.seed.session_id
    if _checked_id(session_id) == old_id:
        raise ConfigurationError(
            f"session {old_id!r} cannot be forked to its own id; give another session_id"
        )
    sessions = {old_id: session_id}
    runs = {run.key.run_id: uuid.uuid4().hex for run in write.runs}
    kept = _ended(write.runs)
    records = [
        _forked(run, number, runs, sessions)
        for number, run in enumerate((run for run in write.runs if run.key.run_id in kept), 1)
    ]
    events = [
        (runs[root], index, runs[run_id], _renamed(json.loads(event), runs, sessions))
        for root, index, run_id, event in write.events
        if run_id in kept
    ]
    session = write.session
    record = replace(
        session,
        seed=replace(session.seed, session_id=session_id),
        created_at=(now := time.time()),
        updated_at=now,
        run_count=sum(run.key.parent_run_id is None for run in records),
    )
    return ImportSession(session=record, runs=records, events=events)


def _ended(runs: Sequence[RunRecord]) -> set[str]:
    """The ids of the runs that neither are live nor belong to one that is."""
    known = {run.key.run_id: run for run in runs}

    def is_live(run: RunRecord | None) -> bool:
        while run is not None and run.status not in LIVE:
            if run.key.parent_run_id is None:
                return False
            run = known.get(run.key.parent_run_id)
        return True

    return {run_id for run_id, run in known.items() if not is_live(run)}


def _forked(run: RunRecord, number: int, runs: Mapping[str, str], sessions: Mapping[str, str]) -> RunRecord:
    key = run.key
    output = run.output
    if output is not None:
        origin = {"forked_from_run_id": key.run_id, "forked_from_session_id": key.session_id}
        output = _text(with_new_ids(json.loads(output), runs=runs, sessions=sessions) | origin)
    resume = run.resume
    if resume is not None:
        resume = _text(with_new_ids_everywhere(json.loads(resume), runs=runs, sessions=sessions))
    return replace(
        run,
        key=replace(
            key,
            run_id=runs[key.run_id],
            root_run_id=runs[key.root_run_id],
            parent_run_id=runs[key.parent_run_id] if key.parent_run_id is not None else None,
            session_id=sessions[key.session_id],
        ),
        number=number,
        owner=None,
        output=output,
        resume=resume,
        tools=[_renamed(json.loads(tool), runs, sessions) for tool in run.tools],
    )


def _checked_id(session_id: Any) -> str:
    if not isinstance(session_id, str) or not session_id or "\0" in session_id:
        raise ConfigurationError(f"session_id is {session_id!r}; it is a text that is not empty")
    return session_id


def _renamed(value: Any, runs: Mapping[str, str], sessions: Mapping[str, str]) -> str:
    return _text(with_new_ids(value, runs=runs, sessions=sessions))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _parsed(text: str | None) -> Any:
    # NaN and the infinities are no JSON, though Python's writer of it lets them pass.
    return None if text is None else json.loads(text, parse_constant=lambda _: None)
