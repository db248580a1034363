"""Reads the registry: the one source of names, types, units and meanings.

``registry/*.yaml`` are in the format of OpenTelemetry Weaver. What this project adds is in
``annotations: {scalable: …}``: the constant of a name, the fields of the run directory that an
attribute becomes, the name of a span with a place for what differs. ``internal.yaml`` has
attributes that are never sent, ``renamed.yaml`` the names of earlier versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
REGISTRY: Final = FOLDER / "registry"
MANIFEST: Final = REGISTRY / "registry_manifest.yaml"


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Attributes
    ----------
    name, brief
        As in the registry.
    type
        A simple type of the registry (``string``, ``int[]``, ``any``, …).
    members
        The values of an enumeration; empty if any value may occur.
    section
        Title of its section in the documentation.
    constant
        Name of its constant in Python.
    fields
        Fields of the run directory that it becomes.
    is_ours
        Whether this registry defines it; else it is one of OpenTelemetry's.
    """

    name: str
    brief: str
    type: str
    members: tuple[str, ...]
    section: str
    constant: str
    fields: tuple[str, ...]
    is_ours: bool
    stability: str
    examples: Any = None


@dataclass(frozen=True)
class Signal:
    """A span, an event, a metric or an entity.

    Attributes
    ----------
    id, type
        Of its group: `type` is ``span``, ``event``, ``metric`` or ``entity``.
    name
        Name of the metric, event or entity; of a span with places: ``run {project}``.
    attributes
        For each attribute whether it is required.
    kind
        The span's kind, or the instrument.
    is_open
        Whether others may add attributes and events, with names outside of our namespaces.
    """

    id: str
    type: str
    name: str
    brief: str
    constant: str
    stability: str
    attributes: Mapping[str, bool]
    kind: str = ""
    unit: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class Registry:
    """Everything that is declared."""

    attributes: Mapping[str, Attribute]
    internal: Mapping[str, Attribute]
    signals: tuple[Signal, ...]
    renamed: Mapping[str, Mapping[str, str]]
    #: Schema URL of OpenTelemetry's conventions that are followed.
    schema_url: str
    groups: tuple[Mapping[str, Any], ...] = field(repr=False, default=())

    def of_type(self, type: str) -> list[Signal]:
        """Return the signals of one type, in the order of the files."""
        return [signal for signal in self.signals if signal.type == type]


@cache
def load() -> Registry:
    """Read the registry."""
    groups = [group for path in _files() for group in _read(path)["groups"]]
    attributes = {
        found.name: found
        for group in groups
        if group["type"] == "attribute_group"
        for found in map(_attribute(group), group["attributes"])
    }
    internal = map(_attribute({}), _read(FOLDER / "internal.yaml")["attributes"])
    (otel,) = _read(MANIFEST)["dependencies"]
    return Registry(
        attributes,
        {found.name: found for found in internal},
        tuple(_signal(group) for group in groups if group["type"] != "attribute_group"),
        _read(FOLDER / "renamed.yaml"),
        otel["schema_url"],
        tuple(groups),
    )


#: Files in the order of the documentation; others follow.
_ORDER: Final = ("run", "task", "worker", "failure", "user", "span_attributes", "telemetry", "otel")


def _files() -> Iterator[Path]:
    paths = {path.stem: path for path in sorted(REGISTRY.glob("*.yaml")) if path != MANIFEST}
    for name in _ORDER:
        yield paths.pop(name)
    yield from paths.values()


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _ours(declared: Mapping[str, Any]) -> Mapping[str, Any]:
    return declared.get("annotations", {}).get("scalable", {})


def _attribute(group: Mapping[str, Any]) -> Any:
    def make(declared: Mapping[str, Any]) -> Attribute:
        ours = _ours(declared)
        type = declared.get("type", "")
        members: list[Any] = []
        if isinstance(type, dict):
            members = [member["value"] for member in type["members"]]
            type = "string"
        return Attribute(
            declared.get("id") or declared["ref"],
            declared["brief"],
            type or ours["type"],
            tuple(members),
            group.get("display_name", ""),
            ours["constant"],
            tuple(ours.get("fields", ())),
            "id" in declared,
            declared.get("stability", ""),
            declared.get("examples"),
        )

    return make


def _signal(group: Mapping[str, Any]) -> Signal:
    ours = _ours(group)
    return Signal(
        group["id"],
        group["type"],
        group.get("metric_name") or group.get("name") or ours["name"],
        group["brief"],
        ours.get("constant", ""),
        group["stability"],
        {
            each["ref"]: each.get("requirement_level") == "required"
            for each in group.get("attributes", ())
        },
        group.get("span_kind") or group.get("instrument") or "",
        group.get("unit", ""),
        ours.get("open", False),
    )
