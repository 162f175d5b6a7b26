"""What the runtime logs (SPEC §10): through structlog as the application configured it, else through logging.

structlog that nobody configured prints everything to stdout. A library must not do that to a program, so until
the application configures structlog the records go to the standard logger `kern_async`, which shows warnings
only unless the application says otherwise. structlog is not imported here, since it brings the whole of rich with it
where that is installed, a third of what importing the runtime took: who has configured it has imported it.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

_standard = logging.getLogger("kern_async")
Level = Literal["info", "warning"]
_NUMBERS: dict[Level, int] = {"info": logging.INFO, "warning": logging.WARNING}


def structlog_is_configured() -> bool:
    """Whether the application has configured structlog."""
    structlog = sys.modules.get("structlog")
    # Another thread may be about to import it.
    is_configured = getattr(structlog, "is_configured", None)
    return is_configured is not None and is_configured()


def wanted(level: Level) -> bool:
    """Whether a record of this level goes anywhere: ask first where making it would cost."""
    return structlog_is_configured() or _standard.isEnabledFor(_NUMBERS[level])


def log(level: Level, event: str, **fields: Any) -> None:
    """Log `event` with its fields, never with content of a run."""
    if structlog_is_configured():
        import structlog

        getattr(structlog.get_logger("kern_async"), level)(event, **fields)
    elif wanted(level):
        text = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        _standard.log(_NUMBERS[level], "%s %s", event, text, extra={"kern": fields})
