"""`scalable runs` over many runs, its filters and its index; `scalable clean`."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from run_builder import RunBuilder, at, life
from scalable.analysis import list_runs
from scalable.analysis.overview_index import OverviewIndex
from scalable.cli import cli
from scalable_runs.plain import iso
from scalable_runs.stores.file import FileRoot, FileStore


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of its own."""
    path = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


def scalable(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="scalable", **options)


def run_at(runs_dir: Path, age: timedelta, *, project: str = "flights", **finish: Any) -> Path:
    """A run that began so long ago and took ten seconds."""
    start = (datetime.now(UTC) - age).replace(microsecond=0)
    run_id = f"run-{start:%Y%m%dT%H%M%SZ}-{project}-{int(age.total_seconds()):08x}"
    run = RunBuilder(runs_dir, run_id, project_name=project, started_at=iso(start.timestamp()))
    run.add(*life("inc-1", 0, 1.0))
    path = run.finish(0, **finish)
    document = json.loads((path / "run.json").read_bytes())
    document["finished_at"] = iso(start.timestamp() + 10)
    (path / "run.json").write_text(json.dumps(document))
    return path


def copies(of: Path, number: int) -> None:
    """As many runs that differ in their ids."""
    for n in range(number):
        path = of.with_name(f"run-20260101T{n // 60:02}{n % 60:02}00Z-copy-{n:08x}")
        shutil.copytree(of, path)
        for name in ("run.json", "summary.json"):
            text = (path / name).read_text().replace(of.name, path.name)
            (path / name).write_text(text)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the files that are read from now on."""
    read: list[str] = []
    original = FileStore.read

    def noted(self: FileStore, name: str, *rest: Any) -> Any:
        read.append(f"{self.path.name}/{name}")
        return original(self, name, *rest)

    monkeypatch.setattr(FileStore, "read", noted)
    return read


def test_a_second_listing_opens_only_what_has_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    copies(run_at(runs, timedelta(days=1)), 120)
    root = FileRoot(runs)
    first, number = list_runs(root)
    assert number == len(first) == 121
    assert [run.tasks for run in first] == [1] * 121
    changed, gone = runs / first[3].run_id, runs / first[5].run_id
    document = json.loads((changed / "run.json").read_bytes()) | {"status": "cancelled"}
    (changed / "run.json").write_text(json.dumps(document))
    shutil.rmtree(gone)
    read = reads(monkeypatch)
    second, _ = list_runs(root)
    assert {name.split("/")[0] for name in read} == {changed.name}
    shutil.rmtree(cache)
    assert second == list_runs(root)[0]
    assert [run.status for run in second if run.run_id == changed.name] == ["cancelled"]
    assert gone.name not in [run.run_id for run in second]


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"version": 1}', '{"version": 1, "fields": [], "rows": 3}', "\0" * 100],
)
def test_a_damaged_index_is_made_anew(tmp_path: Path, cache: Path, content: str) -> None:
    runs = tmp_path / "runs"
    copies(run_at(runs, timedelta(days=1)), 110)
    told = list_runs(FileRoot(runs))
    (index,) = (cache / "scalable" / "runs").iterdir()
    whole = index.read_bytes()
    index.write_text(content)
    assert list_runs(FileRoot(runs)) == told
    assert index.read_bytes() == whole
    # Rows that are not rows, and numbers that are texts.
    damaged = json.loads(whole)
    for n, name in enumerate(damaged["rows"]):
        damaged["rows"][name] = [None, [[], []], [damaged["rows"][name][0], ["x"]], "text"][n % 4]
    index.write_text(json.dumps(damaged))
    assert list_runs(FileRoot(runs)) == told


def test_a_run_that_is_recorded_or_was_lost_is_never_taken_from_the_index(tmp_path: Path) -> None:
    live = RunBuilder(tmp_path / "runs", "run-20260102T030405Z-live-00000001")
    live.flush()
    (run,), _ = list_runs(FileRoot(tmp_path / "runs"))
    assert run.status == "running"
    live.finish(3)
    (run,), _ = list_runs(FileRoot(tmp_path / "runs"))
    assert run.status == "completed"


def test_few_runs_leave_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    run_at(tmp_path / "runs", timedelta(days=1))
    list_runs(FileRoot(tmp_path / "runs"))
    assert not cache.exists()
    assert OverviewIndex.open(str(tmp_path / "runs")).get("run-1", (0, 0.0, 0, 0.0)) is None


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Four runs: of today, of last week (failed), of last month (lost) and of another project."""
    runs = tmp_path / "runs"
    run_at(runs, timedelta(hours=1))
    run_at(runs, timedelta(days=7), status="failed")
    run_at(runs, timedelta(days=40), project="other")
    lost = RunBuilder(runs, "run-20260102T030405Z-flights-0000000a")
    lost.add(*life("inc-1", 0, 1.0))
    lost.crash(10)
    return runs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["completed", "failed", "completed", "lost"]),
        (["--status", "lost", "--status", "failed"], ["failed", "lost"]),
        (["--project", "other"], ["completed"]),
        (["--since", "8d"], ["completed", "failed"]),
        (["--since", "2020-01-01", "--limit", "1"], ["completed"]),
        (["--name", "run-20260102"], ["lost"]),
        (["--name", "other"], ["completed"]),
        (["--name", "*-flights-*"], ["completed", "failed", "lost"]),
        (["--name", "flight"], []),
    ],
)
def test_runs_are_listed_by_project_status_time_and_name(
    runs_dir: Path, arguments: list[str], expected: list[str]
) -> None:
    result = scalable("runs", "--runs-dir", str(runs_dir), "--json", *arguments)
    assert result.exit_code == 0, result.output
    assert [run["status"] for run in json.loads(result.stdout)] == expected


