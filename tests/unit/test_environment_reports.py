"""Workers that ran with something else are named where people look, and two runs are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scalable.analysis import load_report, render_json, render_text
from scalable.analysis.compare import compare
from scalable.analysis.diagnose import diagnose
from scalable_runs.reader import RunReader

PACKAGES = {"numpy": "2.3.0", "dask": "2026.8.0", "yaml": "6.0"}


def program(**fields: Any) -> dict[str, Any]:
    return {"process": "program", "packages": PACKAGES, "python": "3.11.1", **fields}


def worker(
    name: str, imported: tuple[str, ...] = (), **differs: list[str | None]
) -> dict[str, Any]:
    line: dict[str, Any] = {"process": "worker", "worker": f"tcp://10.0.0.1:4000{name}"}
    line |= {"worker_id": name, "digest": f"sha256:{name}"}
    if differs:
        line["differs"] = differs
    if imported:
        line["imported"] = list(imported)
    return line


def reader(place: Path, *lines: dict[str, Any], **environment: Any) -> RunReader:
    place.mkdir()
    run_id = place.name
    environment = {"packages": {"dask": "2026.8.0"}, "python": "3.11.1", **environment}
    document = {"schema_version": 1, "run_id": run_id, "status": "completed"}
    (place / "run.json").write_text(json.dumps({**document, "environment": environment}))
    with (place / "environments.jsonl").open("w") as file:
        for seq, line in enumerate(lines, 1):
            common = {"schema_version": 1, "run_id": run_id, "seq": seq}
            file.write(json.dumps({**common, "event_type": "environment", **line}) + "\n")
    return RunReader(place)


def report_of(run: RunReader) -> str:
    return " ".join(render_text(load_report(run)).split())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([worker("3", ("numpy",), numpy=["2.1.0", "2.3.0"]), worker("4")],
         "worker 3 has numpy 2.1.0, the program 2.3.0"),
        ([worker("3", python=["3.12.4", "3.11.1"]), worker("4")],
         "worker 3 has Python 3.12.4, the program 3.11.1"),
        ([worker(str(n), dask=["2025.5.0", "2026.8.0"]) for n in range(2)],
         "all 2 workers have Dask 2025.5.0, the program 2026.8.0"),
        ([*(worker(str(n), dask=["1", "2"]) for n in range(5)), worker("9")],
         "workers 0, 1, 2 and 2 more have Dask 1, the program 2"),
        ([worker("3", ("numpy",), numpy=["2.1.0", None]), worker("4")],
         "worker 3 has numpy 2.1.0, the program none"),
        ([{"process": "scheduler", "differs": {"distributed": [None, "2026.8.0"]}}],
         "the scheduler has no distributed, the program 2026.8.0"),
        ([worker("3", yaml=["5", "6"]), worker("3", ("yaml",), yaml=["5", "6"]), worker("4")],
         "worker 3 has yaml 5, the program 6"),
    ],
)  # fmt: skip
def test_a_process_that_differs_is_named(tmp_path, lines, sentence):
    run = reader(tmp_path / "run-a", program(), *lines)
    assert sentence in report_of(run)
    (finding,) = diagnose(run).findings
    assert finding.category == "environment"
    assert finding.severity == "warning"
    assert finding.title == sentence[0].upper() + sentence[1:]


def test_what_nothing_imported_is_counted_and_is_no_finding(tmp_path):
    run = reader(
        tmp_path / "run-a", program(), worker("3", numpy=["2.1.0", "2.3.0"], yaml=["5", "6.0"])
    )
    text = report_of(run)
    assert "2 packages that nothing was seen to import differ from the program's" in text
    assert "worker 3" not in text
    assert diagnose(run).findings == ()
    rows = render_json(load_report(run))["code_and_data"]["differences"]
    assert [row["package"] for row in rows] == ["numpy", "yaml"]
    assert rows[0]["version"] == "2.1.0"
    assert rows[0]["workers"] == {"tcp://10.0.0.1:40003": "3"}


def test_a_run_without_differences_or_without_the_file_says_nothing(tmp_path):
    for run in (
        reader(tmp_path / "run-a", program(), worker("3"), worker("4", ("numpy",))),
        reader(tmp_path / "run-b"),
        reader(tmp_path / "run-c", {"process": "worker", "differs": {"x": "y", "z": [1]}}),
    ):
        assert "Code and data" not in report_of(run)
        assert diagnose(run).findings == ()


def test_two_runs_are_compared_by_all_their_packages_and_settings(tmp_path):
    config = {"distributed": {"scheduler": {"allowed-failures": 3}}}
    variables = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    one = reader(tmp_path / "run-a", program(dask_config=config, variables=variables), digest="a")
    config = {"distributed": {"scheduler": {"allowed-failures": 9}}}
    variables = {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "8"}
    packages = {**PACKAGES, "numpy": "2.4.0", "more": "1"}
    fields = {"dask_config": config, "variables": variables, "packages": packages}
    other = reader(tmp_path / "run-b", program(**fields), digest="b")
    rows = {(it.subject, it.name): (it.before, it.after) for it in compare(one, other).differences}
    assert rows == {
        ("package", "more"): (None, "1"),
        ("package", "numpy"): ("2.3.0", "2.4.0"),
        ("environment", "dask.distributed.scheduler.allowed-failures"): (3, 9),
        ("environment", "variable OMP_NUM_THREADS"): ("1", "8"),
    }


def test_a_run_without_its_packages_is_compared_by_those_it_has(tmp_path):
    one, other = reader(tmp_path / "run-a", program()), reader(tmp_path / "run-b")
    compared = compare(one, other)
    assert compared.differences == ()
    assert "Only the first run has all packages in its record." in compared.unknown
