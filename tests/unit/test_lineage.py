"""`scalable lineage`: where files and tasks came from, and what they went into, across runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from run_builder import RunBuilder, at, task
from scalable.analysis.lineage import find_subject, read_touches, trace
from scalable.catalog import Catalog
from scalable.cli import cli
from scalable_runs.reader import find_runs
from scalable_runs.schema import Record

FIRST = "run-20260102T030405Z-water-11111111"
SECOND = "run-20260103T030405Z-water-22222222"
COMMIT = "4f1c2d3e5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c0d"


def sha(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def artifact(stage: str, name: str, content: str, offset: float, **fields: Any) -> Record:
    return {
        "event_type": "artifact",
        "timestamp": at(offset),
        "artifact_name": name,
        "stage": stage,
        "digest": sha(content),
        "size_bytes": len(content),
        **fields,
    }


def done(task_id: str, offset: float, dependencies: tuple[str, ...] = ()) -> list[Record]:
    submitted: dict[str, Any] = {}
    if dependencies:
        submitted = {"dependencies": list(dependencies), "dependency_count": len(dependencies)}
    return [
        task("submitted", task_id, offset, **submitted),
        task("running", task_id, offset + 0.1, worker_id="1"),
        task("succeeded", task_id, offset + 0.2, worker_id="1", duration_s=0.1),
    ]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weather → load → clean ×2 → total in one run; total → plot in another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALABLE_CATALOG", raising=False)
    monkeypatch.delenv("SCALABLE_RUNS_DIR", raising=False)
    code = [
        {
            "code_identifier": COMMIT,
            "code_identifier_type": "git",
            "code_identifier_dependable": True,
            "branch": "main",
        }
    ]
    folder = tmp_path / ".scalable" / "runs"
    run = RunBuilder(folder, FIRST, environment={"program": "water.py"}, code_identities=code)
    run.add(artifact("put", "weather", "rain", 0))
    run.add(*done("load-1", 1))
    for number in (1, 2):
        run.add(*done(f"clean-{number}", 2, ("load-1",)))
        run.add(artifact("get", "weather", "rain", 2.1, task_id=f"clean-{number}", put_by=FIRST))
        name = f"clean/{number}"
        run.add(artifact("put", name, name, 2.15, task_id=f"clean-{number}"))
    run.add(*done("total-1", 3))
    for number in (1, 2):
        name = f"clean/{number}"
        run.add(artifact("get", name, name, 3.1, task_id="total-1", put_by=FIRST))
    run.add(artifact("put", "total", "3", 3.15, task_id="total-1"))
    run.add(*done("other-1", 4))
    run.add(artifact("put", "other", "other", 4.1, task_id="other-1"))
    # What the program gets after it put the weather is no source of it.
    run.add(artifact("get", "total", "3", 5, put_by=FIRST))
    run.add(
        {
            "event_type": "function",
            "timestamp": at(),
            "task_name": "clean",
            "function_name": "water.clean",
            "file": "water.py",
            "line": 7,
            "identity": sha("clean"),
        }
    )
    run.finish(6)
    run = RunBuilder(folder, SECOND)
    run.add(*done("plot-1", 86400))
    run.add(artifact("get", "total", "3", 86401, task_id="plot-1", put_by=FIRST))
    run.add(artifact("put", "figure", "figure", 86402, task_id="plot-1"))
    run.finish(86403)
    return folder


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["lineage", *words])


def document(*words: str) -> dict[str, Any]:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def ids(tasks: list[dict[str, Any]]) -> set[str]:
    return {one["task_id"] for one in tasks}


def names(side: dict[str, Any]) -> set[str]:
    return {name for one in side["files"] for name in one["names"]}


def test_a_result_of_one_run_is_followed_to_its_sources_in_another(runs: Path):
    found = document("figure")
    assert [one["task_id"] for one in found["tasks"]] == ["plot-1"]
    assert names(found["upstream"]) == {"total", "clean/1", "clean/2", "weather"}
    assert ids(found["upstream"]["tasks"]) == {"total-1", "clean-1", "clean-2", "load-1", ""}
    assert found["downstream"]["tasks"] == found["downstream"]["files"] == []
    by_id = {one["run_id"]: one for one in found["runs"]}
    assert by_id.keys() == {FIRST, SECOND}
    assert by_id[FIRST]["code"][0]["identifier"] == COMMIT
    assert [one["identity"] for one in by_id[FIRST]["functions"]] == [sha("clean")]
    (clean, _) = (one for one in found["upstream"]["tasks"] if one["task_name"] == "clean")
    assert (clean["state"], clean["attempt"], clean["worker"]) == ("succeeded", 1, "1")
    shown = call("figure").output
    for text in ("plot-1", "git 4f1c2d3e5a6b on main", "water.clean", "water.py:7", "weather"):
        assert text in shown


def test_a_source_is_followed_to_what_it_went_into(runs: Path):
    found = document("weather")
    assert [one["task_id"] for one in found["tasks"]] == [""]
    assert found["upstream"]["tasks"] == []
    assert names(found["downstream"]) == {"clean/1", "clean/2", "total", "figure"}
    assert ids(found["downstream"]["tasks"]) == {"clean-1", "clean-2", "total-1", "plot-1", ""}


def test_a_task_is_found_by_its_id_or_the_name_of_all(runs: Path):
    found = document("clean-2")
    assert (found["what"], ids(found["tasks"])) == ("task", {"clean-2"})
    assert ids(found["upstream"]["tasks"]) == {"load-1", ""}
    assert names(found["downstream"]) == {"clean/2", "total", "figure"}
    found = document("clean")
    assert ids(found["tasks"]) == {"clean-1", "clean-2"}
    assert ids(document("load-1")["downstream"]["tasks"]) >= {"clean-1", "plot-1"}


def test_a_file_on_this_machine_is_found_by_its_content(runs: Path, tmp_path: Path):
    (tmp_path / "renamed.txt").write_text("3")
    found = document("renamed.txt")
    assert found["file"]["digest"] == sha("3")
    assert [one["task_id"] for one in found["tasks"]] == ["total-1"]
    (tmp_path / "total").write_text("4")
    changed = call("total")
    assert changed.exit_code == 1
    for text in (sha("4"), FIRST, f"scalable lineage {sha('3')[:23]}"):
        assert text in changed.output.replace("\n", " ")
    assert document(sha("3")[:23])["file"]["names"] == ["total"]
    assert document(sha("3"))["file"]["names"] == ["total"]


def test_a_name_in_the_catalog_and_a_file_of_a_directory_there(runs: Path, tmp_path: Path):
    Path("maps").mkdir()
    Path("maps/a").write_text("a")
    (entry,) = Catalog().put("maps", name="maps")
    Catalog().put_bytes(b"3", name="mine")
    assert document("mine")["file"]["digest"] == sha("3")
    run = RunBuilder(runs, "run-20260104T030405Z-water-33333333")
    run.add(*done("draw-1", 1))
    run.add(artifact("put", "maps", "", 2, task_id="draw-1") | {"digest": entry.digest})
    run.finish(3)
    assert ids(document("maps")["tasks"]) == ids(document("maps/a")["tasks"]) == {"draw-1"}


def test_the_same_content_under_two_names_has_the_source_of_its_own(runs: Path):
    run = RunBuilder(runs, "run-20260104T030405Z-water-33333333")
    run.add(*done("copy-1", 1))
    run.add(artifact("put", "copy of weather", "rain", 2, task_id="copy-1"))
    run.add(*done("use-1", 3))
    run.add(artifact("get", "copy of weather", "rain", 4, task_id="use-1", put_by=run.path.name))
    run.add(artifact("put", "used", "used", 5, task_id="use-1"))
    run.finish(6)
    assert ids(document("used")["upstream"]["tasks"]) == {"copy-1"}
    assert [one["run_id"] for one in document("weather")["tasks"]] == [FIRST]
    assert [one["task_id"] for one in document("weather", run.path.name)["tasks"]] == ["copy-1"]


def test_what_nobody_knows_is_refused_with_what_is_close(runs: Path, tmp_path: Path):
    result = call("totl")
    assert result.exit_code == 1
    assert "did you mean 'total'" in result.output
    (tmp_path / "unknown").write_text("unknown")
    assert f"no run has put or got unknown ({sha('unknown')})" in call("unknown").output
    assert call("weather", "--runs-dir", str(tmp_path / "none")).exit_code == 1


def test_it_is_bounded_and_says_what_it_left_out(tmp_path: Path):
    run = RunBuilder(tmp_path, FIRST)
    keys = [f"part-{number}" for number in range(50)]
    for key in keys:
        run.add(*done(key, 1))
    run.add(*done("sum-1", 2, tuple(keys)))
    run.add(artifact("put", "sum", "sum", 3, task_id="sum-1"))
    run.finish(4)
    touches = read_touches(find_runs(tmp_path))
    subject = find_subject("sum", touches, touches.readers.values())
    found = trace(subject, touches, limit=20)
    assert len(found.upstream.tasks) == 19
    assert found.upstream.left_out == 31
    assert trace(subject, touches).upstream.left_out == 0
