"""The databases behind a server, and how requests name them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from kern_async.db.database import BaseDb

if TYPE_CHECKING:
    from .agent_os import AgentOS


def databases_of(agent_os: AgentOS) -> dict[str, BaseDb]:
    """The server's own database and those of its agents and teams, each once, under their ids."""
    targets = (*agent_os.teams.values(), *agent_os.agents.values())
    given = [agent_os.db, *(target.db for target in targets)]
    by_key = {db.key: db for db in reversed(given) if db is not None}
    found: dict[str, BaseDb] = {}
    for db in (by_key[key] for key in dict.fromkeys(db.key for db in given if db is not None)):
        # A name may say more of the machine than is a client's business.
        digest = hashlib.sha256(db.name.encode()).hexdigest()[:8]
        same = sum(each.name == db.name for each in found.values())
        kind = type(db).__name__.removesuffix("Db").lower()
        found[f"{kind}-{digest}" + (f"-{same + 1}" if same else "")] = db
    return found


def id_of(known: Mapping[str, BaseDb], db: BaseDb | None) -> str | None:
    """What requests call this one of the databases; None if it is none of them."""
    return next((db_id for db_id, each in known.items() if db is not None and each.key == db.key), None)


def find_database(agent_os: AgentOS, db_id: str | None) -> BaseDb:
    """The database of this id; without one the server's own, or the only one that there is.

    Raises:
        HTTPException: 404, there is none; 400, there are several, and none is the server's.
    """
    known = databases_of(agent_os)
    if db_id:
        if db_id not in known:
            raise HTTPException(404, "Database not found")
        return known[db_id]
    if agent_os.db is not None:
        return agent_os.db
    if not known:
        raise HTTPException(
            404, "This AgentOS has no database, so it keeps no sessions: give it one with db="
        )
    if len(known) > 1:
        raise HTTPException(400, f"There are several databases: give db_id, one of {', '.join(known)}")
    return next(iter(known.values()))
