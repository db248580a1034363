"""What each run store costs beside the default one, and how fast runs are read from it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import scalable
from benchmarks import clusters
from benchmarks.clusters import ROOT, Cluster, Sample
from benchmarks.reports import timed
from benchmarks.table import Row
from scalable_runs.reader import RunReader, find_runs
from scalable_runs.remote.shipper import Shipper
from scalable_runs.remote.store import RemoteStore
from scalable_runs.schema import TASKS
from scalable_runs.stores.directory import DirectoryObjects
from scalable_runs.stores.run_store import Object, RunStore
from scalable_runs.stores.shared import SharedFileRoot
from scalable_runs.writer import RunWriter

_AT = "2026-01-02T03:04:05.000000Z"


def stores(directory: Path, quick: bool) -> list[Row]:
    """All of it; what needs the S3 server is left out where it is missing."""
    with ExitStack() as stack:
        gateway = _gateway(directory, stack)
        return [
            *_recording(directory / "recording", quick, gateway),
            *_copying(directory / "copying", quick, gateway),
            *_reading(directory / "reading", quick, gateway),
            *_listing(directory / "listing", quick),
        ]


def _gateway(directory: Path, stack: ExitStack) -> Any:
    """An S3 server on loopback, as the tests start it; None where it is not installed."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from servers import install
        from servers.storages import VersityGateway
    finally:
        sys.path.pop(0)
    if install.find("versitygw") is None:
        print("  without S3: versitygw is missing, make servers gets it", file=sys.stderr)
        return None
    (directory / "s3").mkdir(parents=True)
    gateway = VersityGateway(directory / "s3")
    gateway.start()
    stack.callback(gateway.stop)
    return gateway


# What a store costs the program


def _recording(directory: Path, quick: bool, gateway: Any) -> list[Row]:
    tasks, slices, count = clusters.amount(quick, 400, 10_000)
    places: dict[str, Callable[[], Any]] = {
        "file-system": lambda: None,
        "buffered": lambda: "buffered",
        "chunked-fs": lambda: {
            "type": "chunked-fs",
            "config": {"log_folder": str(directory / "shared")},
        },
        "object (a mounted directory)": lambda: DirectoryObjects(
            DirectoryObjects.Config(str(directory / "objects"))
        ),
    }
    if gateway is not None:
        for kind in ("object", "chunked-object"):
            places[f"{kind} (S3)"] = functools.partial(
                _typed, kind, gateway.settings(kind), directory
            )
    with clusters.local_cluster() as cluster:
        clusters.run_map(cluster.client, tasks)
        measure = {
            ("b" if name == "file-system" else name): functools.partial(
                _recorded, cluster, tasks // slices, directory / "local", place
            )
            for name, place in places.items()
        }
        taken = clusters.rounds(count, slices, measure, "stores")
    return [
        Row.of_ratios(
            f"store-{name.split(' ')[0]}{'-s3' if 'S3' in name else ''}-wall",
            f"{tasks:,} no-op tasks, {name}: wall ÷ that with file-system",
            clusters.ratios(taken, name),
            clusters.controls(taken),
            budget=1.01,
        )
        for name in places
        if name != "file-system"
    ]


def _typed(kind: str, settings: dict[str, Any], directory: Path) -> dict[str, Any]:
    return {"type": kind, "config": settings}


def _recorded(cluster: Cluster, tasks: int, runs_dir: Path, place: Callable[[], Any]) -> Sample:
    chosen = place()
    is_shared = isinstance(chosen, dict) and "log_folder" in chosen["config"]
    options: Any = {"run_store": chosen} | ({} if is_shared else {"runs_dir": runs_dir})
    with scalable.instrument(cluster.client, project="bench", **options) as run:
        cluster.settle()
        run.flush()
        before, began = cluster.cpu(), time.perf_counter()
        clusters.run_map(cluster.client, tasks)
        wall = time.perf_counter() - began
        run.flush(60)
        after = cluster.cpu()
    return Sample(wall, {name: after[name] - before[name] for name in after})


# What a copy takes


class _Counted(RunStore):
    """A place that counts requests and bytes."""

    def __init__(self, inner: RunStore) -> None:
        self.inner = inner
        self.location = inner.location
        self.requests: Counter[str] = Counter()
        self.sent = 0

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self.requests["get"] += 1
        return self.inner.get(key, start, length)

    def put(self, key: str, data: bytes) -> None:
        self.requests["put"] += 1
        self.sent += len(data)
        self.inner.put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self.requests["put"] += 1
        self.sent += len(data)
        return self.inner.create(key, data)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        self.requests["list"] += 1
        return self.inner.list(prefix, after)

    def delete(self, key: str) -> None:
        self.requests["delete"] += 1
        self.inner.delete(key)


