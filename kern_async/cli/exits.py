"""How a command ends: its exit code, and a refusal that is one line."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the command's exit code says."""

    done = 0
    """What was asked for was done; a run that was followed ended COMPLETED."""
    failed = 1
    """The run ended ERROR; or a cancel came too late, and the run had ended by itself."""
    refused = 2
    """Wrong usage, something was not found, no connection to the server, or it refused."""
    paused = 3
    """The run waits for a person."""
    cancelled = 130
    """The run ended CANCELLED, whoever cancelled it; or Ctrl-C ended a command that only looked on."""
    unread = 141
    """Whoever read the output has gone, as `head` does."""


class Refused(Exception):
    """The command cannot do what it was asked; the message is one line."""

    def __init__(self, message: str, code: Exit = Exit.refused) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


def exit_of(status: str | None) -> Exit:
    """The exit code for a run that ended, or paused, like this; None: nobody knows how."""
    return _ENDS.get(status, Exit.refused)


_ENDS: dict[str | None, Exit] = {
    "COMPLETED": Exit.done,
    "ERROR": Exit.failed,
    "PAUSED": Exit.paused,
    "CANCELLED": Exit.cancelled,
}
