"""The arguments of a tool that the user fills, and what is left of its signature for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic_core import from_json, to_json

from kern_async.exceptions import ConfigurationError
from kern_async.run.tool import UserInputField

from .mistakes import kind_of
from .schema import Quiet
from .signature import Signature


def models_part(signature: Signature, tool: str, fields: Sequence[str]) -> Signature:
    """What the model is asked for, and held to, when the user fills `fields`.

    Without `fields` the user fills all of them: the model may suggest a value for any, and need not.

    Raises:
        ConfigurationError: the tool has no such parameter.
    """
    if unknown := [field for field in fields if field not in signature.fields]:
        known = ", ".join(signature.fields) or "none"
        raise ConfigurationError(
            f"tool {tool!r}: user_input_fields names {unknown[0]!r}; its parameters are: {known}"
        )
    return _without(signature, fields) if fields else _all_optional(signature)


def _without(signature: Signature, fields: Sequence[str]) -> Signature:
    gone = {signature.fields[field] for field in fields}
    model = _model(
        signature, {name: made for name, made in signature.definitions.items() if name not in gone}
    )
    properties = signature.parameters["properties"]
    parameters: dict[str, Any] = signature.parameters | {
        "properties": {name: schema for name, schema in properties.items() if name not in fields},
        "required": [name for name in signature.parameters["required"] if name not in fields],
    }
    if "$defs" in parameters:
        definitions: dict[str, Any] = parameters.pop("$defs")
        used = model.model_json_schema(schema_generator=Quiet).get("$defs", {})
        if used:
            parameters["$defs"] = {name: schema for name, schema in definitions.items() if name in used}
    return replace(
        signature,
        model=model,
        parameters=parameters,
        fields={name: field for name, field in signature.fields.items() if name not in fields},
        reserved=signature.reserved.union(fields),
    )


def _all_optional(signature: Signature) -> Signature:
    definitions = dict(signature.definitions)
    for name, field in signature.fields.items():
        if signature.model.model_fields[field].is_required():
            definitions[field] = (definitions[field][0], Field(alias=name, default=None))
    return replace(
        signature,
        model=_model(signature, definitions),
        parameters=signature.parameters | {"required": []},
    )


def _model(signature: Signature, definitions: Mapping[str, Any]) -> type[BaseModel]:
    return create_model("Arguments", __config__=signature.model.model_config, **definitions)


def form_of(signature: Signature, values: Mapping[str, Any]) -> list[UserInputField]:
    """All arguments as fields for the user, with the values that there are."""
    required = signature.parameters["required"]
    definitions: dict[str, Any] = signature.parameters.get("$defs", {})
    fields: list[UserInputField] = []
    for name, schema in signature.parameters["properties"].items():
        kinds = _kinds(schema, definitions)
        fields.append(
            UserInputField(
                name=name,
                field_type=" or ".join(kind for kind in kinds if kind != "null") or "null",
                description=schema.get("description"),
                value=values.get(name),
                required=name in required and "null" not in kinds,
            )
        )
    return fields


def _kinds(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" not in schema:
        return [kind_of(schema)]
    kinds = [kind for choice in schema["anyOf"] for kind in _kinds(choice, definitions)]
    return list(dict.fromkeys(kinds))


def filled(signature: Signature, arguments: str | Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The model's valid arguments with the user's in their place, as JSON text.

    A user's None takes the model's value away where the parameter can do without one.
    """
    said: Any = from_json(arguments or "{}") if isinstance(arguments, str) else dict(arguments)
    required = signature.parameters["required"]
    taken_away = {name for name, value in given.items() if value is None and name not in required}
    merged = {name: value for name, value in {**said, **given}.items() if name not in taken_away}
    return to_json(merged, fallback=str, inf_nan_mode="constants").decode()
