"""What is executed, whichever way it goes to the driver."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from kern_async.db import prepared


class _Told:
    """A driver's connection."""

    def __init__(self, driver: Any, tell: Callable[[str], None]) -> None:
        self._driver = driver
        self._tell = tell

    def execute(self, statement: str, *values: Any) -> Any:
        self._tell(statement)
        return self._driver.execute(statement, *values)

    def executemany(self, statement: str, *values: Any) -> Any:
        self._tell(statement)
        return self._driver.executemany(statement, *values)


@contextmanager
def before_statements(tell: Callable[[str], None]) -> Generator[None]:
    """Tell of each statement before it is executed, but of none that begins or ends a transaction."""

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        tell(statement)

    driver_of = prepared.driver_of
    event.listen(Engine, "before_cursor_execute", note)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepared, "driver_of", lambda connection: _Told(driver_of(connection), tell))
            yield
    finally:
        event.remove(Engine, "before_cursor_execute", note)
