"""Tells a model what is wrong with the arguments that it sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


def explain(tool: str, parameters: Mapping[str, Any], error: ValidationError) -> str:
    """Say for each argument that does not fit what is wrong and what was expected."""
    properties: dict[str, Any] = parameters["properties"]
    problems: list[str] = []
    for problem in error.errors(include_url=False):
        where = _path(problem["loc"])
        if problem["type"] in {"json_invalid", "string_unicode"}:
            said = problem.get("ctx", {}).get("error", problem["msg"])
            return f"{tool}: the arguments are not valid JSON ({said}); send one JSON object"
        if not where:
            return f"{tool}: the arguments must be one JSON object, not {_short(problem['input'])}"
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            known = ", ".join(properties) or "it takes none"
            problems.append(f"{where}: there is no such argument (arguments: {known})")
        elif problem["type"] == "missing":
            expected = f", expected {kind_of(properties[where])}" if where in properties else ""
            problems.append(f"{where}: required, but missing{expected}")
        else:
            problems.append(f"{where}: {problem['msg']}; got {_short(problem['input'])}")
    return f"{tool}: wrong arguments\n" + "\n".join(f"- {problem}" for problem in problems)


def kind_of(schema: Mapping[str, Any]) -> str:
    """What a JSON schema wants, in a few words: "string", "one of 'a', 'b'"."""
    if "enum" in schema:
        return "one of " + ", ".join(map(repr, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_of(choice) for choice in schema["anyOf"]))
    return schema.get("type") or ("object" if "$ref" in schema else "any value")


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
