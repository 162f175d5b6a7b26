"""The object that the command line names: `module:name`, or `path/to/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from kern_async.agent import Agent
from kern_async.team import Team

from .exits import Refused


def load(spec: str, *, debug: bool = False) -> Any:
    """Import a module, or run a file as one, and return the object in it that `spec` names.

    Modules of the current directory are found, and so are those beside a file. With `debug` an error in the module
    is shown with its whole traceback.

    Raises:
        Refused: there is no such module or object, or the module failed.
    """
    where, colon, name = spec.rpartition(":")
    if not colon:
        where, name = spec, ""
    module = _module(where, debug=debug)
    if not name:
        raise Refused(f"which object of {where}? {_offer(module, where)}")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise Refused(f"{where} has no {name!r}; {_offer(module, where)}")
        found = getattr(found, part)
    return found


def load_runnable(spec: str, *, debug: bool = False) -> Agent | Team:
    """`load` for what can be run: an `Agent` or a `Team`."""
    found = load(spec, debug=debug)
    if isinstance(found, (Agent, Team)):
        return found
    if type(found).__name__ == "AgentOS":
        raise Refused(
            f"{spec} is an AgentOS: name one of its agents or teams, or use `kern-async serve {spec}`"
        )
    raise Refused(f"{spec} is {_what(found)}, not an Agent or a Team")


def _what(found: object) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}, not an object of it"
    if callable(found):
        return f"a function, {getattr(found, '__name__', '')}()"
    return f"of type {type(found).__name__}"


def wrong_kind(spec: str, found: object) -> Refused:
    """The refusal of an object that cannot be served."""
    return Refused(f"{spec} is {_what(found)}, not an AgentOS, an Agent or a Team")


def _offer(module: ModuleType, where: str) -> str:
    """What could have been meant."""
    fitting = [
        f"{where}:{name}"
        for name, value in vars(module).items()
        if isinstance(value, (Agent, Team)) or type(value).__name__ == "AgentOS"
    ]
    return f"there is {', '.join(fitting)}" if fitting else "it has no agent, team or AgentOS"


def _module(where: str, *, debug: bool) -> ModuleType:
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    if is_file and not Path(where).is_file():
        raise Refused(f"there is no file {where}")
    if not is_file and not all(part.isidentifier() for part in where.split(".")):
        raise Refused(f"{where!r} is no name of a module; give module:name or path/to/file.py:name")
    base = str(Path(where).resolve().parent if is_file else Path.cwd())
    if base not in sys.path:
        sys.path.insert(0, base)
    try:
        return _run_file(Path(where).resolve()) if is_file else importlib.import_module(where)
    except ModuleNotFoundError as error:
        if (
            not is_file
            and error.name is not None
            and (where == error.name or where.startswith(f"{error.name}."))
        ):
            raise Refused(f"there is no module {where!r} in {base} or among those installed") from None
        raise _broken(where, error, base, debug=debug) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything
        raise _broken(where, error, base, debug=debug) from None


def _run_file(file: Path) -> ModuleType:
    name = file.stem
    if name in sys.modules or name in sys.stdlib_module_names or not name.isidentifier():
        name = f"file_{abs(hash(file)):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise Refused(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _broken(where: str, error: BaseException, base: str, *, debug: bool) -> Refused:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_short(error.filename)}:{error.lineno}: "
    else:
        frames = _theirs(error, base)
        place = f"{_short(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    lines = traceback.format_exception_only(error)
    what = (
        lines[-1] if isinstance(error, SyntaxError) else "".join(lines)
    )  # not the source line with its caret
    hint = "" if debug else " (--debug shows the whole traceback)"
    return Refused(f"{where} cannot be imported: {place}{what.strip()}{hint}")


def _theirs(error: BaseException, base: str) -> list[traceback.FrameSummary]:
    """The frames that are the user's own code; if there is none, those of the packages it uses."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(
            ("<frozen", str(Path(__file__).parent), str(Path(importlib.__file__).parent))
        )
    ]
    own = [f for f in frames if f.filename.startswith(base) and "site-packages" not in f.filename]
    return own or frames


def _short(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
