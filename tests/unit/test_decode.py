"""Decoding a record and encoding what comes of it gives the whole line back, for every journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.semconv import RECORD
from scalable_runs import fields, schema
from scalable_runs.otel.additions import AddedSpan
from scalable_runs.otel.decode import (
    additions_of,
    attributes_of,
    context_of,
    decode_event,
    decode_log,
    decode_metrics,
    decode_span,
    parent_of,
)
from scalable_runs.otel.encode import encode_logs, encode_metrics, encode_spans
from scalable_runs.plain import iso_time, parse_nanoseconds
from scalable_runs.schema import DECLARATION_OF, FILE_OF, Record

OWN = Resource({"service.name": "own"})
FIXTURES = Path(__file__).parents[1] / "fixtures/runs"
#: What the writer adds to a record.
HEAD = ("schema_version", "run_id", "seq", "writer")

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def encoded_again(record: Record) -> Record:
    """Decode a record and encode it again."""
    event_type = record["event_type"]
    if event_type == "span":
        files = encode_spans([decode_span(record, OWN)], RECORD_MAP, resource=OWN)
    elif event_type == "log":
        files = encode_logs([decode_log(record, OWN)], RECORD_MAP, resource=OWN)
    elif event_type == "metric":
        files = encode_metrics(decode_metrics([record], OWN), RECORD_MAP, resource=OWN)
    elif "parent_span_id" in record:
        span = ReadableSpan(
            "attempt",
            context=context_of(record),
            parent=parent_of(record),
            attributes={RECORD: event_type, **attributes_of(record, RECORD_MAP)},
            end_time=parse_nanoseconds(record["timestamp"]),
        )
        added = additions_of(record)
        files = encode_spans([span if added is None else AddedSpan(span, added)], RECORD_MAP)
    else:
        log = decode_event(record, "name", RECORD_MAP, OWN)
        attributes: Any = log.log_record.attributes
        attributes[RECORD] = event_type
        files = encode_logs([log], RECORD_MAP)
    (records,) = files.values()
    assert list(files) == [FILE_OF[event_type]]
    (found,) = records
    return json.loads(json.dumps(found))


# -- records made of the schema -------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
times = st.integers(1, 4_000_000_000_000_000).map(lambda us: iso_time(us * 1000))
counts = st.integers(0, 2**62)
numbers = st.floats(-1e300, 1e300, allow_nan=False) | st.integers(-(2**62), 2**62)
amounts = st.floats(0, 1e300, allow_nan=False) | counts
attributes = st.dictionaries(
    names.filter(lambda name: name != RECORD),
    texts | st.booleans() | numbers | st.lists(texts, max_size=3) | st.lists(counts, max_size=3),
    max_size=4,
)
ids = st.fixed_dictionaries(
    {
        "trace_id": st.integers(1, 2**128 - 1).map(lambda number: f"{number:032x}"),
        "span_id": st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}"),
    }
)
scopes = st.fixed_dictionaries({"name": names}, optional={"version": names})

VALUES: dict[Any, st.SearchStrategy[Any]] = {
    fields.text: texts,
    fields.label: texts,
    fields.prose: texts,
    fields.time: times,
    fields.number: numbers,
    fields.amount: amounts,
    fields.integer: st.integers(-(2**62), 2**62),
    fields.count: counts,
    fields.flag: st.booleans(),
    fields.texts: st.lists(texts, max_size=3),
    fields.table: st.dictionaries(names, texts | counts, max_size=3),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, fields.Row):
        return st.fixed_dictionaries(
            {}, optional={name: values_of(below) for name, below in kind.kinds.items()}
        )
    if isinstance(kind, list):
        return st.lists(values_of(kind[0]), max_size=2)  # pyright: ignore[reportUnknownArgumentType]
    return VALUES[kind]


def routed(event_type: str) -> st.SearchStrategy[Record]:
    """Records of a journal whose fields come from attributes."""
    declared = fields.nested_fields(DECLARATION_OF[FILE_OF[event_type]])
    paths = [
        path
        for path in RECORD_MAP.attributes[event_type]
        if declared[path].kind is not fields.anything
    ]

    def made(values: dict[str, Any], at: str, ids: dict[str, str]) -> Record:
        record: Record = {"event_type": event_type, "timestamp": at, **ids}
        for path, value in values.items():
            table, _, name = path.rpartition(".")
            (record.setdefault(table, {}) if table else record)[name] = value
        return record

    always = ["entity_type"] if event_type == "resource" else []
    return st.builds(
        made,
        st.fixed_dictionaries(
            {path: values_of(declared[path].kind) for path in always},
            optional={path: values_of(declared[path].kind) for path in paths if path not in always},
        ),
        times,
        ids,
    )


@pytest.mark.parametrize("event_type", sorted(RECORD_MAP.fields))
@quick
@given(data=st.data())
def test_a_routed_record_comes_back_whole(event_type: str, data: st.DataObject):
    record = data.draw(routed(event_type))
    assert encoded_again(record) == record


@quick
@given(data=st.data(), parent=st.integers(1, 2**64 - 1))
def test_the_end_of_an_attempt_comes_back_with_its_parent(data: st.DataObject, parent: int):
    record = data.draw(routed("task")) | {"parent_span_id": f"{parent:016x}"}
    assert encoded_again(record) == record


signals = st.fixed_dictionaries(
    {"timestamp": times},
    optional={
        "scope": scopes,
        "attributes": attributes.filter(bool),
        "resource": st.dictionaries(names, texts, min_size=1, max_size=3),
    },
)


@st.composite
def links(draw: st.DrawFn) -> Record:
    return {**draw(ids), "attributes": draw(attributes)}


@st.composite
def spans(draw: st.DrawFn) -> Record:
    begin, end = sorted(draw(st.tuples(*[st.integers(1, 2_000_000_000_000_000)] * 2)))
    code = draw(st.sampled_from(["unset", "ok", "error"]))
    status = {"code": code}
    if code == "error" and draw(st.booleans()):
        status["description"] = draw(names)
    optional = {
        "parent_span_id": ids.map(lambda found: found["span_id"]),
        "events": st.lists(
            st.fixed_dictionaries({"name": names, "timestamp": times, "attributes": attributes}),
            min_size=1,
            max_size=2,
        ),
        "links": st.lists(links(), min_size=1, max_size=2),
        "dropped": st.fixed_dictionaries(
            {"attributes": st.integers(1, 9)},
            optional={"events": st.integers(1, 9), "links": st.integers(1, 9)},
        ),
    }
    return {
        "event_type": "span",
        **draw(ids),
        **draw(signals),
        "timestamp": iso_time(end * 1000),
        "name": draw(names),
        "kind": draw(st.sampled_from(["internal", "server", "client", "producer", "consumer"])),
        "start_time": iso_time(begin * 1000),
        "end_time": iso_time(end * 1000),
        "duration_s": (end - begin) * 1000 / 10**9,
        "status": status,
        **draw(st.fixed_dictionaries({}, optional=optional)),
    }


@quick
@given(spans())
def test_a_span_comes_back_whole(record: Record):
    assert encoded_again(record) == record


@st.composite
def logs(draw: st.DrawFn) -> Record:
    optional = {
        "observed_timestamp": times,
        "event_name": names,
        "severity_number": st.integers(1, 24),
        "severity_text": names,
        "body": texts | numbers | st.lists(texts, max_size=3),
    }
    rest = draw(st.fixed_dictionaries({}, optional=optional))
    return {"event_type": "log", **draw(signals), **draw(ids), **rest}


@quick
@given(logs())
def test_a_log_record_comes_back_whole(record: Record):
    if record.get("observed_timestamp") == record["timestamp"]:
        del record["observed_timestamp"]
    assert encoded_again(record) == record


@st.composite
def metrics(draw: st.DrawFn) -> Record:
    kind = draw(st.sampled_from(["sum", "gauge", "histogram", "exponential_histogram"]))
    record: Record = {
        "event_type": "metric",
        **draw(signals),
        "name": draw(names),
        "kind": kind,
        **draw(st.fixed_dictionaries({}, optional={"unit": names, "start_time": times})),
    }
    if kind != "gauge":
        record["temporality"] = draw(st.sampled_from(["cumulative", "delta"]))
    if kind == "sum":
        record["monotonic"] = draw(st.booleans())
    if kind in ("sum", "gauge"):
        return record | {"value": draw(numbers)}
    record |= {"count": draw(counts), "sum": draw(numbers)}
    if record["count"]:
        # Zero is written for none.
        record |= {"min": draw(numbers) or 0.0, "max": draw(numbers) or 0.0}
    several = st.lists(counts, min_size=1, max_size=4)
    if kind == "histogram":
        return record | {
            "bounds": draw(st.lists(numbers, max_size=3)),
            "bucket_counts": draw(several),
        }
    small = st.integers(-(2**31), 2**31 - 1)
    buckets = st.fixed_dictionaries({"offset": small, "bucket_counts": several})
    return record | {
        "scale": draw(small),
        "zero_count": draw(counts),
        "positive": draw(buckets),
        "negative": draw(buckets),
    }


@quick
@given(metrics())
def test_a_metric_point_comes_back_whole(record: Record):
    # The resource of a metric is written where it is not the run's own, as of other signals.
    assert encoded_again(record) == record


# -- records of real runs -------------------------------------------------------------------------


@pytest.mark.parametrize("run", sorted(path.name for path in FIXTURES.glob("run-*/")))
def test_the_lines_of_recorded_runs_come_back_whole(run: str):
    count = 0
    for file in (*schema.JOURNALS, *schema.SIGNALS):
        path = FIXTURES / run / file
        for line in path.read_text().splitlines() if path.exists() else ():
            record = json.loads(line)
            if "observed_cpu" in record or "observed_memory_gb" in record:
                continue  # made of several points
            count += 1
            kept = {name: value for name, value in record.items() if name not in HEAD}
            # A span is measured in nanoseconds, and its times are written in microseconds.
            again = encoded_again(record)
            if "duration_s" in kept and kept["event_type"] == "span":
                assert again["duration_s"] == pytest.approx(kept.pop("duration_s"), abs=2e-6)
                del again["duration_s"]
            assert again == kept
    assert count > 10


def test_what_code_wrote_to_the_span_of_its_attempt_is_part_of_its_line():
    link = {"trace_id": "0" * 31 + "1", "span_id": "0" * 15 + "2", "attributes": {"why": "it"}}
    event = {"name": "e", "timestamp": "2026-01-02T03:04:05.000006Z", "attributes": {"n": 1}}
    record: Record = {
        "event_type": "task",
        "timestamp": "2026-01-02T03:04:05.000007Z",
        "trace_id": "1" * 32,
        "span_id": "2" * 16,
        "parent_span_id": "3" * 16,
        "task_id": "key",
        "state": "succeeded",
        "details": {
            "span_name": "renamed",
            "status": {"code": "error", "description": "wrong"},
            "attributes": {"dask.task.key": "not it", "error.type": "of the user"},
            "events": [event],
            "links": [link],
            "dropped": {"events": 3},
        },
    }
    assert encoded_again(record) == record
