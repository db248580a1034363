"""What really happened, as the tests know it without the package, held against the record."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from cluster.tasks import wait_until
from scalable_runs.schema import FINAL_STATES

FINAL = {"succeeded", "failed", "cancelled"}
FILES = {
    "manifest.yaml",
    "plan.json",
    "manifest.lock",
    "run.json",
    "tasks.jsonl",
    "resources.jsonl",
    "workers.jsonl",
    "failures.jsonl",
    "cache.jsonl",
    "artifacts.jsonl",
    "cost.jsonl",
    "summary.json",
}


class TransitionLog(SchedulerPlugin):
    """Every transition of the scheduler, with what Dask itself measured."""

    name = "oracle"

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.workers: list[tuple[str, str]] = []
        self.known_at_start: set[str] = set()

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def transition(self, key, start, finish, *args, stimulus_id="", **kwargs):
        ts = self.scheduler.tasks[key]
        compute = [s for s in kwargs.get("startstops") or () if s["action"] == "compute"]
        self.rows.append(
            {
                "key": str(key),
                "start": start,
                "finish": finish,
                "run_id": ts.run_id,
                "worker": kwargs.get("worker"),
                "duration": compute[-1]["stop"] - compute[-1]["start"] if compute else None,
                "begin": compute[-1]["start"] if compute else None,
                "stimulus": stimulus_id,
                "error": kwargs.get("exception_text"),
            }
        )


def read(run_dir: Path, file: str) -> list[dict[str, Any]]:
    """The records of a journal, also while the recorder writes it; of all its files."""
    first = Path(run_dir) / file
    more = sorted(
        first.parent.glob(f"{first.stem}.[0-9]*.jsonl"), key=lambda path: int(path.suffixes[0][1:])
    )
    return [record for path in (first, *more) for record in _read(path)]


def _read(path: Path) -> list[dict[str, Any]]:
    def whole() -> bool:
        # What one call writes, another process may see in parts.
        nonlocal content
        content = path.read_bytes()
        return not content or content.endswith(b"\n")

    content = b""
    wait_until(whole, 5)
    return [json.loads(line) for line in content.decode().split("\n")[:-1]]


def notes(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in Path(directory).glob("*.json")]


def lives(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Lines of tasks.jsonl by task, in file order."""
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in read(run_dir, "tasks.jsonl"):
        tasks[record["task_id"]].append(record)
    return dict(tasks)


def states(run_dir: Path, key: str) -> list[str]:
    return [record["state"] for record in lives(run_dir)[key]]


def wait_closed(run_dir: Path) -> None:
    """On a busy machine a run may still be written when its `close` has returned."""
    document = Path(run_dir) / "run.json"
    wait_until(lambda: json.loads(document.read_text())["status"] != "running", 60)


def check_contract(run_dir: Path) -> None:
    """The run directory keeps the contract, whatever happened."""
    run_dir = Path(run_dir)
    wait_closed(run_dir)
    assert {path.name for path in run_dir.iterdir()} >= FILES
    run = json.loads((run_dir / "run.json").read_text())
    assert run["run_id"] == run_dir.name
    assert run["status"] in {"completed", "failed", "cancelled"}
    assert run["telemetry"]["errors"] == {}, run["telemetry"]
    assert run["telemetry"]["dropped"] == {}, run["telemetry"]
    for path in run_dir.glob("*.jsonl"):
        if len(path.suffixes) > 1:
            continue  # a later file of a journal
        for number, record in enumerate(read(run_dir, path.name), 1):
            assert record["seq"] == number
            assert record["schema_version"] == 1
            assert record["run_id"] == run["run_id"]
            assert record["timestamp"].endswith("Z")
            assert len(record["timestamp"]) == 27
            assert None not in record.values()
    check_lives(run_dir)
    check_summary(run_dir)


def check_lives(run_dir: Path, *, unknown: int = 0) -> None:
    """Each task's lines tell a life that can be lived, and all but `unknown` have an end."""
    without_end = 0
    for key, lines in lives(run_dir).items():
        assert lines[0]["state"] == "submitted", (key, lines)
        attempt, running, final = 0, False, None
        for line in lines:
            state = line["state"]
            if state == "submitted":
                assert final is not None or line is lines[0], (key, lines)
                attempt, running, final = 0, False, None
                continue
            if final is not None:
                assert line.get("reopens") == final, (key, lines)
                final = None
            if state == "running":
                assert not running, (key, lines)
                attempt += 1
                running = True
            elif state in ("retried", "lost"):
                assert running, (key, lines)
                running = False
            else:
                running, final = False, state
            assert line["attempt"] == attempt, (key, lines)
            if state == "succeeded" and "span_id" not in line:
                # Its result was lost, and nobody waited until it was made again.
                assert any("duration_s" in earlier for earlier in lines), (key, lines)
            elif state == "succeeded":
                assert math.isfinite(line["duration_s"])
                # When a task became runnable is not known of one that was there before the run.
                assert line["queue_s"] >= 0 if "known_before" not in lines[0] else True
        without_end += final is None
    assert without_end == unknown


