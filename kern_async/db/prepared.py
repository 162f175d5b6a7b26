"""Statements that are executed with many rows, made ready once.

SQLAlchemy looks at every value of every row on its way; of text and numbers, which is all there is in these tables,
there is nothing to see to, and with an event in each row that would cost more than writing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Update
from sqlalchemy.engine.interfaces import Dialect

_MOST_ROWS = 5_000
"""Rows in one call: none takes long, so one that does hangs."""


class Prepared:
    """A statement, and the names of the values in its rows. One is used with databases of one kind only."""

    def __init__(self, statement: Insert | Update | Delete, *names: str) -> None:
        self._statement = statement
        self._names = names
        self._sql: str | None = None
        self._in_order: Any = None
        """What puts a row's values in the order of the statement, where they have no names."""

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute it with each row; return how many rows of the table that was about."""
        if self._sql is None:
            self._compile(connection.dialect)
        count = 0
        for start in range(0, len(rows), _MOST_ROWS):
            values = list(self._values(rows[start : start + _MOST_ROWS]))
            result = connection.exec_driver_sql(
                self._sql or "",
                values if len(values) > 1 else values[0],
                execution_options={"preserve_rowcount": True},
            )
            count += result.rowcount
        return count

    def _compile(self, dialect: Dialect) -> None:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._names)
        self._sql = str(compiled)
        order = getattr(compiled, "positiontup", None)
        if order is not None:
            places = [self._names.index(name) for name in order]
            self._in_order = tuple if places == sorted(places) else itemgetter(*places)

    def _values(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        if self._in_order is not None:
            return map(self._in_order, rows)
        return (dict(zip(self._names, row, strict=True)) for row in rows)
