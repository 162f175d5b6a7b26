"""A URL of a Postgres database, and how to speak of it without giving its password away."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from kern_async.exceptions import DatabaseUnusable

_DRIVERS = ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg_async")
_FORM = "postgresql://user:password@host:port/database"


def parse(db_url: str) -> URL:
    """The URL for SQLAlchemy, with the driver that is used here.

    Raises:
        DatabaseUnusable: it is none; the message does not repeat it, for there may be a password in it.
    """
    if not isinstance(db_url, str):
        raise DatabaseUnusable(f"db_url is of type {type(db_url).__name__}; it is a text like {_FORM}")
    driver, separator, rest = db_url.strip().partition("://")
    if not separator or not driver.replace("+", "").isalnum():
        raise DatabaseUnusable(f"db_url is not a URL; it is a text like {_FORM}")
    if driver not in _DRIVERS:
        raise DatabaseUnusable(f"db_url begins with {driver}://; PostgresDb needs one like {_FORM}")
    if rest.split("/", 1)[0].count("@") > 1 or "\0" in rest:
        raise DatabaseUnusable(
            "db_url has more than one @ before its host: "
            "write the @ in a user's name or password as %40, and / as %2F"
        )
    try:
        url = make_url(f"postgresql+psycopg://{rest}")
    except (ArgumentError, ValueError):
        # What it says may quote the URL.
        raise DatabaseUnusable(f"db_url cannot be understood; it is a text like {_FORM}") from None
    if url.host and "@" in url.host:
        raise DatabaseUnusable("db_url has an @ in its host: write the @ in a password as %40, and / as %2F")
    if isinstance(password := url.query.get("password"), str):
        # There SQLAlchemy would show it.
        url = url.difference_update_query(["password"]).set(password=password)
    return url


def name_of(url: URL) -> str:
    """The URL without its password and options."""
    host = url.host or str(url.query.get("host", ""))
    return URL.create(
        "postgresql", username=url.username, host=host or None, port=url.port, database=url.database
    ).render_as_string()
