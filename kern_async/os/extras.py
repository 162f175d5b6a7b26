"""What the server needs and the package alone does not."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "sqlalchemy")


def need_server() -> None:
    """Find out whether the extra `server` is installed.

    Raises:
        ModuleNotFoundError: it is not; the message says how to install it.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"AgentOS needs {', '.join(missing)}: pip install 'kern-async[server]'", name=missing[0]
        )
