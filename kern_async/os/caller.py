"""Who makes a request, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

ADMIN = "agent_os:admin"
"""The scope that allows everything, unless `JWTConfig(admin_scope=...)` names another."""


@dataclass(frozen=True)
class Caller:
    """Who makes a request.

    `scopes` is what they may do, None for everything. With `isolated` they see and touch only what is `user_id`'s.
    """

    user_id: str | None = None
    scopes: frozenset[str] | None = None
    isolated: bool = False

    def may(self, scope: str, resource: str | None = None) -> bool:
        """Whether they may do this, such as `teams:run`, to the team or agent with the id `resource`.

        `teams:run` and `teams:*:run` are for all of them, `teams:<id>:run` is for one.
        """
        if self.scopes is None:
            return True
        kind, _, action = scope.partition(":")
        ways = {scope, f"{kind}:*:{action}"}
        if resource is not None:
            ways.add(f"{kind}:{resource}:{action}")
        return not ways.isdisjoint(self.scopes)

    def may_some(self, scope: str) -> bool:
        """Whether they may do this to one team or agent at least: what a list leaves out, `may` says of each."""
        if self.scopes is None:
            return True
        kind, _, action = scope.partition(":")
        return any(had.startswith(f"{kind}:") and had.endswith(f":{action}") for had in self.scopes)

    def owns(self, user_id: str | None) -> bool:
        """Whether what belongs to this user is for them to see and to touch."""
        return not self.isolated or (user_id is not None and user_id == self.user_id)


NOBODY = Caller(scopes=frozenset(), isolated=True)
"""Who calls a public route of a guarded server: nobody has asked who it is."""


def caller_of(request: HTTPConnection) -> Caller:
    """Who makes this request; everybody may do everything where nothing guards the server."""
    state: dict[str, Any] = request.scope.get("state") or {}
    return state.get("caller") or Caller()
