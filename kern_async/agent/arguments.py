"""Arguments that users give, checked where they give them: each error says what was wrong and what to do."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from kern_async.db.database import BaseDb
from kern_async.db.texts import storable
from kern_async.engine.rows import dumped
from kern_async.exceptions import ConfigurationError
from kern_async.guardrails import BaseGuardrail
from kern_async.run.base import RunInput
from kern_async.run.limits import RunLimits
from kern_async.run.message import Message
from kern_async.run.trusted import trusted


def slug(name: str | None) -> str:
    """The id that a name makes: in lower case, spaces and underscores as hyphens."""
    return name.lower().replace(" ", "-").replace("_", "-") if name else ""


def check_text(what: str, value: Any) -> None:
    """Refuse what is neither None nor a text with something in it."""
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigurationError(f"{what} is {value!r}; it is a text that is not empty, or None")


def check_id(what: str, value: str | None) -> None:
    """Refuse a text that no database can keep as an id."""
    if value is not None and not storable(value):
        raise ConfigurationError(
            f"{what} is {value!r}; an id that is stored may have no NUL character and no half of a surrogate pair"
        )


def check_seconds(what: str, value: Any, *, zero: bool = False) -> None:
    """Refuse what is neither None nor a number of seconds; `zero` allows 0."""
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (value > 0 or (zero and value == 0)):
        raise ConfigurationError(f"{what} is {value!r}; it is a number of seconds {'>=' if zero else '>'} 0")


def check_count(what: str, value: Any, *, least: int = 0) -> None:
    """Refuse what is neither None nor a whole number of at least `least`."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise ConfigurationError(f"{what} is {value!r}; it is a whole number >= {least}")


def check_trim(what: str, value: Any) -> None:
    """Refuse what is neither None nor a number of tokens nor a sync function."""
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004 - an object's method may be async
        raise ConfigurationError(f"{what} is {value!r}, which is async; it is a plain function")
    if not callable(value):
        check_count(what, value)


def check_db(what: str, value: Any) -> None:
    """Refuse what is neither None nor a database."""
    if value is not None and not isinstance(value, BaseDb):
        raise ConfigurationError(
            f"{what} is {value!r}; give a database, such as SqliteDb(db_file='runs.db'), PostgresDb(db_url=...) or InMemoryDb()"
        )


def check_checkpoint(what: str, value: Any) -> None:
    """Refuse what is none of the reference's words."""
    if value not in (None, "runs", "tool-batch"):
        raise ConfigurationError(f"{what} is {value!r}; it is 'runs' or 'tool-batch', or None")


def check_json(what: str, values: Mapping[str, Any]) -> None:
    """Refuse values that a database could not keep as JSON."""
    for key in dumped(values)[1]:
        raise ConfigurationError(
            f"{what}[{key!r}] is {values[key]!r}, which is no JSON and cannot be stored; convert it, or give it as "
            "one of the `dependencies`, which are not stored"
        )


def check_background(who: Any, *, background: Any, stream: bool) -> None:
    """Refuse a background run that could not be one."""
    if not isinstance(background, bool):
        raise ConfigurationError(f"background is {background!r}; it is True or False")
    if background and who.db is None:
        raise ConfigurationError(
            f"background=True of {who} needs a database, where its output is found later; give db="
        )
    if background and stream:
        raise ConfigurationError(
            "a background run has no stream of its own; start it without stream=True and read run_events(run_id)"
        )


def check_stored(who: Any, db: Any) -> None:
    """Refuse a run without a database of an agent or team that has a keyword which needs one."""
    for named in ("add_history_to_context", "num_history_runs", "add_team_history_to_members"):
        if db is None and (wanted := getattr(who, named, None)):
            raise ConfigurationError(
                f"{named}={wanted!r} of {who} needs a database to find earlier runs in; give the "
                "agent or team that is run a db=, such as db=SqliteDb(db_file='runs.db')"
            )


def check_hooks(what: str, value: Any) -> None:
    """Refuse what is no list of callables or guardrails."""
    listed = isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))
    hooks = list(cast("Iterable[Any]", value)) if listed else []
    if not listed or not all(callable(hook) or isinstance(hook, BaseGuardrail) for hook in hooks):
        raise ConfigurationError(
            f"{what} is {value!r}; it is a list of functions (or guardrails, round a run)"
        )


def check_limits(what: str, value: Any) -> None:
    """Refuse what is neither None nor `RunLimits`."""
    if value is not None and not isinstance(value, RunLimits):
        raise ConfigurationError(f"{what} is {value!r}; it is a RunLimits(model_requests=..., ...), or None")


def check_named(what: str, value: Any) -> None:
    """Refuse what is neither None nor a dict whose keys are texts."""
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in cast("dict[Any, Any]", value)):
        raise ConfigurationError(f"{what} is {value!r}; it is a dict whose keys are texts")


def check_schema(what: str, value: Any) -> None:
    """Refuse what is no output schema."""
    is_class = isinstance(value, type) and issubclass(value, BaseModel)
    if value is not None and not is_class and not isinstance(value, dict):
        raise ConfigurationError(f"{what} is {value!r}; it is a pydantic class or a JSON schema as a dict")


def checked_input(value: Any) -> RunInput:
    """The input of a run, as it was given."""
    listed = isinstance(value, list) and all(isinstance(item, Message) for item in cast("list[Any]", value))
    if not (listed or isinstance(value, (str, Message, dict, BaseModel))):
        raise ConfigurationError(
            f"the input is {value!r}; it is a str, a Message, a list of Messages, a dict or a pydantic object"
        )
    return trusted(RunInput, {"input_content": value})
