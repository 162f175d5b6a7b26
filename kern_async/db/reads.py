"""Questions to an SQL database. Whoever asks sees to it that all statements of one see the same state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, bindparam, false, func, select

from .base import (
    LIVE,
    CountSessions,
    FindEvents,
    FindOpenings,
    FindRun,
    FindRuns,
    FindSession,
    FindSessions,
    FindTree,
    Read,
    RunKey,
    RunRecord,
    SessionRecord,
    SessionSeed,
)
from .tables import events, messages, runs, session_state, sessions, tool_calls
from .texts import key_text, storable

T = TypeVar("T")

MOST_VALUES = 2_000
"""Values in one IN: databases have a limit on how many a statement may have."""


def _bodies_query(table: Table) -> Select[Any, Any]:
    return (
        select(table.c.run_id, table.c.body)
        .where(table.c.run_id.in_(bindparam("ids", expanding=True)))
        .order_by(table.c.run_id, table.c.position)
    )


# What every run asks, made once: to make a statement anew costs as much as to execute it.
_MESSAGES, _TOOL_CALLS = _bodies_query(messages), _bodies_query(tool_calls)
_SESSIONS = select(
    sessions,
    select(func.count())
    .where(runs.c.session_id == sessions.c.session_id, runs.c.run_id == runs.c.root_run_id)
    .scalar_subquery()
    .label("run_count"),
)
_ONE_SESSION = _SESSIONS.where(sessions.c.session_id == bindparam("of"))
_FIRST_RUNS = (
    select(func.min(runs.c.number))
    .where(runs.c.session_id.in_(bindparam("ids", expanding=True)), runs.c.run_id == runs.c.root_run_id)
    .group_by(runs.c.session_id)
)
_OPENINGS = select(runs.c.session_id, runs.c.output).where(runs.c.number.in_(_FIRST_RUNS))
_STATES = select(session_state).where(session_state.c.session_id.in_(bindparam("ids", expanding=True)))


def in_portions(values: Sequence[T], size: int = MOST_VALUES) -> Iterator[Sequence[T]]:
    """The values in order, so many of them at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def answer(connection: Connection, read: Read) -> Any:
    """What the class of `read` says."""
    match read:
        case FindRun(run_id=run_id):
            found = _runs(connection, select(runs).where(_is(runs.c.run_id, run_id)))
            return found[0] if found else None
        case FindTree(root_run_id=root):
            of_tree = select(runs).where(_is(runs.c.root_run_id, root))
            return _runs(connection, of_tree.order_by(runs.c.number))
        case FindSession(session_id=session_id):
            one = _sessions(connection, _ONE_SESSION, of=session_id) if storable(session_id) else ()
            return one[0] if one else None
        case FindRuns():
            return _find_runs(connection, read)
        case FindSessions():
            return _find_sessions(connection, read)
        case CountSessions():
            return connection.scalar(_chosen(select(func.count()).select_from(sessions), read))
        case FindOpenings():
            return _find_openings(connection, read.session_ids)
        case FindEvents():
            return _find_events(connection, read)


