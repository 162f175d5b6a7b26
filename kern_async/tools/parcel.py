"""What goes to a worker process, and what comes back: pickles, and clear words where there can be none."""

from __future__ import annotations

import inspect
import io
import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from kern_async.exceptions import ConfigurationError, ToolError
from kern_async.run.context import RunContext

from . import worker as protocol

_CONTEXT_FIELDS = (
    "run_id",
    "session_id",
    "user_id",
    "session_state",
    "dependencies",
    "metadata",
    "tool_call_id",
)


def check_importable(function: Callable[..., Any], tool: str) -> None:
    """Refuse, as a process tool, what a worker could not import under its own name, or not call.

    Raises:
        ConfigurationError: it is no sync function of a module, or there are no such processes here.
    """
    if os.name != "posix":
        raise ConfigurationError(
            f"tool {tool!r}: isolation='process' needs process groups, which only POSIX has"
        )
    wrong = ""
    if not isinstance(function, FunctionType):
        wrong = f"{function!r} is no plain function"
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        wrong = "it is async, and a cancel can interrupt it as it is: leave isolation out"
    elif function.__name__ == "<lambda>":
        wrong = "a lambda has no name to import it by"
    elif "<locals>" in function.__qualname__:
        wrong = f"{function.__qualname__} is defined inside of a function"
    elif "." in function.__qualname__:
        wrong = f"{function.__qualname__} is a method"
    elif function.__module__ == "__main__" and not _main():
        wrong = "what is typed into an interpreter or a notebook is in no file"
    if wrong:
        raise ConfigurationError(
            f"tool {tool!r}: with isolation='process' a tool is a sync function at the top level of a module, "
            f"which a worker process can import: {wrong}"
        )


def request_for(tool: str, prepared: partial[Any], context: RunContext) -> bytes:
    """A call, as a worker takes it.

    Raises:
        ToolError: it cannot be pickled, or the function not be found by its name.
    """
    function = prepared.func
    module, name = function.__module__, function.__qualname__
    _check_name(tool, function)
    arguments = _Arguments()
    call = (prepared.args, prepared.keywords)
    try:
        packed = arguments.pack(call)
    except Exception as error:
        culprit = _culprit(prepared)
        raise ToolError(f"{tool}: {culprit} cannot be pickled for the worker process: {error}") from error
    fields: dict[str, Any] = {}
    if arguments.has_context:
        fields = {field: getattr(context, field) for field in _CONTEXT_FIELDS}
    try:
        said = pickle.dumps(fields, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        unpicklable = next(field for field, value in fields.items() if not _can_be_pickled(value))
        raise ToolError(
            f"{tool}: the run context's {unpicklable} cannot be pickled for the worker process: {error}; "
            "keep plain data there, or leave the context out of the tool's parameters"
        ) from error
    data = said + packed
    # `__main__`, or `__mp_main__` in what multiprocessing has started.
    main = _main() if module.endswith("_main__") or b"_main__" in data else None
    file = getattr(sys.modules.get(module), "__file__", None)
    target = (tool, module, name, file, main)
    return _surroundings() + pickle.dumps(target, pickle.HIGHEST_PROTOCOL) + data


def _check_name(tool: str, function: Any) -> None:
    from .function import Function  # which needs this module

    found: Any = getattr(sys.modules.get(function.__module__), function.__qualname__, None)
    while isinstance(found, Function):
        found = found.entrypoint
    if found is not function:
        raise ToolError(
            f"{tool}: a worker process cannot import it, since {function.__module__}.{function.__qualname__} "
            f"is {'not there' if found is None else 'something else'}; keep the function under its own name"
        )


class _Arguments(pickle.Pickler):
    """Pickles arguments, with a sign where the run's context is."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file, pickle.HIGHEST_PROTOCOL)
        self.has_context = False

    def pack(self, value: object) -> bytes:
        self.dump(value)
        return self._file.getvalue()

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, RunContext):
            return None
        self.has_context = True
        return protocol.THE_CONTEXT


def _culprit(prepared: partial[Any]) -> str:
    for name, value in [*enumerate(prepared.args, 1), *prepared.keywords.items()]:
        if not _can_be_pickled(value):
            return f"its argument {name!r} ({type(value).__name__})"
    return "its arguments"


def _can_be_pickled(value: object) -> bool:
    try:
        _Arguments().pack(value)
    except Exception:  # noqa: BLE001 - whatever a class does when it is pickled
        return False
    return True


_packed: dict[str, tuple[dict[str, Any], bytes]] = {}


def _surroundings() -> bytes:
    """What a worker, whenever it was started, has to have as this process has it now."""
    try:
        folder = str(Path.cwd())
    except OSError:
        folder = None
    now: dict[str, Any] = {
        "sys_path": list(sys.path),
        "sys_argv": list(sys.argv),
        "environ": dict(os.environ),
        "dir": folder,
    }
    then, packed = _packed.get("now", (None, b""))
    if then != now:
        packed = pickle.dumps(now, pickle.HIGHEST_PROTOCOL)
        _packed["now"] = now, packed
    return packed


def _main() -> dict[str, str] | None:
    """How a worker finds the main module, in the words of `multiprocessing.spawn`; None if it is in no file."""
    main = sys.modules["__main__"]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return {"init_main_from_name": spec.name}
    if (file := getattr(main, "__file__", None)) is not None:
        return {"init_main_from_path": str(Path(file).absolute())}
    return None


def error_from(tool: str, body: bytes) -> BaseException:
    """What the tool raised, or what can be said of it."""
    said, trace, pickled = pickle.loads(body)
    error: Any = None
    if pickled is None:
        error = ToolError(said)
    else:
        try:
            error = pickle.loads(pickled)
        except Exception:  # noqa: BLE001 - an exception whose arguments are not those of its class
            error = ToolError(f"{tool} raised {said}")
    if not isinstance(error, Exception) or isinstance(error, StopIteration):
        ends = isinstance(error, (SystemExit, KeyboardInterrupt))
        error = ToolError(f"{tool} {'tried to end the process: ' if ends else 'raised '}{said}")
    if trace:
        error.add_note(f"In the worker process:\n{trace}")
    return error
