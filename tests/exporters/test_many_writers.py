"""Eight programs write one run, one is killed, and readers read it all the while."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from store_world import RUN_ID

from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS

#: As `make chaos` asks for, else short.
ROUNDS = int(os.environ.get("CHAOS_N", "4"))
WRITERS = 8
RECORDS = 10_000 if "CHAOS_N" in os.environ else 3_000

#: Prints how many records were acknowledged, after each sync.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[3])
from store_world import failure, run_document, task
from scalable_runs.stores.places import StoreSpec
from scalable_runs.writer import RunWriter
runs, name, _, count = sys.argv[1:]
place = StoreSpec("chunked-fs", {"log_folder": runs})
writer = RunWriter.create(place, run_document(), writer=name, sync_interval=0.05)
sys.stdin.readline()
done = 0
while done < int(count):
    writer.append("tasks.jsonl", [task(n) for n in range(done + 1, done + 51)])
    done += 50
    if done % 500 == 0:
        writer.append("failures.jsonl", [failure(done)])
        writer.request_sync()
    if done % 250 == 0:
        writer.flush()
        print(done, flush=True)
writer.close(status="completed")
print(done, "closed", flush=True)
"""


class _Writer:
    """A program that writes, and what it has said that it has passed to the kernel."""

    def __init__(self, runs: Path, name: str) -> None:
        self.name = name
        self.acknowledged = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, runs, name, Path(__file__).parent, str(RECORDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.acknowledged = int(line.split()[0])

    def go(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def end(self) -> int:
        code = self.process.wait(120)
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return code


def read_whole(run: Path, seen: Counter[str]) -> Counter[str]:
    """Read a run that is being written; every line must be whole, and nothing may go away."""
    reader = RunReader(run, wait=0)
    found: Counter[str] = Counter()
    for record in reader.records(TASKS):
        writer: Any = record.get("writer")
        found[writer] += 1
        assert record["seq"] == found[writer]
        assert record["task_id"] == f"inc-{found[writer]}"
    assert not [problems for problems in reader.problems.values() if problems.repeated]
    assert not [problems for problems in reader.problems.values() if problems.broken]
    assert all(found[writer] >= number for writer, number in seen.items())
    return found


@pytest.mark.chaos
@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for number in range(ROUNDS):
        runs = tmp_path / str(number)
        _check_a_round(runs, chance.randrange(0, RECORDS), f"seed {seed}, round {number}")


def _check_a_round(runs: Path, kill_at: int, what: str) -> None:
    run = runs / RUN_ID
    writers = [_Writer(runs, f"w{number}") for number in range(WRITERS)]
    victim, *others = writers
    seen: Counter[str] = Counter()
    try:
        for writer in writers:
            writer.go()
        while victim.acknowledged < kill_at and victim.process.poll() is None:
            if run.exists():
                seen = read_whole(run, seen)
        victim.process.send_signal(signal.SIGKILL)
        while any(writer.process.poll() is None for writer in others):
            seen = read_whole(run, seen)
        codes = [writer.end() for writer in writers]
    finally:
        for writer in writers:
            writer.process.kill()
            writer.end()
    assert codes[1:] == [0] * (WRITERS - 1), what
    found = read_whole(run, seen)
    for writer in others:
        assert found[writer.name] == RECORDS, what
    assert victim.acknowledged <= found[victim.name] <= RECORDS, what
    reader = RunReader(run)
    was_closed = codes[0] == 0
    states = {name: state["status"] for name, state in reader.document["writers"].items()}
    state = states.pop(victim.name)
    # It may be killed after its last line, before its process has ended.
    assert state == "lost" or (state == "completed" and found[victim.name] == RECORDS), what
    assert state == "completed" or not was_closed, what
    assert set(states.values()) == {"completed"}, what
    assert reader.status == "completed", what
    assert len(list(reader.records(FAILURES))) >= (WRITERS - 1) * RECORDS // 500, what
    torn = {name for name, problems in reader.problems.items() if problems}
    assert all(name.startswith(f"writers/{victim.name}/") for name in torn), (what, torn)
