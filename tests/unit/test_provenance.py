"""RO-Crate, PROV and OpenLineage say what the journals say, however many tasks there were."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from scalable.cli import cli
from scalable.provenance.gathered import OTHERS, gather
from scalable.provenance.ro_crate import MAX_ENTITIES, People, crate_of
from scalable_runs.reader import RunReader

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
WORK = RUNS / "run-20261127T171719Z-work-8577fde1"
KILLED = RUNS / "run-20261127T171721Z-killed-b8590641"
SESSION = RUNS / "run-20261127T171726Z-session-ddb343fc"


def export(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["export", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def lines_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "tasks.jsonl").read_text().splitlines()]


def write_run(directory: Path, lines: list[dict]) -> Path:
    run = directory / "run-20260102T030405Z-made-00000000"
    run.mkdir()
    document = json.loads((SESSION / "run.json").read_text())
    document |= {"run_id": run.name, "journal": {}}
    (run / "run.json").write_text(json.dumps(document))
    common = {"schema_version": 1, "run_id": run.name, "event_type": "task"}
    with (run / "tasks.jsonl").open("w") as file:
        for seq, line in enumerate(lines, 1):
            file.write(json.dumps({**common, "seq": seq, **line}) + "\n")
    return run


def life(task: str, name: str, state: str = "succeeded") -> list[dict]:
    common = {"task_id": task, "task_name": name, "timestamp": "2026-01-02T03:04:05.000001Z"}
    ended = {"duration_s": 0.5} if state == "succeeded" else {"error_type": "ValueError"}
    return [
        {**common, "state": "submitted", "attempt": 0},
        {**common, "state": "running", "attempt": 1},
        {**common, "state": state, "attempt": 1, **ended},
    ]


@pytest.mark.parametrize("run", [WORK, KILLED, SESSION])
def test_groups_count_each_task_once_in_its_last_state(run):
    last: dict[str, dict] = {}
    for line in lines_of(run):
        last[line["task_id"]] = line
    final = ("succeeded", "failed", "cancelled")
    states = Counter(
        (line["task_name"], line["state"] if line["state"] in final else "unknown")
        for line in last.values()
    )
    found = gather(RunReader(run), most_failed=10)
    assert {(group.name, group.state): group.count for group in found.groups} == states


def test_every_failed_attempt_is_counted_and_the_first_are_kept():
    found = gather(RunReader(WORK), most_failed=1)
    failed = [
        line
        for line in lines_of(WORK)
        if line["state"] in ("failed", "retried") and "blame" not in line
    ]
    assert found.failed_count == len(failed) > 1
    assert [one.task_id for one in found.failed] == [failed[0]["task_id"]]


def test_names_beyond_the_limit_are_counted_together(tmp_path):
    lines = [line for at in range(600) for line in life(f"t-{at}", f"name-{at}")]
    found = gather(RunReader(write_run(tmp_path, lines)), most_failed=0)
    assert len(found.names) == 501
    assert sum(group.count for group in found.groups) == 600
    assert next(group.count for group in found.groups if group.name == OTHERS) == 100


@pytest.mark.parametrize("profile", ["process", "provenance"])
def test_a_crate_has_at_most_so_many_entities(tmp_path, profile):
    lines = [line for at in range(9_000) for line in life(f"t-{at}", f"n-{at % 400}", "failed")]
    found = gather(RunReader(write_run(tmp_path, lines)), most_failed=9_000)
    crate = crate_of(found, People(), {"run.json": 2}, profile)
    entities = crate["@graph"]
    assert len(entities) <= MAX_ENTITIES
    assert len({entity["@id"] for entity in entities}) == len(entities)
    root = next(entity for entity in entities if entity["@id"] == "./")
    described = sum(entity["@id"].startswith("#failed-") for entity in entities)
    assert described > 1_000
    assert f"{9_000 - described:,} more failed attempts" in root["description"]


def test_a_crate_has_the_journals_as_they_are_and_a_card(tmp_path):
    export(str(WORK), "--ro-crate", str(tmp_path / "crate"), "--author", "A. Researcher")
    crate = tmp_path / "crate"
    for path in filter(Path.is_file, WORK.iterdir()):
        assert (crate / path.name).read_bytes() == path.read_bytes()
    assert (crate / "README.md").read_text().startswith("# work: completed")
    metadata = json.loads((crate / "ro-crate-metadata.json").read_text())
    by_id = {entity["@id"]: entity for entity in metadata["@graph"]}
    assert by_id["#author"]["name"] == "A. Researcher"
    assert by_id["./"]["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    actions = [entity for entity in by_id.values() if entity["@type"] == "CreateAction"]
    told = {entity["name"]: entity for entity in actions}
    assert told["bad (failed)"]["error"] == "2 tasks: failed."
    assert told["inc (succeeded)"]["description"].startswith("12 tasks of inc: succeeded.")
    for entity in by_id.values():
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict) and one["@id"].startswith("#"):
                    assert one["@id"] in by_id


def test_a_manifest_with_tasks_makes_a_provenance_run_crate(tmp_path):
    document = json.loads(export(str(SESSION), "--ro-crate", str(tmp_path / "crate"), "--json"))
    assert document["profile"] == "provenance"
    metadata = json.loads((tmp_path / "crate/ro-crate-metadata.json").read_text())
    kinds = Counter(str(entity["@type"]) for entity in metadata["@graph"])
    assert kinds["HowToStep"] == 2
    assert kinds["ControlAction"] == 2
    assert kinds["OrganizeAction"] == 1


def test_a_crate_is_not_made_over_other_files(tmp_path):
    (tmp_path / "there").write_text("mine")
    assert "not an empty directory" in export(str(WORK), "--ro-crate", str(tmp_path), code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_options_that_do_not_belong_together_are_refused(tmp_path):
    wrong = export("--prov", "a", "--ro-crate", str(tmp_path), code=2)
    assert "--ro-crate and --prov exclude each other" in wrong
    assert "--author belongs to --ro-crate" in export("--author", "me", code=2)


@pytest.mark.parametrize("run", [WORK, KILLED, SESSION])
def test_prov_is_read_by_the_library_of_others(run, tmp_path):
    model = pytest.importorskip("prov.model")
    file = tmp_path / "run.prov.json"
    export(str(run), "--prov", str(file))
    document = json.loads(file.read_text())
    read = model.ProvDocument.deserialize(content=file.read_text(), format="json")
    rows = [row for name, part in document.items() if name != "prefix" for row in part]
    assert len(list(read.get_records())) == len(rows)
    activities = document["activity"]
    counts = {
        row["prov:label"]: row["scalable:tasks"]
        for row in activities.values()
        if "scalable:tasks" in row
    }
    found = gather(RunReader(run), most_failed=0)
    assert counts == {f"{group.name} ({group.state})": group.count for group in found.groups}
    for relation in ("used", "wasGeneratedBy", "wasInformedBy", "wasAssociatedWith"):
        for row in document.get(relation, {}).values():
            for end, name in row.items():
                part = {"prov:entity": "entity", "prov:agent": "agent", "prov:plan": "entity"}
                assert name in document[part.get(end, "activity")]


def test_prov_relates_what_a_task_wrote_to_it(tmp_path):
    export(str(SESSION), "--prov", str(tmp_path / "p"))
    document = json.loads((tmp_path / "p").read_text())
    (made,) = document["wasGeneratedBy"].values()
    assert document["activity"][made["prov:activity"]]["prov:label"] == "write (succeeded)"
    assert document["entity"][made["prov:entity"]]["prov:label"] == "total"


def test_openlineage_has_a_start_and_an_end_for_the_run_and_each_name(tmp_path):
    file = tmp_path / "events.jsonl"
    export(str(WORK), "--openlineage", str(file), "--namespace", "lab")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    names = {line["task_name"] for line in lines_of(WORK)}
    kinds: dict[str, list[str]] = {}
    for event in events:
        kinds.setdefault(event["job"]["name"], []).append(event["eventType"])
        assert event["job"]["namespace"] == "lab"
    ends = {"work.bad": "FAIL", "work.total": "FAIL"}
    assert kinds == {
        "work": ["START", "COMPLETE"],
        **{f"work.{name}": ["START", ends.get(f"work.{name}", "COMPLETE")] for name in names},
    }
    run_id = events[0]["run"]["runId"]
    for event in events[1:-1]:
        assert event["run"]["facets"]["parent"]["run"]["runId"] == run_id
    # The same run again has the same ids: a server takes it as what it has.
    export(str(WORK), "--openlineage", str(file), "--namespace", "lab")
    again = [json.loads(line) for line in file.read_text().splitlines()][len(events) :]
    assert [event["run"]["runId"] for event in again] == [event["run"]["runId"] for event in events]


def test_openlineage_without_a_place_says_how_to_name_one(monkeypatch):
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    assert "OPENLINEAGE_URL" in export(str(WORK), "--openlineage", code=1)


def test_a_missing_client_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openlineage.client.event_v2", None)
    told = export(str(WORK), "--openlineage", str(tmp_path / "e"), code=1)
    assert "scalable-otel[openlineage]" in told


def test_events_go_to_a_server_that_speaks_http(monkeypatch):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    bodies: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_): ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        export(str(SESSION), "--openlineage", f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [body["eventType"] for body in bodies] == [
        "START",
        *("START", "COMPLETE") * 2,
        "COMPLETE",
    ]
