"""The command `kern-async`. Here is only what needs no extra: see `app` for what it can do."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from .exits import Exit, Refused

__all__ = ["Exit", "main"]

_NEEDED = ("typer", "rich", "httpx2", "fastapi", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, given in `arguments` or else on the command line, and return its exit code, an `Exit`.

    What was wrong is one line on stderr.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _complain(f"{', '.join(missing)} is not installed: pip install 'kern-async[server]'")
        return Exit.refused
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # what a model says must not fail on a terminal's encoding
    from .app import invoke

    try:
        code = invoke(arguments)
        sys.stdout.flush()
    except Refused as refused:
        _complain(str(refused))
        return refused.code
    except KeyboardInterrupt:
        return Exit.cancelled
    except BrokenPipeError:
        # Who read has gone, which is nobody's fault; the interpreter flushes stdout once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.unread
    return code


def _complain(message: str) -> None:
    sys.stderr.write(f"kern-async: {message}\n")
