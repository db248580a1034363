"""The registry of names obeys OpenTelemetry's rules, and what is generated of it is up to date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import opentelemetry.semconv._incubating.attributes as otel_attributes
import opentelemetry.semconv._incubating.metrics as otel_metrics
import pytest
from opentelemetry.semconv.schemas import Schemas

from scalable.telemetry import semconv as constants
from scalable.telemetry.instruments import INSTRUMENTS
from scalable_runs import fields
from scalable_runs.schema import DECLARATION_OF
from semconv import generate
from semconv.model import MANIFEST, REGISTRY, Attribute, Signal, load

ROOT = Path(__file__).parents[2]
OURS = ("dask.", "scalable.")
#: Of attributes and of metrics: the registry's own and OpenTelemetry's have one namespace.
ATTRIBUTES = load().attributes
SIGNALS = load().signals
STABILITIES = {"development", "alpha", "beta", "release_candidate", "stable"}
UCUM = re.compile(r"s|By|1|\{[a-z_]+\}")


def otel_names(package: Any) -> set[str]:
    """Every name of a package of OpenTelemetry's conventions."""
    return {
        value
        for module in iter_modules(package.__path__, f"{package.__name__}.")
        for value in vars(import_module(module.name)).values()
        if isinstance(value, str) and re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", value)
    }


def of_type(type: str) -> list[Signal]:
    return load().of_type(type)


@pytest.mark.parametrize("path", generate.FILES, ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path: Path):
    assert path.read_text() == generate.rendered(path), "`make semconv` updates it"


def test_the_constants_are_the_names():
    for attribute in chain(ATTRIBUTES.values(), load().internal.values()):
        assert getattr(constants, attribute.constant) == attribute.name
    assert [instrument.name for instrument in INSTRUMENTS] == [
        metric.name for metric in of_type("metric")
    ]


def test_everything_has_a_meaning_and_a_stability():
    everything: list[Attribute | Signal] = [*ATTRIBUTES.values(), *SIGNALS]
    assert [each.name for each in everything if not each.brief.strip()] == []
    ours = [each for each in everything if getattr(each, "is_ours", True)]
    assert [each.name for each in ours if each.stability not in STABILITIES] == []


def test_names_are_words_with_dots():
    names = [*ATTRIBUTES, *load().internal]
    names += [signal.name for signal in SIGNALS if signal.type != "span"]
    words = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
    assert [name for name in names if not re.fullmatch(rf"{words}(\.{words})*", name)] == []


def test_no_name_is_also_a_namespace():
    ours = [attribute.name for attribute in ATTRIBUTES.values() if attribute.is_ours]
    for names in (ours, [metric.name for metric in of_type("metric")]):
        assert list(namespaces_among(names, names)) == []
    # Nor is an attribute a namespace of metrics and events, or the other way round.
    others = [signal.name for signal in (*of_type("metric"), *of_type("event"))]
    assert list(namespaces_among(ours, others)) == []
    assert [found for found in namespaces_among(others, ours) if found[0] != "exception"] == []


def namespaces_among(names: list[str], below: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        yield from ((name, other) for other in below if other.startswith(f"{name}."))


def test_names_do_not_differ_by_a_dot_alone():
    # Constants in other languages are made of names, with one character for dots and underscores.
    flat = [name.replace(".", "_") for name in ATTRIBUTES]
    assert len(flat) == len(set(flat))


def test_no_name_is_of_an_attribute_and_of_a_metric_or_an_event():
    signals = {signal.name for signal in SIGNALS if signal.type in ("metric", "event")}
    assert signals & set(ATTRIBUTES) == set()


def test_what_is_ours_is_in_our_namespaces():
    for attribute in ATTRIBUTES.values():
        assert attribute.name.startswith(OURS) == attribute.is_ours


def test_what_is_not_ours_is_in_the_conventions():
    referred = {attribute.name for attribute in ATTRIBUTES.values() if not attribute.is_ours}
    assert referred - otel_names(otel_attributes) == set()
    foreign = {metric.name for metric in of_type("metric") if not metric.name.startswith(OURS)}
    assert foreign - otel_names(otel_metrics) == set()
    events = {event.name for event in of_type("event") if not event.name.startswith(OURS)}
    assert events == {"exception"}


def test_what_is_ours_is_not_in_the_conventions():
    # Also no namespace of theirs is used: `dask` may be one of these some day.
    theirs = {name.split(".")[0] for name in otel_names(otel_attributes)}
    assert theirs & {name.removesuffix(".") for name in OURS} == set()


def test_signals_have_attributes_of_the_registry():
    used = {name for signal in SIGNALS for name in signal.attributes}
    assert used - set(ATTRIBUTES) == set()


def test_every_attribute_is_of_a_signal():
    used = {name for signal in SIGNALS for name in signal.attributes}
    # The resource has OpenTelemetry's own as well.
    assert set(ATTRIBUTES) - used - {"service.instance.id"} == set()


def test_metrics_have_a_unit_of_ucum_and_an_instrument():
    keys = {"dask.task.key", "dask.worker.address"}
    for metric in of_type("metric"):
        assert UCUM.fullmatch(metric.unit), metric.name
        assert metric.kind in ("counter", "updowncounter", "gauge", "histogram"), metric.name
        assert not metric.name.endswith(("_total", ".total")), metric.name
        # Bytes of several workers can be added up.
        assert metric.unit != "By" or metric.kind != "gauge", metric.name
        # Each key would be a series of its own.
        assert keys.isdisjoint(metric.attributes), metric.name


def test_ids_of_groups_are_unique_and_name_what_they_are():
    ids = [signal.id for signal in SIGNALS]
    assert len(ids) == len(set(ids))
    for signal in SIGNALS:
        assert signal.id.startswith(f"{signal.type}.")
        if signal.type != "span":
            assert signal.id == f"{signal.type}.{signal.name}"


def test_fields_of_attributes_are_in_the_schema():
    declared = {
        name.rpartition(".")[2]
        for declaration in DECLARATION_OF.values()
        for name in fields.nested_fields(declaration)
    }
    for attribute in chain(ATTRIBUTES.values(), load().internal.values()):
        assert {field.rpartition(".")[2] for field in attribute.fields} <= declared


def test_earlier_names_are_gone_and_became_others():
    now = {*ATTRIBUTES, *load().internal, *(signal.name for signal in SIGNALS)}
    for what, names in load().renamed.items():
        assert set(names.values()) <= now
        if what == "attributes":
            # A metric may have kept the name.
            assert set(names).isdisjoint(ATTRIBUTES)


def test_the_change_log_has_every_earlier_name():
    text = (ROOT / "CHANGELOG.md").read_text()
    for names in load().renamed.values():
        for old, new in names.items():
            assert f"| `{old}` | `{new}` |" in text


def test_the_schema_url_is_of_a_version_of_the_conventions():
    assert load().schema_url in {schema.value for schema in Schemas}
    assert MANIFEST.parent == REGISTRY


def test_what_makes_signals_writes_no_names():
    names = {name for name in (*ATTRIBUTES, *load().internal) if name.startswith(OURS)}
    generated = set(generate.FILES)
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "src" / "scalable" / "telemetry").rglob("*.py")
        if path not in generated
        for name in re.findall(r'"((?:dask|scalable)\.[a-z_.]+)"', path.read_text())
        if name in names
    ]
    assert found == []