def test_a_filter_that_no_run_passes_is_said(runs_dir: Path) -> None:
    result = scalable("runs", "--runs-dir", str(runs_dir), "--project", "nobody")
    assert result.exit_code == 0
    assert "is like that" in result.stderr
    assert "Record one" not in result.output


@pytest.mark.parametrize("time", ["yesterday", "99999999999d", "2026-13-01", ""])
def test_a_time_that_is_none_is_misuse(runs_dir: Path, time: str) -> None:
    result = scalable("runs", "--runs-dir", str(runs_dir), "--since", time)
    assert result.exit_code == 2
    assert "2026-11-28" in result.output


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--older-than", "30d"], ["completed", "failed"]),
        (["--keep", "1"], ["completed"]),
        (["--keep", "1", "--project", "flights"], ["completed", "completed"]),
        (["--status", "lost"], ["completed", "failed", "completed"]),
        (["--status", "lost", "--older-than", "9000d"], None),
        (["--keep", "2", "--older-than", "60d"], ["completed", "failed", "completed"]),
    ],
)
def test_clean_removes_what_all_options_name(
    runs_dir: Path, arguments: list[str], left: list[str] | None
) -> None:
    before = {run.run_id for run in list_runs(FileRoot(runs_dir))[0]}
    dry = scalable("clean", "--runs-dir", str(runs_dir), "--dry-run", "--json", *arguments)
    assert dry.exit_code == 0, dry.output
    assert {run.run_id for run in list_runs(FileRoot(runs_dir))[0]} == before
    result = scalable("clean", "--runs-dir", str(runs_dir), "--yes", "--json", *arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert sorted(told["removed"]) == sorted(json.loads(dry.stdout)["chosen"])
    after, _ = list_runs(FileRoot(runs_dir))
    assert before - {run.run_id for run in after} == set(told["removed"])
    assert [run.status for run in after] == (left or ["completed", "failed", "completed", "lost"])


def test_clean_leaves_live_runs_and_what_is_no_run(runs_dir: Path) -> None:
    live = RunBuilder(runs_dir, "run-20250102T030405Z-live-00000001", started_at=at(-4e7))
    live.flush()
    (runs_dir / "notes").mkdir()
    (runs_dir / "run-20250102T030405Z-empty-00000002").mkdir()
    (runs_dir / "a-file").write_text("mine")
    (runs_dir / "link").symlink_to(runs_dir.parent)
    result = scalable("clean", "--runs-dir", str(runs_dir), "--keep", "0", "--yes")
    assert result.exit_code == 0, result.output
    assert "1 run being recorded: not removed" in result.stderr
    assert "1 run without a run.json" in result.stderr
    assert sorted(path.name for path in runs_dir.iterdir()) == [
        "a-file",
        "link",
        "notes",
        "run-20250102T030405Z-empty-00000002",
        "run-20250102T030405Z-live-00000001",
    ]
    live.finish(1)


def test_clean_asks_and_says_what_to_give(runs_dir: Path) -> None:
    place = ("--runs-dir", str(runs_dir))
    for wrong in (place, (*place, "--keep", "1", "--json"), (*place, "--older-than", "old")):
        assert scalable("clean", *wrong).exit_code == 2
    refused = scalable("clean", *place, "--keep", "0", input="n\n")
    assert refused.exit_code == 1
    assert "Nothing was removed" in refused.output
    silent = scalable("clean", *place, "--keep", "0", input="")
    assert silent.exit_code == 1
    assert "--yes" in silent.output
    assert len(list(runs_dir.iterdir())) == 4
    agreed = scalable("clean", *place, "--keep", "0", input="y\n")
    assert agreed.exit_code == 0
    assert list(runs_dir.iterdir()) == []
    again = scalable("clean", *place, "--keep", "0", "--yes")
    assert again.exit_code == 0
    assert "nothing to remove" in again.stderr


def test_clean_names_what_it_could_not_remove(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: FileStore) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileStore, "delete", refused)
    result = scalable("clean", "--runs-dir", str(runs_dir), "--keep", "3", "--yes")
    assert result.exit_code == 1
    assert "1 run could not be removed" in result.output
    assert "Permission denied" in result.output
