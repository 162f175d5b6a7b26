"""Talking to a database in several steps, the same for async code and for threads.

Such a talk is a generator: it yields what it waits for, and whoever drives it waits in his own way.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from kern_async.db.base import Read, Write
from kern_async.db.database import BaseDb
from kern_async.db.writer import Ticket
from kern_async.exceptions import StoreError

T = TypeVar("T")
Talk = Generator[Ticket, None, T]


def ask(db: BaseDb, read: Read) -> Talk[Any]:
    """The answer to a question.

    Raises:
        StoreError: there is none in time.
    """
    return (yield from _answer(db, db.writer.ask(read)))


def tell(db: BaseDb, *writes: Write) -> Talk[Sequence[Any]]:
    """The results of writes, when they are durable.

    Raises:
        StoreError: one was rejected, or they are not durable in time; then they may be so later.
    """
    return (yield from _answer(db, db.writer.post(lambda: writes)))


def opened(db: BaseDb) -> Talk[None]:
    """Wait until the database has been opened.

    Raises:
        DatabaseUnusable: it cannot be used.
    """
    yield from _answer(db, db.writer.opened())


def _answer(db: BaseDb, ticket: Ticket) -> Talk[Any]:
    yield ticket
    if ticket.error is not None:
        raise ticket.error
    if not ticket.done:
        raise StoreError(
            f"{db.name} did not answer within {db.store_timeout:g} s"
            + (f": {db.writer.trouble}" if db.writer.trouble else "")
        )
    return ticket.result


async def drive(talk: Talk[T], seconds: float) -> T:
    """Hold the talk in async code, on any event loop; each answer may take so many seconds.

    A cancel ends the waiting; what was written by then stays written.
    """
    try:
        while True:
            ticket = next(talk)
            if not ticket.done:
                await ticket.wait(seconds)
    except StopIteration as end:
        return end.value
    finally:
        talk.close()


def drive_in_thread(talk: Talk[T], seconds: float) -> T:
    """The same in a thread, which it blocks."""
    try:
        while True:
            ticket = next(talk)
            if not ticket.done:
                ticket.wait_in_thread(seconds)
    except StopIteration as end:
        return end.value
    finally:
        talk.close()
