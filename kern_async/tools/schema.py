"""The JSON schema of a tool's arguments, as providers want it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from kern_async.exceptions import ConfigurationError


class Quiet(GenerateJsonSchema):
    """Leaves out what JSON schema cannot say of a type, where something remains, without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's own form


def parameters_schema(
    schema: dict[str, Any], documented: Mapping[str, str], defaults: Mapping[str, Any], *, is_open: bool
) -> dict[str, Any]:
    """The schema of a tool's arguments: pydantic's, without its titles, with the callable's own defaults.

    `documented` are descriptions from the docstring; a type's own goes first. `is_open`: other keys are welcome.
    """
    schema = _untitled(schema)
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    for name, property_schema in properties.items():
        if name in documented:
            property_schema.setdefault("description", documented[name])
        if name in defaults:
            del property_schema["default"]
            try:
                property_schema["default"] = to_jsonable_python(defaults[name])
            except ValueError:
                continue  # the model cannot be told, and need not be
    result = {
        "type": "object",
        "properties": properties,
        "required": schema.get("required", []),
        "additionalProperties": schema.get("additionalProperties", is_open),
    }
    return result | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


_NAMES = {"properties", "$defs", "patternProperties"}
_VALUES = {"default", "const", "enum", "examples", "required"}


def _untitled(node: Any) -> Any:
    if isinstance(node, list):
        return [_untitled(item) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    plain: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", node).items():
        if key in _VALUES:
            plain[key] = value
        elif key in _NAMES:
            plain[key] = {name: _untitled(schema) for name, schema in value.items()}
        elif key != "title":
            plain[key] = _untitled(value)
    return plain


def strict_schema(tool: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema in the subset that providers hold a model to: every key required, none besides.

    The source of the rules is OpenAI's "Structured model outputs", supported schemas.

    Raises:
        ConfigurationError: an argument is an object with free keys, or of any type, which that subset lacks.
    """
    definitions: dict[str, Any] = parameters.get("$defs", {})
    properties: dict[str, Any] = parameters["properties"]
    if parameters["additionalProperties"] is not False:
        raise ConfigurationError(f"tool {tool!r}: strict=True does not go with **kwargs; name the parameters")
    result = {
        "type": "object",
        "properties": {
            name: _strict(schema, definitions, f"tool {tool!r}, parameter {name!r}")
            for name, schema in properties.items()
        },
        "required": list(properties),
        "additionalProperties": False,
    }
    if definitions:
        result["$defs"] = {
            name: _strict(schema, definitions, f"tool {tool!r}, type {name!r}")
            for name, schema in definitions.items()
        }
    return result


def _strict(schema: dict[str, Any], definitions: Mapping[str, Any], where: str) -> dict[str, Any]:
    node = {key: value for key, value in schema.items() if key != "default"}
    if "$ref" in node and len(node) > 1:  # a reference may have nothing beside it
        node = {**definitions[node.pop("$ref").rpartition("/")[2]], **node}
    if node.get("type") == "object":
        if node.get("additionalProperties", False) is not False or "properties" not in node:
            raise ConfigurationError(
                f"{where}: strict=True needs an object with named keys; use a pydantic model"
            )
        node["additionalProperties"] = False
        node["required"] = list(node["properties"])
        node["properties"] = {
            name: _strict(inner, definitions, where) for name, inner in node["properties"].items()
        }
    elif not node.keys() & {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"}:
        raise ConfigurationError(f"{where}: strict=True needs a type; any value is not one")
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if key in node:
            node[key] = [_strict(choice, definitions, where) for choice in node[key]]
    if isinstance(node.get("items"), dict):
        node["items"] = _strict(node["items"], definitions, where)
    return node
