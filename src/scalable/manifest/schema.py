"""The manifest's JSON schema, for editors that complete and check."""

from __future__ import annotations

from typing import Any, Final, cast

from scalable.common.options import OPTIONS, SECTIONS
from scalable.manifest.model import Root
from scalable.manifest.providers import ProviderError, find_provider, provider_names

#: The dialect that pydantic writes.
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE: Final = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_DEFINITIONS: Final = "#/$defs/{model}"


def manifest_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of ``scalable.yaml``, with the options of every installed provider."""
    definitions: dict[str, Any] = {}
    root = _of(Root, definitions)
    targets: list[dict[str, Any]] = []
    for name in provider_names():
        try:
            provider = find_provider(name)
        except ProviderError:
            provider = None
        if provider is None:
            continue
        target = _of(provider.options_type, definitions)
        target["properties"]["provider"] = {"const": name}
        target["title"] = f"{name} target"
        definitions[f"target-{name}"] = target
        targets.append({"$ref": f"#/$defs/target-{name}"})
    properties = root["properties"]
    properties["targets"] = {
        "type": "object",
        "minProperties": 1,
        "description": "Where the work can run.",
        "propertyNames": {"not": {"const": "auto"}},
        "additionalProperties": {
            "type": "object",
            "required": ["provider"],
            "properties": {"provider": {"enum": provider_names()}},
            "oneOf": targets,
        },
    }
    properties["overlays"] = {
        "type": "object",
        "description": "Named changes, merged into the rest for targets that name them. "
        "Lists are replaced; `name+` adds to a list; null removes a key.",
        "additionalProperties": {"type": "object"},
    }
    properties["telemetry"] = {
        "type": "object",
        "description": "Options of scalable.instrument().",
        "additionalProperties": False,
        "properties": {
            option.name: {"description": f"{option.meaning} ({option.allowed})"}
            for option in OPTIONS
            if option.variable and option.name not in SECTIONS
        },
    }
    schema: dict[str, Any] = {
        "$schema": DIALECT,
        **root,
        "title": "scalable.yaml",
        "description": "What runs, and where.",
        "required": [*root["required"], "targets"],
        "$defs": definitions,
    }
    return cast("dict[str, Any]", _with_variables(schema))


def _of(model: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_DEFINITIONS, mode="validation")
    definitions.update(schema.pop("$defs", {}))
    return schema


def _with_variables(schema: Any) -> Any:
    """Allow ``${NAME}`` for numbers and booleans."""
    if isinstance(schema, list):
        return [_with_variables(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    found = {key: _with_variables(value) for key, value in cast("dict[str, Any]", schema).items()}
    if found.get("type") in ("integer", "number", "boolean") and "const" not in found:
        about = {key: found.pop(key) for key in ("description", "title", "default") if key in found}
        return {**about, "anyOf": [found, _VARIABLE]}
    return found
