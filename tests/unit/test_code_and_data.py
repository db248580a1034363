"""What a report says of code and data follows from the record, and says no more than it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalable.analysis import load_report, render_json, render_text
from scalable_runs.reader import RunReader

RUN_ID = "run-20260102T030405Z-made-00000000"
GIT = {
    "code_identifier": "27a38023210138cbb21345d5e4373ab0b6bdcbdf",
    "code_identifier_type": "git",
    "code_identifier_dependable": False,
    "code_identifier_message": "Files differ from the commit.",
    "branch": "main",
    "staged": ["a.py"],
    "staged_count": 1,
    "unstaged": ["b.py"] * 100,
    "unstaged_count": 2_000,
    "untracked": [],
    "untracked_count": 0,
}


def reader(directory: Path, run: dict[str, Any], **journals: list[dict[str, Any]]) -> RunReader:
    place = directory / RUN_ID
    place.mkdir()
    document = {"schema_version": 1, "run_id": RUN_ID, "status": "completed", **run}
    (place / "run.json").write_text(json.dumps(document))
    for journal, records in journals.items():
        with (place / f"{journal}.jsonl").open("w") as file:
            for seq, record in enumerate(records, 1):
                common = {"schema_version": 1, "run_id": RUN_ID, "seq": seq}
                file.write(json.dumps({**common, **record}) + "\n")
    return RunReader(place)


def section(run: RunReader) -> str:
    text = render_text(load_report(run))
    return text.partition("Code and data")[2].partition("\n\n")[0]


def test_the_commit_and_what_was_changed_since(tmp_path):
    run = reader(tmp_path, {"code_identities": [GIT]})
    (run.path / "code.patch").write_text("diff")
    text = " ".join(section(run).split())
    assert "git 27a380232101 on main, with changes: 1 staged, 2,000 unstaged (code.patch)" in text
    document = render_json(load_report(run))["code_and_data"]
    assert document["code"][0]["dependable"] is False


def test_code_that_is_not_known_says_why(tmp_path):
    row = {"code_identifier_message": "git is not installed.", "code_identifier_type": "git"}
    assert "git is not installed." in section(reader(tmp_path, {"code_identities": [row]}))


def test_functions_in_two_versions_are_named(tmp_path):
    common = {"event_type": "function", "task_name": "load", "function_name": "flow.load"}
    rows = [
        {**common, "identity": "sha256:a", "worker_id": "0"},
        {**common, "identity": "sha256:b", "worker_id": "3", "not_covered": ["exec in load"]},
    ]
    text = section(reader(tmp_path, {}, functions=rows))
    assert "1 function; 1 with parts that are not covered" in text
    assert "worker 3 ran another version of load" in text


def test_files_and_the_run_that_is_repeated(tmp_path):
    rows = [{"event_type": "artifact", "artifact_name": "x", "stage": stage} for stage in "ppg"]
    rows = [{**row, "stage": "get" if row["stage"] == "g" else "put"} for row in rows]
    text = section(reader(tmp_path, {"retry_of": "run-before"}, artifacts=rows))
    assert "Retry of  run-before" in text
    assert "1 read, 2 written" in text


def test_a_record_of_before_says_nothing(tmp_path):
    assert section(reader(tmp_path, {"code_identities": {}})) == ""


def test_hostile_values_harm_nothing(tmp_path):
    row = {"code_identifier": ["x"], "staged": "many", "unstaged_count": "3", "submodules": [1, {}]}
    run = reader(
        tmp_path,
        {"code_identities": [row, 5, None], "retry_of": {}, "environment": "x"},
        functions=[{"event_type": "function", "line": "x", "not_covered": 3}],
    )
    assert "1 function" in section(run)
