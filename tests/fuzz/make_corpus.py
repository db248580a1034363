"""Makes `corpus`: small runs of real clusters, from which the fuzzer makes broken ones.

Run as ``python tests/fuzz/make_corpus.py``. What tells of the machine is replaced, and a run is cut
to what is different in it, so that each is a few kilobytes.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
#: Records of each journal that are kept.
KEPT = 12


def fails(number: int) -> int:
    logging.getLogger("demo").warning("number %d is odd", number)
    if number % 2:
        raise ValueError(f"number {number} is odd")
    return number


def recovers(flag: str) -> str:
    if not Path(flag).exists():
        Path(flag).touch()
        raise ConnectionError("try again")
    return "done"


def dies(flag: str) -> str:
    if not Path(flag).exists():
        Path(flag).touch()
        print("about to die", file=sys.stderr, flush=True)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def writes(path: str) -> int:
    import scalable

    Path(path).write_text("result")
    scalable.record_artifact(path, kind="result")
    scalable.record_cost(1.25, currency="EUR")
    return cached(3)


def cached(number: int) -> int:
    from scalable import cacheable

    @cacheable
    def square(x: int) -> int:
        return x * x

    return square(number) + square(number)


def span() -> None:
    from opentelemetry import metrics, trace

    with trace.get_tracer("demo").start_as_current_span("inner", attributes={"rows": 3}):
        metrics.get_meter("demo").create_histogram("rows").record(3)
        metrics.get_meter("demo").create_counter("files").add(1)
        time.sleep(0.01)


def program(directory: Path, *, end: str) -> None:
    """One recorded run; `end` says how."""
    from distributed import Client, LocalCluster, wait

    import scalable

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        run = scalable.instrument(client, runs_dir=directory, project=end)
        futures = [
            *client.map(fails, range(4)),
            client.submit(recovers, str(directory / "recovers"), retries=2),
            client.submit(dies, str(directory / "dies")),
            client.submit(writes, str(directory / "output.txt")),
            client.submit(span),
        ]
        if end == "killed":
            futures.append(client.submit(time.sleep, 60))
            wait(futures[:-1])
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)
        wait(futures)
        run.close()


def _small(run: Path, target: Path) -> None:
    replaced = {
        str(run.parent): "/home/ada/runs",
        str(Path(__file__).resolve()): "/home/ada/steps.py",
        str(Path(__file__).resolve().parents[2]): "/home/ada/project",
        sys.prefix: "/home/ada/venv",
        sys.base_prefix: "/usr",
        str(Path(sys.base_prefix).resolve()): "/usr",
        tempfile.gettempdir(): "/tmp",
        socket.gethostname(): "node-1",
        str(Path.home()): "/home/ada",
        getpass.getuser(): "ada",
    }

    def cleaned(text: str) -> str:
        for this, other in sorted(replaced.items(), key=lambda item: -len(item[0])):
            text = text.replace(this, other)
        return text

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    document = json.loads(cleaned((run / "run.json").read_text()))
    document["environment"] = {
        "packages": {"dask": "2026.8.0"},
        **{k: v for k, v in document["environment"].items() if isinstance(v, str)},
    }
    document["recorder"] = {**document["recorder"], "boot_id": "gone"}
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name in ("run.json", ".reserve"):
            continue
        text = cleaned(path.read_text(errors="replace"))
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            if len(lines) > KEPT and path.name in (
                "logs.jsonl",
                "metrics.jsonl",
                "resources.jsonl",
            ):
                lines = lines[:KEPT]
            text = "".join(f"{line}\n" for line in lines)
            data = text.encode()
            last = json.loads(lines[-1])["seq"] if lines and "seq" in lines[-1] else 0
            if path.name in document["journal"]:
                mark = {"bytes": len(data), "seq": last, "crc32": zlib.crc32(data)}
                document["journal"][path.name] = mark
        elif path.name == "owner.json":
            text = json.dumps({**json.loads(text), "boot_id": "gone", "writer": {}})
        elif path.name == "summary.json":
            text = json.dumps({**json.loads(text), "run": document})
        elif path.suffix == ".log":
            text = text[-1_000:]
        place = target / path.relative_to(run)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (target / "run.json").write_text(json.dumps(document))


def _older(target: Path) -> None:
    """A run as an older tool wrote it: no seq, nulls, whole seconds, the key as the worker."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    name = target.name
    common = {"schema_version": 1, "run_id": name, "timestamp": "2025-11-21T16:33:03+00:00"}
    nulls = dict.fromkeys(("duration_s", "error_message", "error_type", "worker"))
    rows: list[dict[str, Any]] = []
    for number in range(3):
        one = {**common, **nulls, "event_type": "task", "task_id": f"{number:032x}"}
        one["task_name"] = f"slow[{number}]"
        rows += [{**one, "state": "submitted"}, {**one, "state": "running"}]
        rows.append({**one, "state": "succeeded", "duration_s": 0.5, "worker": f"slow-{number}"})
    failed = {"state": "failed", "error_type": "ValueError", "error_message": "wrong"}
    rows.append(
        {**common, **nulls, "event_type": "task", "task_id": "f", "task_name": "f", **failed}
    )
    files = {
        "tasks.jsonl": rows,
        "workers.jsonl": [{**common, "event_type": "worker", "state": "cluster_created"}],
        "failures.jsonl": [
            {
                **common,
                "event_type": "failure",
                "failure_class": "ValueError",
                "message": "wrong",
                "task_id": "f",
                "provider": None,
                "details": {"phase": "task"},
            }
        ],
        "resources.jsonl": [
            {
                **common,
                "event_type": "resource",
                "entity_type": "worker",
                "entity_id": 0,
                "requested_memory": "4G",
                "requested_cpus": 1,
                "observed_cpu": None,
            }
        ],
    }
    for file, records in files.items():
        (target / file).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    run = {
        "schema_version": 1,
        "run_id": name,
        "project_name": "older",
        "target_name": "local",
        "provider_name": "local",
        "started_at": "2025-11-21T16:33:00Z",
        "finished_at": "2025-11-21T16:33:09Z",
        "status": "completed",
    }
    (target / "run.json").write_text(json.dumps(run))
    counts = {"task_events": 10, "tasks_succeeded": 3, "tasks_failed": 1}
    (target / "summary.json").write_text(json.dumps({"run": run, "counts": counts, "timing": {}}))


def main() -> None:
    """Make every run of the corpus anew."""
    for end in ("completed", "killed"):
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([sys.executable, __file__, end, directory], check=False)
            (run,) = Path(directory).glob("run-*")
            if end == "completed":
                log = next(str(path.relative_to(run)) for path in (run / "logs").rglob("*.log"))
                sent = {
                    "schema_version": 1,
                    "event_type": "upload",
                    "run_id": run.name,
                    "timestamp": "2026-01-02T03:04:05.000000Z",
                    "outcome": "uploaded",
                    "log": log,
                    "sha256": "0" * 64,
                }
                (run / "uploads.jsonl").write_text(json.dumps(sent) + "\n")
            _small(run, CORPUS / end)
    _older(CORPUS / "older")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        program(Path(sys.argv[2]), end=sys.argv[1])
    else:
        main()
