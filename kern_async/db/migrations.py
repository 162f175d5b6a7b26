"""The version of a database's schema, and the steps from one version to the next.

A new database gets today's tables at once. An older one is led there step by step, each in a transaction that also
notes the new version, so a step that fails leaves the older version whole. Versions are noted in `kern_schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, MetaData, insert, inspect, select, text, update

from kern_async.exceptions import DatabaseUnusable

from .tables import metadata, schema_version

Step = Callable[[Connection], None]
"""Brings the tables, and all that is in them, from the version before to the next."""


def _name_sessions(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE kern_sessions ADD COLUMN name TEXT"))
    connection.execute(text("ALTER TABLE kern_sessions ADD COLUMN metadata TEXT"))
    connection.execute(text("CREATE INDEX kern_sessions_created_at ON kern_sessions (created_at)"))


STEPS: dict[int, Step] = {2: _name_sessions}
"""The step that leads to each version, from 2 on; version 1 is the first."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables, and how a database of an older version gets them."""

    metadata: MetaData
    steps: Mapping[int, Step]

    @property
    def version(self) -> int:
        return max(self.steps, default=1)


SCHEMA = Schema(metadata, STEPS)


def check_version(connection: Connection, name: str, schema: Schema) -> None:
    """See that this program knows the schema of the database, which is not changed.

    Raises:
        DatabaseUnusable: it is newer.
    """
    version = _read_version(connection)
    if version > schema.version:
        raise DatabaseUnusable(
            f"{name} has schema version {version}, and this kern_async knows {schema.version} at most: "
            "use a newer kern_async, or another database"
        )


def _read_version(connection: Connection) -> int:
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return connection.scalar(select(schema_version.c.version)) or 0


def take_step(connection: Connection, schema: Schema, lock: Step) -> int:
    """Create the tables, or bring them to the next version; return the version that they have then.

    `lock` keeps others out until the end of the transaction: of several processes one takes each step.
    """
    lock(connection)
    version = _read_version(connection)
    if version == 0:
        schema.metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=schema.version))
        return schema.version
    if version < schema.version:
        version += 1
        schema.steps[version](connection)
        connection.execute(update(schema_version).values(version=version))
    return version