def check_summary(run_dir: Path) -> None:
    """The numbers of summary.json are those of the lines."""
    counts = json.loads((Path(run_dir) / "summary.json").read_text())["counts"]
    records = read(run_dir, "tasks.jsonl")
    by_state = Counter(record["state"] for record in records)
    reopened = Counter(record["reopens"] for record in records if "reopens" in record)
    assert counts["tasks_submitted"] == by_state["submitted"]
    assert counts["tasks_succeeded"] == by_state["succeeded"] - reopened["succeeded"]
    assert counts["tasks_failed"] == by_state["failed"] - reopened["failed"]
    assert counts["tasks_cancelled"] == by_state["cancelled"] - reopened["cancelled"]
    assert counts["tasks_unknown"] == sum(
        lines[-1]["state"] not in FINAL_STATES for lines in lives(run_dir).values()
    )
    assert counts["tasks_retried"] == by_state["retried"]
    assert counts["tasks_rescheduled"] == sum(record.get("rescheduled", 0) for record in records)
    assert counts["attempts"] == by_state["running"]
    assert counts["task_events"] == len(records)
    workers = Counter(record["state"] for record in read(run_dir, "workers.jsonl"))
    assert counts["workers_lost"] == workers["lost"]


def check_attempts(
    run_dir: Path,
    directory: Path,
    keys: Iterable[str] | None = None,
    *,
    cut_short: bool = False,
    until: float = math.inf,
) -> None:
    """As many `running` lines as tasks noted a start on disk, on the same workers' processes.

    Where workers are killed from outside (`cut_short`), an attempt may die after it began and
    before its note was on disk: then there may be one more line for each attempt that was lost.
    And what began around the run's end (after `until`) may be in the record or not, as may what
    began on a worker that the scheduler had just removed, if it died before it could report that.

    The system may give a worker the port of one that has ended: the process of a line is the last
    one that had registered at its address when the attempt began.
    """
    removed = {
        record["details"]["pid"]: datetime.fromisoformat(record["timestamp"]).timestamp()
        for record in read(run_dir, "workers.jsonl")
        if record["state"] == "removed"
    }
    registered: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for record in read(run_dir, "workers.jsonl"):
        if record["state"] == "ready":
            process = record["timestamp"], record["details"]["pid"]
            registered[record["worker"]].append(process)
    noted: dict[str, Counter[int]] = defaultdict(Counter)
    late: dict[str, Counter[int]] = defaultdict(Counter)
    for entry in notes(directory):
        if entry["what"] == "start":
            noted[entry["key"]][entry["pid"]] += 1
            latest = min(until, removed.get(entry["pid"], math.inf))
            late[entry["key"]][entry["pid"]] += entry["time"] > latest
    wanted = set(noted) if keys is None else set(keys)
    recorded: dict[str, Counter[int]] = defaultdict(Counter)
    for record in read(run_dir, "tasks.jsonl"):
        if record["state"] == "running":
            processes = sorted(registered[record["worker"]])
            earlier = [pid for ready, pid in processes if ready <= record["timestamp"]]
            recorded[record["task_id"]][(earlier or [processes[0][1]])[-1]] += 1
    if not cut_short:
        assert {key: recorded[key] for key in wanted} == {key: noted[key] for key in wanted}
        return
    for key, lines in lives(run_dir).items():
        ended_badly = sum(
            line["state"] in ("lost", "cancelled") or line.get("error_type") == "KilledWorker"
            for line in lines
        )
        assert not noted[key] - late[key] - recorded[key], (key, lines, noted[key])
        assert (recorded[key] - noted[key]).total() <= ended_badly, (key, lines, noted[key])


def check_transitions(
    run_dir: Path, log: TransitionLog, keys: Iterable[str], *, until: float = math.inf
) -> None:
    """Results, durations and starts are Dask's own; what began after `until` may be left out."""
    wanted = set(keys)
    dask: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for row in log.rows:
        if row["key"] not in wanted or row["start"] != "processing":
            continue
        if row["finish"] == "memory":
            dask[row["key"]].append(("succeeded", row["duration"], row["begin"]))
        elif row["finish"] == "erred" and row["error"] is not None:
            dask[row["key"]].append(("failed", row["duration"], row["begin"]))
    ours: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key, lines in lives(run_dir).items():
        for line in lines:
            measured = line["state"] in ("succeeded", "failed") and "duration_s" in line
            if key in wanted and measured:
                ours[key].append(line)
    for key, rows in dask.items():
        while len(rows) > len(ours[key]) and rows[-1][2] > until:
            rows.pop()
    assert {key: [row[0] for row in rows] for key, rows in dask.items()} == {
        key: [line["state"] for line in lines] for key, lines in ours.items()
    }
    for key, rows in dask.items():
        for (_, duration, _), line in zip(rows, ours[key], strict=True):
            assert abs(line["duration_s"] - duration) < 1e-3
