"""What a tool may say of how it is to be called, and which of it makes sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kern_async.exceptions import ConfigurationError

_WAITS = ("requires_confirmation", "requires_user_input", "external_execution")


def check_options(options: Mapping[str, Any], *, of: str = "") -> None:
    """Refuse values that make no sense; an option that is left out or None is not asked for.

    Raises:
        ConfigurationError: it begins with `of` and names the option and the value.
    """
    if len(waits := [name for name in _WAITS if options.get(name)]) > 1:
        raise ConfigurationError(
            f"{of}a tool takes one of {', '.join(_WAITS)} at a time, not {' and '.join(waits)}"
        )
    fields = cast(object, options.get("user_input_fields"))
    if fields is not None and not _is_list(fields, str):
        raise ConfigurationError(f"{of}user_input_fields is a list of parameter names, not {fields!r}")
    if fields and not options.get("requires_user_input"):
        raise ConfigurationError(f"{of}user_input_fields={fields!r} needs requires_user_input=True")
    if (timeout := cast(object, options.get("timeout"))) is not None:
        check_seconds(f"{of}timeout", timeout)
    retries = cast(object, options.get("retries"))
    if retries is not None and not (_is_number(retries, int) and cast(int, retries) >= 0):
        raise ConfigurationError(f"{of}retries is a whole number of 0 or more, not {retries!r}")
    for name in ("pre_hook", "post_hook"):
        if (hook := options.get(name)) is not None and not callable(hook):
            raise ConfigurationError(f"{of}{name} is a function, not {hook!r}")
    hooks = cast(object, options.get("tool_hooks"))
    if hooks is not None and not (_is_list(hooks) and all(map(callable, cast("Sequence[object]", hooks)))):
        raise ConfigurationError(f"{of}tool_hooks is a list of functions, not {hooks!r}")


def _is_list(value: object, kind: type = object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(item, kind) for item in cast("Sequence[object]", value)
    )


def check_seconds(what: str, value: object) -> None:
    """Refuse what is no number of seconds.

    Raises:
        ConfigurationError: it is no number, not more than 0, or infinite.
    """
    if not (_is_number(value, int, float) and 0 < cast(float, value) < math.inf):
        raise ConfigurationError(f"{what} is in seconds and more than 0, not {value!r}")


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
