"""How a batch meets the tables: what it finds there, locked, and what it leaves, a few statements for each table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Table,
    Text,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)

from .base import LIVE, Write
from .batch import Batch, RunRow, SessionRow, Subjects, subjects_of
from .prepared import Prepared
from .reads import in_portions
from .tables import Dialect, events, messages, owners, runs, session_state, sessions, tool_calls

_LOOK = (
    runs.c.run_id,
    runs.c.root_run_id,
    runs.c.session_id,
    runs.c.owner,
    runs.c.attempt,
    runs.c.status,
    runs.c.error_type,
    runs.c.error,
    runs.c.number,
)
"""As the first fields of `RunRow`."""

_LOOK_AT_SESSIONS = (
    select(sessions.c.session_id, sessions.c.user_id).order_by(sessions.c.session_id).with_for_update()
)
_LOOK_AT_RUNS = select(*_LOOK).order_by(runs.c.run_id).with_for_update()


class OvertakenError(Exception):
    """Another process has inserted the same row in the middle of this batch: it is to begin anew."""


class Tables:
    """The statements that write, in one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._are_named = dialect.is_listed(runs.c.run_id)
        self._look_at_named_runs = Prepared(_LOOK_AT_RUNS.where(self._are_named), "texts")
        self._look_at_sessions = Prepared(
            _LOOK_AT_SESSIONS.where(dialect.is_listed(sessions.c.session_id)), "texts"
        )
        self._numbers = Prepared(dialect.numbers, "count")
        self._new_sessions = Prepared(
            dialect.insert(sessions).on_conflict_do_nothing(),
            *("session_id", "user_id", "kind", "entity_id", "created_at", "updated_at", "name", "metadata"),
        )
        is_session = sessions.c.session_id == bindparam("of_session")
        self._touch_sessions = Prepared(
            update(sessions).where(is_session).values(updated_at=bindparam("at")), *("of_session", "at")
        )
        self._set_sessions = Prepared(
            update(sessions)
            .where(is_session)
            .values(
                {
                    name: func.coalesce(bindparam(f"new_{name}", type_=Text), sessions.c[name])
                    for name in ("name", "metadata")
                }
            ),
            *("of_session", "new_name", "new_metadata"),
        )
        self._clear_state = Prepared(
            delete(session_state).where(session_state.c.session_id == bindparam("of_session")), "of_session"
        )
        self._put_state = _upsert(dialect, session_state)
        self._drop_state = Prepared(
            delete(session_state).where(
                session_state.c.session_id == bindparam("of_session"),
                session_state.c.key == bindparam("of_key"),
            ),
            *("of_session", "of_key"),
        )
        self._new_runs = Prepared(dialect.insert(runs).on_conflict_do_nothing(), *_NEW_RUN)
        self._set_runs = Prepared(
            update(runs)
            .where(runs.c.number == bindparam("of_number"))
            .values(
                {name: bindparam(f"new_{name}", type_=runs.c[name].type) for name in _SET}
                | {
                    name: func.coalesce(bindparam(f"new_{name}", type_=Text), runs.c[name])
                    for name in _SET_IF_GIVEN
                }
            ),
            *("of_number", *(f"new_{name}" for name in (*_SET, *_SET_IF_GIVEN))),
        )
        self._claim = Prepared(
            update(runs)
            .where(runs.c.root_run_id == bindparam("of_root"))
            .values(owner=bindparam("new_owner")),
            *("of_root", "new_owner"),
        )
        self._cut_messages = Prepared(
            delete(messages).where(
                messages.c.run_id == bindparam("of_run"), messages.c.position >= bindparam("from_place")
            ),
            *("of_run", "from_place"),
        )
        self._put_messages = _upsert(dialect, messages)
        self._put_tools = _upsert(dialect, tool_calls)
        self._new_events = Prepared(
            dialect.insert(events).on_conflict_do_nothing(), *("root_run_id", "event_index", "run_id", "body")
        )
        lease = dialect.insert(owners).values(
            owner=bindparam("of_owner"), expires_at=dialect.now + bindparam("seconds", type_=Double)
        )
        self._put_lease = Prepared(
            lease.on_conflict_do_update(
                index_elements=[owners.c.owner], set_={"expires_at": lease.excluded.expires_at}
            ),
            *("of_owner", "seconds"),
        )
        self._drop_lease = Prepared(delete(owners).where(owners.c.owner == bindparam("of_owner")), "of_owner")
        of_session = runs.c.session_id == bindparam("of_session")
        run_ids = select(runs.c.run_id).where(of_session)
        roots = select(runs.c.root_run_id).where(of_session)
        self._delete_sessions = [
            Prepared(statement, "of_session")
            for statement in (
                delete(messages).where(messages.c.run_id.in_(run_ids)),
                delete(tool_calls).where(tool_calls.c.run_id.in_(run_ids)),
                delete(events).where(events.c.root_run_id.in_(roots)),
                delete(runs).where(of_session),
                delete(session_state).where(session_state.c.session_id == bindparam("of_session")),
                delete(sessions).where(sessions.c.session_id == bindparam("of_session")),
            )
        ]

    def look(self, connection: Connection, writes: Sequence[Write], stamps: Iterator[float]) -> Batch:
        """Lock all rows that the writes are about, and see how they are."""
        subjects = subjects_of(writes)
        listed = self._dialect.listed
        of_sessions: dict[str, SessionRow] = {}
        for portion in in_portions(sorted(subjects.sessions)):
            for session_id, user_id in self._look_at_sessions.query(connection, listed(portion)):
                of_sessions[session_id] = SessionRow(session_id, user_id)

        of_runs: dict[str, RunRow] = {}
        named = list(in_portions(sorted(subjects.runs)))
        if unnamed := self._unnamed(subjects):
            query = _LOOK_AT_RUNS.where(or_(*unnamed, self._are_named))
            last = named.pop() if named else ()
            of_runs |= {row[0]: RunRow(*row) for row in connection.execute(query, {"texts": listed(last)})}
        for portion in named:
            found = self._look_at_named_runs.query(connection, listed(portion))
            of_runs |= {row[0]: RunRow(*row) for row in found}

        living: set[str] = set()
        if subjects.reaps:
            alive = select(owners.c.owner).where(owners.c.expires_at >= self._dialect.now)
            living.update(connection.scalars(alive))
        return Batch(runs=of_runs, sessions=of_sessions, living=living, stamps=stamps)

    def _unnamed(self, subjects: Subjects) -> list[ColumnElement[bool]]:
        """The runs that the writes are about without naming them."""
        found: list[ColumnElement[bool]] = []
        if subjects.trees:
            found.append(runs.c.root_run_id.in_(subjects.trees))
        if subjects.deleted:
            found.append(runs.c.session_id.in_(subjects.deleted))
        if subjects.reaps:
            alive = select(owners.c.owner).where(
                owners.c.expires_at >= self._dialect.now, owners.c.owner.not_in(subjects.retired)
            )
            is_dead = or_(runs.c.owner.is_(None), runs.c.owner.not_in(alive))
            found.append(runs.c.status.in_(LIVE) & is_dead)
        return found

    def write(self, connection: Connection, batch: Batch) -> None:
        """Bring the tables to where the batch is.

        Raises:
            OvertakenError: a row that was not there when the batch looked is there now.
        """
        for statement in self._delete_sessions:
            statement.execute(connection, [(session_id,) for session_id in batch.deleted])
        self._claim.execute(connection, sorted(batch.claims.items()))
        self._write_sessions(connection, batch)
        self._write_runs(connection, batch)
        new_events = [event for of_tree in batch.events.values() for event in of_tree.values()]
        self._new_events.execute(connection, new_events)
        self._write_leases(connection, batch)

    def _write_sessions(self, connection: Connection, batch: Batch) -> None:
        touched = sorted(batch.sessions.values(), key=lambda session: session.session_id)
        new = [
            (
                each.session_id,
                each.user_id,
                each.seed.kind,
                each.seed.entity_id,
                each.created_at,
                each.updated_at,
                each.name,
                each.metadata,
            )
            for each in touched
            if each.seed is not None
        ]
        if self._new_sessions.execute(connection, new) != len(new):
            raise OvertakenError
        old = [each for each in touched if each.seed is None and each.updated_at is not None]
        self._touch_sessions.execute(connection, [(each.session_id, each.updated_at) for each in old])
        told = [each for each in old if (each.name, each.metadata) != (None, None)]
        self._set_sessions.execute(connection, [(each.session_id, each.name, each.metadata) for each in told])
        self._clear_state.execute(connection, [(each.session_id,) for each in old if each.cleared])
        state = [(each.session_id, *item) for each in touched for item in each.state.items()]
        self._drop_state.execute(connection, [(of, key) for of, key, value in state if value is None])
        self._put_state.execute(connection, [change for change in state if change[2] is not None])

    def _write_runs(self, connection: Connection, batch: Batch) -> None:
        new = [run for run in batch.runs.values() if run.number is None]
        if new:
            numbers = sorted(number for (number,) in self._numbers.query(connection, len(new)))
            rows = [_new_row(run, number) for run, number in zip(new, numbers, strict=True)]
            rows.sort(key=itemgetter(1))
            if self._new_runs.execute(connection, rows) != len(rows):
                raise OvertakenError
        changed = [run for run in batch.runs.values() if run.changed and run.number is not None]
        set_row = attrgetter("number", *_SET, *_SET_IF_GIVEN)
        self._set_runs.execute(connection, [set_row(run) for run in changed])
        cut = [(run.run_id, run.cut) for run in batch.runs.values() if run.cut is not None]
        self._cut_messages.execute(connection, cut)
        for statement, bodies in (
            (self._put_messages, [(run.run_id, run.messages) for run in batch.runs.values()]),
            (self._put_tools, [(run.run_id, run.tools) for run in batch.runs.values()]),
        ):
            statement.execute(
                connection,
                [(run_id, place, body) for run_id, of_run in bodies for place, body in of_run.items()],
            )

    def _write_leases(self, connection: Connection, batch: Batch) -> None:
        leases = sorted(batch.leases.items())
        if batch.reaped:
            is_over = owners.c.expires_at < self._dialect.now
            over = select(owners.c.owner).where(is_over).order_by(owners.c.owner).with_for_update()
            leases += [(owner, None) for owner in connection.scalars(over) if owner not in batch.leases]
        self._drop_lease.execute(connection, [(owner,) for owner, seconds in leases if seconds is None])
        self._put_lease.execute(connection, [lease for lease in leases if lease[1] is not None])


_KEY = ("run_id", "root_run_id", "parent_run_id", "session_id", "user_id", "kind", "entity_id", "created_at")
_SET = ("owner", "attempt", "status", "error_type", "error")
_SET_IF_GIVEN = ("output", "resume")
_NEW_RUN = ("number", *_KEY, *_SET, *_SET_IF_GIVEN)


def _new_row(run: RunRow, number: int) -> tuple[Any, ...]:
    return (number, *attrgetter(*_KEY)(run.key), *attrgetter(*_SET, *_SET_IF_GIVEN)(run))


def _upsert(dialect: Dialect, table: Table) -> Prepared:
    """Write rows over those that have the same key, which are all columns but the last."""
    statement = dialect.insert(table)
    *keys, last = table.columns
    return Prepared(
        statement.on_conflict_do_update(index_elements=keys, set_={last.name: statement.excluded[last.name]}),
        *table.columns.keys(),
    )
