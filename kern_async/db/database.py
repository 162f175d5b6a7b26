"""What all databases have in common: the writer that those of one key share, and its end."""

from __future__ import annotations

import math
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

from kern_async.exceptions import ConfigurationError

from .base import Store
from .desk import snapshot
from .writer import Writer


class BaseDb(ABC):
    """A database that keeps runs and sessions, given to agents and teams as `db=`.

    Args:
        store_timeout: seconds that a run waits for its own data to be written.
        lease_seconds: how long a process that died counts as alive, in seconds. Its live runs are marked as
            interrupted then.

    Raises:
        ConfigurationError: an argument is no number of seconds greater than 0.
    """

    def __init__(self, *, store_timeout: float = 2.0, lease_seconds: float = 30.0) -> None:
        _check_seconds("store_timeout", store_timeout)
        _check_seconds("lease_seconds", lease_seconds)
        self.store_timeout = store_timeout
        self.lease_seconds = lease_seconds
        self._user: object | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """How errors and logs call it; no secrets."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """The same for all that are the same database."""

    @abstractmethod
    def make_store(self) -> Store:
        """What talks to the database. It must not refer to this object, and is opened anew after a close."""

    @property
    def writer(self) -> Writer:
        """The writer of this database, which all that have its `key` share; another one after a fork."""
        key = self.key
        if self._user is None:
            user = self._user = object()
            weakref.finalize(self, _let_go, key, user).atexit = False
        while True:
            if (writer := _writers.get(key)) is None:
                writer = _writers.setdefault(
                    key,
                    Writer(
                        self.make_store(),
                        name=self.name,
                        store_timeout=self.store_timeout,
                        lease_seconds=self.lease_seconds,
                    ),
                )
            writer.hold(self._user)
            if _writers.get(key) is writer:
                return writer
            writer.let_go(self._user)  # its last user left at the same moment

    def close(self) -> None:
        """Write what is still to be written and let go of the database, blocking; it is usable again afterwards.

        After `store_timeout` seconds what is not written fails.
        """
        if (writer := _writers.get(self.key)) is not None:
            writer.close()

    async def aclose(self) -> None:
        """As `close`, on any event loop. A cancel ends the wait only."""
        if (writer := _writers.get(self.key)) is not None:
            await writer.aclose()


_writers: dict[Hashable, Writer] = {}
_lost: list[dict[Hashable, Writer]] = []


def _let_go(key: Hashable, user: object) -> None:
    writer = _writers.get(key)
    if writer is None or not writer.let_go(user):
        return
    _writers.pop(key, None)
    if writer.used:  # by somebody who came in between
        _writers.setdefault(key, writer)


def kept_threads() -> set[threading.Thread]:
    """The idle threads of databases that somebody has: they stay as long as that."""
    threads = (writer.kept_thread for writer in snapshot(_writers.values()))
    return {thread for thread in threads if thread is not None}


def _check_seconds(what: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and value > 0):
        raise ConfigurationError(f"{what} is {value!r}; it is a number of seconds > 0")


def _forked() -> None:
    # The parent's writers are not here; that they are not used here either is why they stay in memory.
    _lost.append(dict(_writers))
    _writers.clear()


os.register_at_fork(after_in_child=_forked)
