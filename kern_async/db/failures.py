"""What a database's exception tells, without knowing its driver: will it pass, and how to name it.

Drivers' messages may quote what was to be written, so a log gets only the class and the code.
"""

from __future__ import annotations

from collections.abc import Iterator

from kern_async.exceptions import StoreError

# SQLite: the names of its primary result codes. Postgres: classes of SQLSTATE, the first two characters.
_PASSING_SQLITE = frozenset(
    [
        "BUSY",
        "CANTOPEN",
        "FULL",
        "INTERRUPT",
        "IOERR",
        "LOCKED",
        "NOLFS",
        "NOMEM",
        "PERM",
        "PROTOCOL",
        "READONLY",
        "SCHEMA",
    ]
)
_PASSING_SQLSTATE = frozenset({"08", "25", "28", "40", "53", "55", "57", "58"})

_LONGEST = 300  # characters of a driver's message that an error of ours repeats


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that it was made of: a driver's own inside of SQLAlchemy's."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        inner = getattr(following, "orig", None)
        following = inner if isinstance(inner, BaseException) else following.__cause__


def code_of(error: BaseException) -> str | None:
    """The database's code for it: an SQLSTATE, the name of an SQLite result, an errno."""
    for each in _chain(error):
        for name in ("sqlstate", "sqlite_errorname", "errno"):
            if (code := getattr(each, name, None)) is not None:
                return str(code)
    return None


def passes(error: BaseException) -> bool:
    """Whether the database's state is to blame (disk full, locked, gone), and not what it was asked to write."""
    for each in _chain(error):
        if isinstance(each, OSError) or getattr(each, "connection_invalidated", False):
            return True
        if isinstance(code := getattr(each, "sqlstate", None), str):
            return code[:2] in _PASSING_SQLSTATE
        if isinstance(code := getattr(each, "sqlite_errorname", None), str):
            return code.split("_")[1:2] != [] and code.split("_")[1] in _PASSING_SQLITE
    # A connection that is lost has no code. PEP 249 says of which class it is.
    innermost = list(_chain(error))[-1]
    return any(base.__name__ == "OperationalError" for base in type(innermost).__mro__)


def words_of(error: BaseException) -> str:
    """What went wrong, in one line, for people who may see the run's content."""
    if isinstance(error, StoreError):
        return str(error)
    innermost = list(_chain(error))[-1]
    text = str(innermost).strip().split("\n", 1)[0]
    return f"{type(innermost).__name__}: {text[:_LONGEST]}" if text else type(innermost).__name__


def store_error(database: str, error: BaseException) -> StoreError:
    """The failure as an error of ours: a new one each time, for it may be raised in many places at once."""
    if isinstance(error, StoreError):
        ours = type(error)(*error.args)
    else:
        ours = StoreError(f"{database}: {words_of(error)}")
    ours.__cause__ = error
    return ours
