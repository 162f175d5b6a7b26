"""Statements that are executed again and again, made ready once.

SQLAlchemy looks at every statement and every value of every row on its way; of text and numbers, which is all there is
in these tables, there is nothing to see to. With an event in each row that would cost more than writing it, and of the
few rows of a run's end it would be most of the time. So what can be is given to the driver as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, TextClause, Update
from sqlalchemy.engine.interfaces import Dialect

_MOST_ROWS = 5_000
"""Rows in one call: none takes long, so one that does hangs."""


class Prepared:
    """A statement, and the names of the values in its rows. One is used with databases of one kind only."""

    def __init__(
        self, statement: Insert | Update | Delete | Select[*tuple[Any, ...]] | TextClause, *names: str
    ) -> None:
        self._statement = statement
        self._names = names
        self._sql: str | None = None
        self._in_order: Any = None
        """What puts a row's values in the order of the statement, where they have no names."""

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute it with each row; return how many rows of the table that was about."""
        if not rows:
            return 0
        sql = self._sql or self._compile(connection.dialect)
        count = 0
        for start in range(0, len(rows), _MOST_ROWS):
            values = list(self._values(rows[start : start + _MOST_ROWS]))
            if connection.dialect.is_async:  # only SQLAlchemy can wait here
                result = connection.exec_driver_sql(
                    sql,
                    values if len(values) > 1 else values[0],
                    execution_options={"preserve_rowcount": True},
                )
            elif len(values) > 1:
                result = driver_of(connection).executemany(sql, values)
            else:
                result = driver_of(connection).execute(sql, values[0])
            count += result.rowcount
        return count

    def query(self, connection: Connection, *values: Any) -> Iterable[Sequence[Any]]:
        """The rows that it gives for these values."""
        sql = self._sql or self._compile(connection.dialect)
        if connection.dialect.is_async:
            return connection.execute(self._statement, dict(zip(self._names, values, strict=True)))
        return driver_of(connection).execute(sql, next(self._values([values])))

    def _compile(self, dialect: Dialect) -> str:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._names)
        self._sql = str(compiled)
        order = getattr(compiled, "positiontup", None)
        if order is not None:
            places = [self._names.index(name) for name in order]
            self._in_order = tuple if places == sorted(places) else itemgetter(*places)
        return self._sql

    def _values(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        if self._in_order is not None:
            return map(self._in_order, rows)
        return (dict(zip(self._names, row, strict=True)) for row in rows)


def driver_of(connection: Connection) -> Any:
    """The driver's own connection, for statements that SQLAlchemy need not see."""
    return connection.connection.driver_connection
