"""Which attributes of a signal become which fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from scalable_runs.schema import FILE_OF

_DETAILS: Final = "details."
#: Combinations of event types whose plans are kept.
_MAX_ROUTES: Final = 64


class Plan(NamedTuple):
    """How one event type is made, ready for the loop that makes it."""

    file: str
    event_type: str
    constants: Mapping[str, Any]
    constant_details: Mapping[str, Any]
    fields: Mapping[str, str]
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class RecordMap:
    """Which attribute of a signal becomes which field of a record.

    The attributes' names are the application's.

    Attributes
    ----------
    route
        Attribute whose value, a string or a sequence of strings, is the event type (or types) of
        the record that a signal becomes. A signal without it, or with an unknown event type, is
        unrouted.
    fields
        For each event type, the record's field for an attribute's name. A field `details.x`
        becomes `x` of the record's `details` object. Attributes not named here, and those whose
        value is None, are left out.
    constants
        For each event type, values of fields that no attribute gave.
    metrics
        For a metric's name, the field that holds a point's value and the factor it is multiplied
        by. Points with equal routed attributes and equal time become one record.
    attributes
        The inverse of `fields`: for each event type, the attribute of a record's field.
    """

    route: str
    fields: Mapping[str, Mapping[str, str]]
    constants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    metrics: Mapping[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    attributes: Mapping[str, Mapping[str, str]] = field(init=False, repr=False)
    _plans: dict[Any, tuple[Plan, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        unknown = sorted({*self.fields, *self.constants} - set(FILE_OF))
        if unknown:
            raise ValueError(f"unknown event types {unknown}: known are {sorted(FILE_OF)}")
        plans = {name: (self._plan(name, fields),) for name, fields in self.fields.items()}
        inverse = {
            name: {to: attribute for attribute, to in fields.items()}
            for name, fields in self.fields.items()
        }
        object.__setattr__(self, "_plans", plans)
        object.__setattr__(self, "attributes", inverse)

    def _plan(self, event_type: str, fields: Mapping[str, str]) -> Plan:
        direct: dict[str, str] = {}
        details: dict[str, str] = {}
        for attribute, to in fields.items():
            is_detail = to.startswith(_DETAILS)
            (details if is_detail else direct)[attribute] = to.removeprefix(_DETAILS)
        constants = dict(self.constants.get(event_type, {}))
        of_details = [to for to in constants if to.startswith(_DETAILS)]
        constant_details = {to.removeprefix(_DETAILS): constants.pop(to) for to in of_details}
        return Plan(FILE_OF[event_type], event_type, constants, constant_details, direct, details)

    def plans(self, attributes: Mapping[str, Any]) -> tuple[Plan, ...]:
        """Return how to make the records of a signal with these attributes; empty if unrouted."""
        routed: Any = attributes.get(self.route)
        if routed is None:
            return ()
        if routed.__class__ is list:
            routed = tuple(routed)
        elif routed.__class__ is not str and routed.__class__ is not tuple:
            return ()
        plans = self._plans.get(routed)
        return plans if plans is not None else self._add_plans(routed)

    def _add_plans(self, routed: str | tuple[Any, ...]) -> tuple[Plan, ...]:
        names = (routed,) if isinstance(routed, str) else routed
        plans = tuple(
            plan for name in names if isinstance(name, str) for plan in self._plans.get(name, ())
        )
        if plans and len(self._plans) < _MAX_ROUTES:
            self._plans[routed] = plans
        return plans
