"""`kern-async serve`: agents and teams of a module, over HTTP."""

from __future__ import annotations

import logging

from kern_async.agent import Agent
from kern_async.agent.printing import printable
from kern_async.exceptions import KernError
from kern_async.observe import structlog_is_configured
from kern_async.os import AgentOS
from kern_async.team import Team

from .exits import Exit, Refused
from .imports import load, wrong_kind
from .showing import say


def serve(spec: str, *, host: str | None, port: int | None, debug: bool = False) -> Exit:
    """Serve an AgentOS, or an agent or a team alone, until SIGINT or SIGTERM; says where when it listens.

    What happens is logged on stderr, unless the module has configured logging or structlog itself.

    Raises:
        Refused: there is no such object, or it cannot be served there.
    """
    found = load(spec, debug=debug)
    if isinstance(found, Agent):
        found = AgentOS(agents=[found])
    elif isinstance(found, Team):
        found = AgentOS(teams=[found])
    elif not isinstance(found, AgentOS):
        raise wrong_kind(spec, found)
    _log_to_stderr()
    try:
        found.serve(host=host, port=port, on_ready=_announce)
    except KernError as error:
        raise Refused(str(error)) from None
    return Exit.done


def _announce(url: str) -> None:
    say(f"serving at {url}; Ctrl-C stops")


class _OneLine(logging.Formatter):
    """A record as one line that cannot steer a terminal: ids are chosen by clients."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record)).replace("\n", " ")


def _log_to_stderr() -> None:
    ours = logging.getLogger("kern_async")
    if structlog_is_configured() or ours.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
