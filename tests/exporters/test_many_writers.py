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
ROUNDS = int(os.environ.get("CHAOS_N", "2"))
WRITERS = 8
RECORDS = 10_000 if "CHAOS_N" in os.environ else 3_000

#: Prints how many records were acknowledged; the last argument says when it ends. `work` closes
#: when it has written all, `wait` when it is told to, `die` writes until it is killed.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[3])
from store_world import failure, run_document, task
from scalable_runs.stores.places import StoreSpec
from scalable_runs.writer import RunWriter
runs, name, _, count, end = sys.argv[1:]
place = StoreSpec("chunked-fs", {"log_folder": runs})
writer = RunWriter.create(place, run_document(), writer=name, sync_interval=0.05)
sys.stdin.readline()
done = 0
while end == "die" or done < int(count):
    writer.append("tasks.jsonl", [task(n) for n in range(done + 1, done + 51)])
    done += 50
    if done % 500 == 0:
        writer.append("failures.jsonl", [failure(done)])
        writer.request_sync()
    if done % 250 == 0:
        writer.flush()
        print(done, flush=True)
if end == "wait":
    sys.stdin.readline()
writer.close(status="completed")
"""


class _Writer:
    """A program that writes, and what it has said that it has passed to the kernel.

    A thread of its own listens to the program, and kills it as soon as it has acknowledged
    `kill_at` records: the program writes on at that moment.
    """

    def __init__(self, runs: Path, name: str, end: str, kill_at: int | None = None) -> None:
        self.name = name
        self.acknowledged = 0
        self._kill_at = kill_at
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, runs, name, here, str(RECORDS), end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.acknowledged = int(line)
            if self._kill_at is not None and self.acknowledged >= self._kill_at:
                self.process.send_signal(signal.SIGKILL)

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
    # One is certainly there when the victim is dead: it closes the run.
    last, *others = (_Writer(runs, f"w{n}", "work" if n else "wait") for n in range(WRITERS - 1))
    victim = _Writer(runs, "victim", "die", kill_at)
    writers = [victim, last, *others]
    seen: Counter[str] = Counter()
    try:
        for writer in writers:
            writer.go()
        while any(writer.process.poll() is None for writer in (victim, *others)):
            if run.exists():
                seen = read_whole(run, seen)
        last.go()
        codes = [writer.end() for writer in writers]
    finally:
        for writer in writers:
            writer.process.kill()
            writer.end()
    assert codes == [-signal.SIGKILL] + [0] * (WRITERS - 1), what
    found = read_whole(run, seen)
    for writer in (last, *others):
        assert found[writer.name] == RECORDS, what
    assert found[victim.name] >= victim.acknowledged >= kill_at, what
    reader = RunReader(run)
    states = {name: state["status"] for name, state in reader.document["writers"].items()}
    assert states.pop(victim.name) == "lost", what
    assert len(states) == WRITERS - 1, what
    assert set(states.values()) == {"completed"}, what
    assert reader.status == "completed", what
    assert len(list(reader.records(FAILURES))) >= (WRITERS - 1) * RECORDS // 500, what
    torn = {name for name, problems in reader.problems.items() if problems}
    assert all(name.startswith(f"writers/{victim.name}/") for name in torn), (what, torn)