def _is(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    # No row has a text that cannot be stored, and a driver would not even ask for it.
    return column == text if storable(text) else column.in_(())


def _find_runs(connection: Connection, find: FindRuns) -> list[RunRecord]:
    query = select(runs).where(_is(runs.c.session_id, find.session_id))
    if find.kind is not None:
        query = query.where(runs.c.kind == find.kind)
    if find.entity_id is not None:
        query = query.where(_is(runs.c.entity_id, find.entity_id))
    if find.roots:
        query = query.where(runs.c.run_id == runs.c.root_run_id)
    if find.ended:
        query = query.where(runs.c.status.not_in(LIVE))
    if find.before is not None:
        query = query.where(runs.c.number < find.before)
    if find.last is None:
        return _runs(connection, query.order_by(runs.c.number), bare=find.bare)
    newest_first = _runs(connection, query.order_by(runs.c.number.desc()).limit(find.last), bare=find.bare)
    return newest_first[::-1]


def _chosen(query: Select[Any], find: CountSessions) -> Select[Any]:
    if find.user_id is not None:
        query = query.where(_is(sessions.c.user_id, find.user_id))
    if find.kind is not None:
        query = query.where(sessions.c.kind == find.kind)
    if find.entity_id is not None:
        query = query.where(_is(sessions.c.entity_id, find.entity_id))
    if find.name is not None:
        has_it = sessions.c.name.icontains(find.name, autoescape=True)
        query = query.where(has_it if storable(find.name) else false())
    return query


def _find_sessions(connection: Connection, find: FindSessions) -> list[SessionRecord]:
    by = sessions.c[find.by]
    query = _chosen(_SESSIONS, find).order_by(by if find.first else by.desc(), sessions.c.session_id)
    if find.limit is not None or find.offset:
        # SQLite knows no offset without a limit.
        query = query.limit(2**62 if find.limit is None else find.limit).offset(find.offset)
    return _sessions(connection, query)


def _find_openings(connection: Connection, session_ids: Sequence[str]) -> dict[str, str | None]:
    known = [each for each in session_ids if storable(each)]
    return {
        session_id: output
        for portion in in_portions(known)
        for session_id, output in connection.execute(_OPENINGS, {"ids": portion})
    }


def _find_events(connection: Connection, find: FindEvents) -> list[tuple[int, str]]:
    query = (
        select(events.c.event_index, events.c.body)
        .where(_is(events.c.root_run_id, find.root_run_id), events.c.event_index > find.after)
        .order_by(events.c.event_index)
        .limit(find.limit)
    )
    if find.run_ids is not None:
        query = query.where(events.c.run_id.in_([each for each in find.run_ids if storable(each)]))
    return [(index, body) for index, body in connection.execute(query)]


def _runs(connection: Connection, query: Select[Any], *, bare: bool = False) -> list[RunRecord]:
    rows = connection.execute(query).all()
    run_ids = [] if bare else [row.run_id for row in rows]
    of_runs = _bodies(connection, _MESSAGES, run_ids)
    tools = _bodies(connection, _TOOL_CALLS, run_ids)
    return [_record(row, of_runs.get(row.run_id, []), tools.get(row.run_id, [])) for row in rows]


def _bodies(connection: Connection, query: Select[Any, Any], run_ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for portion in in_portions(run_ids):
        for run_id, body in connection.execute(query, {"ids": portion}):
            found[run_id].append(body)
    return found


def _record(row: Row[Any], of_run: Sequence[str], tools: Sequence[str]) -> RunRecord:
    return RunRecord(
        key=RunKey(
            run_id=row.run_id,
            root_run_id=row.root_run_id,
            parent_run_id=row.parent_run_id,
            session_id=row.session_id,
            user_id=row.user_id,
            kind=row.kind,
            entity_id=row.entity_id,
            created_at=row.created_at,
        ),
        number=row.number,
        status=row.status,
        attempt=row.attempt,
        owner=row.owner,
        output=row.output,
        resume=row.resume,
        error_type=row.error_type,
        error=row.error,
        messages=of_run,
        tools=tools,
    )


def _sessions(connection: Connection, query: Select[Any], **values: str) -> list[SessionRecord]:
    rows = connection.execute(query, values).all()
    states: dict[str, dict[str, str]] = defaultdict(dict)
    for portion in in_portions([row.session_id for row in rows]):
        for session_id, key, value in connection.execute(_STATES, {"ids": portion}):
            states[session_id][key_text(key)] = value
    return [
        SessionRecord(
            seed=SessionSeed(
                session_id=row.session_id, user_id=row.user_id, kind=row.kind, entity_id=row.entity_id
            ),
            state=states.get(row.session_id, {}),
            created_at=row.created_at,
            updated_at=row.updated_at,
            run_count=row.run_count,
            name=row.name,
            metadata=row.metadata,
        )
        for row in rows
    ]
