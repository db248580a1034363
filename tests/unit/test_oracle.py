"""The oracle of the cluster tests tells workers apart that had one address after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import oracle

ADDRESS = "tcp://127.0.0.1:40001"


def time_of(second: int) -> str:
    return f"2026-01-01T00:00:{second:02}.000000Z"


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.mark.parametrize("pids", [(1, 2), (2, 1), (1, 1)])
def test_an_attempt_belongs_to_the_worker_that_had_its_address_by_then(tmp_path, pids):
    write(
        tmp_path / "workers.jsonl",
        [
            {"worker": ADDRESS, "state": "ready", "timestamp": time_of(at), "details": {"pid": pid}}
            for at, pid in ((1, 1), (10, 2))
        ],
    )
    write(
        tmp_path / "tasks.jsonl",
        [
            {"task_id": key, "state": "running", "timestamp": time_of(at), "worker": ADDRESS}
            for key, at in (("x", 5), ("y", 15))
        ],
    )
    for key, pid in zip("xy", pids, strict=True):
        noted = {"key": key, "what": "start", "pid": pid, "time": 0.0}
        (tmp_path / f"{key}.json").write_text(json.dumps(noted))
    if pids == (1, 2):
        oracle.check_attempts(tmp_path, tmp_path)
    else:
        with pytest.raises(AssertionError):
            oracle.check_attempts(tmp_path, tmp_path)
