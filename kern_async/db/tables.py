"""The tables, the same in every SQL database, and the few statements that each kind of database says its own way."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    TextClause,
)
from sqlalchemy.dialects import postgresql, sqlite

metadata = MetaData()

# Clustered by the key in SQLite, without a second tree: rows of one run or tree are read in the order of their key.
_CLUSTERED: dict[str, Any] = {"sqlite_with_rowid": False}

schema_version = Table("kern_schema", metadata, Column("version", Integer, nullable=False))

owners = Table(
    "kern_owners",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("expires_at", Double, nullable=False),
)

sessions = Table(
    "kern_sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("user_id", Text),
    Column("kind", Text, nullable=False),
    Column("entity_id", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("name", Text),
    Column("metadata", Text),
    Index("kern_sessions_created_at", "created_at"),
    Index("kern_sessions_updated_at", "updated_at"),
)

# A row for each key: runs of one session never write over each other's.
session_state = Table(
    "kern_session_state",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),  # JSON, as the value is: a key may hold what no text column can
    Column("value", Text, nullable=False),
    **_CLUSTERED,
)

run_numbers = Sequence("kern_run_numbers", metadata=metadata)

runs = Table(
    "kern_runs",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("run_id", Text, nullable=False, unique=True),
    Column("root_run_id", Text, nullable=False),
    Column("parent_run_id", Text),
    Column("session_id", Text, nullable=False),
    Column("user_id", Text),
    Column("kind", Text, nullable=False),
    Column("entity_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("owner", Text),
    Column("attempt", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("output", Text),
    Column("resume", Text),
    Column("error_type", Text),
    Column("error", Text),
    Index("kern_runs_session", "session_id", "number"),
    Index("kern_runs_root", "root_run_id", "number"),
    Index("kern_runs_owner", "owner", "status"),
    Index("kern_runs_status", "status"),
)

messages = Table(
    "kern_messages",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    **_CLUSTERED,
)

tool_calls = Table(
    "kern_tool_calls",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    **_CLUSTERED,
)

events = Table(
    "kern_events",
    metadata,
    Column("root_run_id", Text, primary_key=True),
    Column("event_index", BigInteger, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    **_CLUSTERED,
)


class Insert(Protocol):
    """`insert()` of a dialect: SQLAlchemy has no common word for what to do about a row that is there already."""

    def __call__(self, table: Table, /) -> sqlite.Insert | postgresql.Insert: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one kind of database says in its own way."""

    insert: Insert
    now: ColumnElement[float]
    """Seconds since the epoch by the database's clock, when the statement runs."""
    numbers: TextClause
    """`:count` rows with numbers that no run has, greater than those of all committed before."""
    is_listed: Callable[[ColumnElement[str]], ColumnElement[bool]]
    """That a column is one of the texts that are bound to `texts`."""
    listed: Callable[[Several[str]], Any]
    """What is bound there for them."""
