"""The packages that only some databases need."""

from __future__ import annotations

from importlib.util import find_spec

from kern_async.exceptions import ConfigurationError


def check_installed(what: str, extra: str, *modules: str) -> None:
    """See that `what` has the modules that it needs, without importing them.

    Raises:
        ConfigurationError: it has not; the message has the line that installs them.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        raise ConfigurationError(
            f'{what} needs {" and ".join(missing)}, which is not installed: pip install "kern-async[{extra}]"'
        )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
