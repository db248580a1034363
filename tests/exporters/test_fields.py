"""Fields brought to their types: what is wrong is null and counted, and the rest is as it was."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from store_world import RUN_ID, create, read, task

from scalable_runs import fields, schema
from scalable_runs.fields import MAX_TEXT, clean, fits, nested_fields, row_of
from scalable_runs.plain import hex_id
from scalable_runs.summary import RunSummary


def worker(**details: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "event_type": "worker",
        "run_id": RUN_ID,
        "timestamp": "2026-01-02T03:04:05.000000Z",
        "worker_id": 3,
        "worker": "tcp://127.0.0.1:1",
        "state": "ready",
        "details": {"nthreads": 2, "memory_limit_bytes": 4e9, "unknown": {"a": []}, **details},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_limit_bytes", "64GB"),
        ("memory_limit_bytes", -1),
        ("memory_limit_bytes", 1e300),
        ("nthreads", True),
        ("nthreads", 2**64),
        ("nthreads", 1.5),
        ("host", ["a"]),
        ("reason", "x" * (MAX_TEXT + 1)),
        ("exit_code", {}),
    ],
)
def test_a_value_of_another_type_is_null_and_counted(name: str, value: Any) -> None:
    record = worker(**{name: value})
    expected = worker(**{name: None}) | {"worker_id": "3"}
    assert clean(record, row_of(schema.WorkerRecord)) == 1
    assert record == expected


@pytest.mark.parametrize(("name", "value"), [("tasks", ["a", 1]), ("will_retry", 1)])
def test_a_value_of_another_type_in_the_details_of_a_failure_is_null(name: str, value: Any) -> None:
    record: dict[str, Any] = {"event_type": "failure", "details": {"host": "a", name: value}}
    assert clean(record, row_of(schema.FailureRecord)) == 1
    assert record["details"] == {"host": "a", name: None}


def test_right_values_nulls_and_unknown_fields_stay() -> None:
    record = worker(host=None, exit_code=-9, whatever=[{"deep": 1}]) | {"unknown": {"x": 1}}
    before = orjson.dumps(record | {"worker_id": "3"})
    assert clean(record, row_of(schema.WorkerRecord)) == 0
    assert orjson.dumps(record) == before


def test_in_a_list_of_tables_only_what_is_wrong_goes() -> None:
    events = [{"name": "a", "timestamp": 3}, "no table", {"name": ["b"], "attributes": {}}]
    record: dict[str, Any] = {"event_type": "span", "events": events, "links": {}}
    assert clean(record, row_of(schema.SpanRecord)) == 4
    kept = [{"name": "a", "timestamp": None}, {"name": None, "attributes": {}}]
    assert (record["events"], record["links"]) == (kept, None)


@pytest.mark.parametrize(
    ("value", "kept", "wrong"),
    [
        ([{"code_identifier": "12ab"}, 3], [{"code_identifier": "12ab"}], 1),
        ([{"staged": "a", "submodules": {}}], [{"staged": None, "submodules": None}], 2),
        # As earlier versions wrote it.
        ({}, {}, 0),
        ({"work": {"commit": "12ab"}}, {"work": {"commit": "12ab"}}, 0),
        ("12ab", None, 1),
    ],
)
def test_versions_of_the_code_are_a_list_that_was_a_table(value: Any, kept: Any, wrong: int):
    run = {"code_identities": value}
    assert clean(run, row_of(schema.RunDocument)) == wrong
    assert run == {"code_identities": kept}


def test_a_free_table_keeps_a_bounded_number_of_right_entries() -> None:
    dropped = {str(number): number for number in range(2 * fields.MAX_ENTRIES)}
    document: dict[str, Any] = {"telemetry": {"dropped": {"bad": "x", **dropped}}}
    wrong = clean(document, row_of(schema.RunDocument))
    kept = document["telemetry"]["dropped"]
    assert len(kept) + wrong == len(dropped) + 1
    assert "bad" not in kept
    assert len(kept) <= fields.MAX_ENTRIES


def test_every_journal_of_the_contract_has_its_fields() -> None:
    assert {*schema.JOURNALS, *schema.SIGNALS} <= schema.DECLARATION_OF.keys()


@pytest.mark.parametrize(
    "declaration",
    [
        *schema.DECLARATION_OF.values(),
        schema.RunDocument,
        schema.Owner,
        schema.SummaryDocument,
    ],
)
def test_every_field_has_a_kind_and_a_sentence_that_says_what_it_means(declaration: type) -> None:
    for name, field in nested_fields(declaration).items():
        assert field.meaning.rstrip().endswith((".", "…")), name
        assert field.kind is not None, name
        assert field.unit or not name.endswith(("_s", "_bytes", "_gb")), name


def test_what_follows_from_a_declaration() -> None:
    fields = nested_fields(schema.FailureRecord)
    assert fields["message"].always
    assert not fields["details"].always
    assert fields["details.memory_bytes"].unit == "By"
    assert fields["details.deaths[].exit_code"].type is int
    redacted = {name for name in fields if fields[name].redacted}
    assert {"message", "task_id", "details", "details.traceback", "details.tasks"} <= redacted
    assert redacted.isdisjoint({"timestamp", "span_id", "event_type", "details.pid", "seq"})


def test_the_summary_of_an_empty_run_fits_and_a_damaged_one_does_not() -> None:
    document: dict[str, Any] = orjson.loads(orjson.dumps(RunSummary().document({})))
    assert fits(document, row_of(schema.SummaryDocument))
    for section, name in (("counts", "tasks"), ("resources", "workers"), ("failures", "groups")):
        damaged = document | {section: document[section] | {name: "many"}}
        assert not fits(damaged, row_of(schema.SummaryDocument))
    assert not fits({**document, "timing": None}, row_of(schema.SummaryDocument))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("00000000000000ff", 255),
        ("00000000000000fg", 0),
        ("0x000000000000ff", 0),
        ("-0000000000000ff", 0),
        ("ff", 0),
        ("", 0),
        (None, 0),
        (255, 0),
    ],
)
def test_an_id_is_sixteen_hexadecimal_digits_or_none(value: object, expected: int) -> None:
    assert hex_id(value, 16) == expected


def test_the_reader_gives_right_types_and_shows_how_many_were_wrong(tmp_path: Any) -> None:
    writer = create(tmp_path)
    wrong: list[dict[str, Any]] = [
        {"duration_s": "long"},
        {"duration_s": -1.0},
        {"worker": ["a"]},
        {"dependencies": ["a", None]},
        {"timestamp": "yesterday"},
        {"timestamp": 3},
    ]
    writer.append(schema.TASKS, [task(number) for number in range(1, 4)])
    writer.append(schema.TASKS, [task(4 + n) | change for n, change in enumerate(wrong)])
    writer.append(schema.TASKS, [task(20)])
    writer.close()
    records, reader = read(writer.path)
    assert len(records) == 3 + len(wrong) + 1
    for record, change in zip(records[3:], wrong, strict=False):
        (name,) = change
        assert record[name] is None
    problems = reader.problems[schema.TASKS]
    assert problems.wrong == len(wrong)
    assert problems.sentences() == ["tasks.jsonl: 6 fields of a wrong type left out"]
