"""Programs that write one run, one of which is killed, while readers read it.

Used by the tests of each place in which a run may have several writers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporters.store_world import RUN_ID
from scalable_runs.reader import RunReader
from scalable_runs.remote.cache import ReadCache
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.remote.syncing import sync_run
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores.base import Store
from scalable_runs.stores.places import StoreSpec, spec_of
from scalable_runs.stores.shared import SharedFileStore

#: As `make chaos` asks for, else short.
ROUNDS = int(os.environ.get("CHAOS_N", "1"))
TIMEOUT = 60 + 60 * ROUNDS
WRITERS = 8
RECORDS = 10_000 if "CHAOS_N" in os.environ else 3_000

#: Says how many of its records were acknowledged: they are in the files of a directory, or in the
#: place that they are copied to. `end` says when the program ends: `work`, when it has written all;
#: `wait`, when it is told to; `die`, when it is killed.
_PROGRAM = """
import json, sys
from exporters.store_world import failure, run_document, task
from scalable_runs.remote.background import start_shipping
from scalable_runs.stores.places import spec_of
from scalable_runs.writer import RunWriter
settings = json.loads(sys.stdin.readline())
name, count, end = (settings[key] for key in ("name", "count", "end"))
place = spec_of(settings["place"])
writer = RunWriter.create(place, run_document(), writer=name, sync_interval=0.05)
shipping = None
if place.is_elsewhere:
    shipping = start_shipping(
        place.location, place.opened, writer.store, run_id=writer.run_id, writer=name, warn=print
    )
sys.stdin.readline()
done = 0
while end == "die" or done < count:
    writer.append("tasks.jsonl", [task(n) for n in range(done + 1, done + 51)])
    done += 50
    if done % 500 == 0:
        writer.append("failures.jsonl", [failure(done)])
        writer.request_sync()
    if done % 250 == 0:
        writer.flush()
        if shipping is None or shipping.flush(60):
            print(done, flush=True)
if end == "wait":
    sys.stdin.readline()
writer.close(status="completed")
if shipping is not None and not shipping.finish(60):
    sys.exit("not all was copied")
"""


class Writer:
    """A program that writes, and how many of its records were acknowledged.

    A thread of its own listens to the program, and kills it as soon as it has acknowledged
    `kill_at` records: the program writes on at that moment.
    """

    def __init__(self, place: StoreSpec, name: str, end: str, kill_at: int | None = None) -> None:
        self.name = name
        self.place = place
        self.acknowledged = 0
        self._kill_at = kill_at
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1])),
        )
        settings = {"place": place.plain(), "name": name, "count": RECORDS, "end": end}
        self._tell(json.dumps(settings))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.acknowledged = int(line)
            if self._kill_at is not None and self.acknowledged >= self._kill_at:
                self.process.send_signal(signal.SIGKILL)

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def go(self) -> None:
        """Let it write; or close, if it waits for that."""
        self._tell("")

    def end(self) -> int:
        """Wait for its end and return how it ended."""
        code = self.process.wait(120)
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return code


def read_whole(run: Path | Store | None, seen: Counter[str]) -> Counter[str]:
    """Read a run that is being written; every line must be whole, and nothing may go away."""
    if run is None or (isinstance(run, Path) and not run.exists()):
        return seen
    reader = RunReader(run, wait=0)
    found: Counter[str] = Counter()
    for record in reader.records(TASKS):
        writer: Any = record.get("writer")
        found[writer] += 1
        assert record["seq"] == found[writer]
        assert record["task_id"] == f"inc-{found[writer]}"
    assert not [problems for problems in reader.problems.values() if problems.repeated]
    assert not [problems for problems in reader.problems.values() if problems.broken]
    assert all(found[writer] >= number for writer, number in seen.items()), (seen, found)
    return found


def check_on_a_file_system(directory: Path) -> None:
    """All writers share a directory."""

    def check(runs: Path, kill_at: int) -> None:
        place = spec_of({"type": "chunked-fs", "config": {"log_folder": str(runs)}})
        _check_a_round(kill_at, lambda name: place, lambda: runs / RUN_ID)

    _repeat(directory, check)


def check_in_objects(directory: Path, settings: Callable[[int], Mapping[str, Any]]) -> None:
    """The writers share nothing but a place of objects; `settings` are those of each round."""
    numbers = iter(range(ROUNDS))

    def check(runs: Path, kill_at: int) -> None:
        place = spec_of({"type": "chunked-object", "config": settings(next(numbers))})
        objects = place.opened()
        cache = ReadCache(runs / "cache")
        reads = 0

        def find() -> Store | None:
            nonlocal reads
            reads += 1
            return RemoteRoot(objects, cache if reads % 2 else None).find(RUN_ID)

        victim = _check_a_round(kill_at, lambda name: place.beside(runs / name), find)
        # What the victim had acknowledged is there. A command brings what else it has written.
        here = SharedFileStore(runs / victim.name / RUN_ID)
        written = sum(1 for _ in RunReader(here).records(TASKS))
        before = read_whole(find(), Counter())
        for _ in range(2):
            state = sync_run(objects, here)
            assert (state.missing_bytes, state.error) == (0, "")
            found = read_whole(find(), before)
            assert found == before | {victim.name: written}
        keys = [entry.key for entry in objects.list(f"{RUN_ID}/chunks/")]
        assert {key.split("/")[2] for key in keys} <= {victim.name}
        objects.close()

    _repeat(directory, check)


def _repeat(directory: Path, check: Callable[[Path, int], None]) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for number in range(ROUNDS):
        try:
            check(directory / str(number), chance.randrange(RECORDS))
        except BaseException as error:
            error.add_note(f"seed {seed}, round {number}")
            raise


def _check_a_round(
    kill_at: int, place: Callable[[str], StoreSpec], find: Callable[[], Path | Store | None]
) -> Writer:
    """Let programs write, kill one, check what is there; return the one that was killed."""
    names = [f"w{number}" for number in range(WRITERS - 1)]
    # One certainly writes when the victim is dead: it closes the run.
    last, *others = (Writer(place(name), name, "work" if name > "w0" else "wait") for name in names)
    victim = Writer(place("victim"), "victim", "die", kill_at)
    writers = [victim, last, *others]
    seen: Counter[str] = Counter()
    try:
        for writer in writers:
            writer.go()
        while any(writer.process.poll() is None for writer in (victim, *others)):
            seen = read_whole(find(), seen)
        last.go()
        while last.process.poll() is None:
            seen = read_whole(find(), seen)
        codes = [writer.end() for writer in writers]
    finally:
        for writer in writers:
            writer.process.kill()
            writer.end()
    assert codes == [-signal.SIGKILL] + [0] * (WRITERS - 1)
    found = read_whole(find(), seen)
    for writer in (last, *others):
        assert found[writer.name] == RECORDS
    assert found[victim.name] >= victim.acknowledged >= kill_at
    run = find()
    assert run is not None
    reader = RunReader(run)
    states = {name: state["status"] for name, state in reader.document["writers"].items()}
    assert states == dict.fromkeys(names, "completed") | {"victim": "lost"}
    assert reader.status == "completed"
    assert len(list(reader.records(FAILURES))) >= (WRITERS - 1) * RECORDS // 500
    torn = {name for name, problems in reader.problems.items() if problems}
    assert all(name.startswith(f"writers/{victim.name}/") for name in torn), torn
    return victim