def _copying(directory: Path, quick: bool, gateway: Any) -> list[Row]:
    tasks = 10_000 if quick else 1_000_000
    run = _synthetic(directory / "runs", tasks)
    place = (
        gateway.store("copying")
        if gateway is not None
        else DirectoryObjects(DirectoryObjects.Config(str(directory / "objects")))
    )
    objects = _Counted(place)
    began = time.perf_counter()
    shipper = Shipper(objects, run)
    shipper.ship()
    chunks = sum(entry.size for entry in objects.list(f"{run.name}/chunks/"))
    puts = objects.requests["put"]
    if not shipper.finish():
        raise RuntimeError("the run was not copied")
    took = time.perf_counter() - began
    stored = sum(entry.size for entry in objects.list(f"{run.name}/"))
    shutil.rmtree(directory)
    what = f"copy of a run of {tasks:,} tasks"
    return [
        Row(
            key="copy-bytes",
            what=f"{what}: size in the place when it is closed",
            measured=stored / 1e6,
            unit="MB",
            budget=100,
            kind="count",
            note=f"{chunks / 1e6:.1f} MB as chunks before it is closed",
        ),
        Row(
            key="copy-puts",
            what=f"{what}: PUTs while it goes on",
            measured=puts,
            budget=40,
            kind="count",
            note=f"{objects.requests['put']} with those of the plain files at its end, "
            f"{took:.1f} s in all",
        ),
    ]


def _synthetic(runs_dir: Path, tasks: int) -> Path:
    command = [sys.executable, "-m", "benchmarks.synthetic", str(runs_dir), "--tasks", str(tasks)]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return Path(answer.stdout.decode().strip())


# How fast it is read


def _reading(directory: Path, quick: bool, gateway: Any) -> list[Row]:
    lines, writers = (20_000, 8) if quick else (1_000_000, 64)
    local = _write(directory / "local", None, lines)
    run_id = local.name
    with ProcessPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        shared = directory / "shared"
        list(pool.map(_write_part, [(shared, n, lines // writers) for n in range(writers)]))
    places: dict[str, Callable[[], Any]] = {
        "local": lambda: local,
        f"chunked-fs, {writers} writers": lambda: shared / run_id,
    }
    if gateway is not None:
        objects = gateway.store("reading")
        shipper = Shipper(objects, local)
        shipper.ship()
        # As of a live run: before the chunks become plain files.
        places["S3 on loopback, chunks"] = lambda: RemoteStore(objects, run_id)
    rows: list[Row] = []
    base = 0.0
    for name, place in places.items():
        began = time.perf_counter()
        found = sum(1 for _ in RunReader(place()).records(TASKS))
        took = time.perf_counter() - began
        base = base or took
        rows += [
            Row(
                key=f"read-{name.split(',')[0].replace(' ', '-')}",
                what=f"reading {lines:,} lines, {name}",
                measured=took,
                unit="s",
                note="" if took == base else f"{took / base:.2f} × the local run",
            ),
            Row(
                key=f"read-{name.split(',')[0].replace(' ', '-')}-lost",
                what=f"reading {lines:,} lines, {name}: lines missing",
                measured=lines - found,
                budget=0,
                kind="count",
            ),
        ]
    return rows


def _write_part(given: tuple[Path, int, int]) -> None:
    runs_dir, number, lines = given
    _write(runs_dir, f"writer-{number:02}", lines)


def _write(runs_dir: Path, writer: str | None, lines: int) -> Path:
    run_id = "run-20260102T030405Z-reading-00000001"
    document: Any = {"schema_version": 1, "run_id": run_id, "started_at": _AT, "status": "running"}
    place: Any = runs_dir if writer is None else SharedFileRoot(str(runs_dir)).new(run_id, writer)
    made = RunWriter.create(place, document, writer=writer)
    for first in range(0, lines, 1_000):
        records = [_task(number) for number in range(first, min(first + 1_000, lines))]
        made.append(TASKS, records)
    made.close(status="completed", finished_at=_AT)
    return runs_dir / run_id


def _task(number: int) -> Any:
    seconds, micro = divmod(number * 40, 1_000_000)
    at = f"2026-01-02T03:{4 + seconds // 60:02}:{seconds % 60:02}.{micro:06d}Z"
    state = {"state": "succeeded", "attempt": 1, "duration_s": 0.01, "nbytes": 28}
    return {"event_type": "task", "timestamp": at, "task_id": f"inc-{number}", **state}


# Lists


def _listing(directory: Path, quick: bool) -> list[Row]:
    count = 200 if quick else 10_000
    _many(directory / "runs", count)
    command = ["-m", "scalable.cli", "runs", "--runs-dir", str(directory / "runs"), "--json"]
    rows: list[Row] = []
    with _cache(directory / "cache"):
        for key, words, budget in (
            ("first", "the first time", None),
            ("again", "again, by its index", 1.0),
        ):
            walls: list[float] = []
            for _ in range(1 if quick else 3):
                if key == "first":
                    shutil.rmtree(directory / "cache", ignore_errors=True)
                wall, _, found = timed(command)
                walls.append(wall)
                if len(json.loads(found)) != count:
                    raise RuntimeError("a run is missing in the list")
            rows.append(
                Row.of_rounds(
                    f"runs-{key}",
                    f"scalable runs of {count:,} runs, {words}",
                    walls,
                    unit="s",
                    budget=budget,
                )
            )
    return rows


@contextmanager
def _cache(path: Path) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def _many(runs_dir: Path, count: int) -> None:
    """As many closed runs, copies of one."""
    first = _synthetic(runs_dir, 100)
    texts = {name: (first / name).read_text() for name in ("run.json", "summary.json")}
    for number in range(1, count):
        run_id = f"run-20260101T{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}Z-"
        run_id += f"copy-{number:08x}"
        path = runs_dir / run_id
        path.mkdir()
        for name, text in texts.items():
            (path / name).write_text(text.replace(first.name, run_id))
    if len(find_runs(first)) != 1:
        raise RuntimeError("the runs were not made")
