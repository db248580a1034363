"""Programs with directories of their own write one run in a place of objects alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import IO, Any

import pytest
import shared_object_program
from store_world import RUN_ID, run_document

from scalable_runs.reader import RunReader
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.remote.shared_run import RunElsewhere
from scalable_runs.remote.syncing import sync_run
from scalable_runs.schema import TASKS
from scalable_runs.stores.directory import DirectoryObjects
from scalable_runs.stores.file import FileRoot
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.stores.places import spec_of
from scalable_runs.writer import RunWriter

PROGRAMS = 16
COUNT = 40


class Program:
    def __init__(self, objects: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, shared_object_program.__file__, objects, folder, str(COUNT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, word: str) -> None:
        pipe: IO[str] | None = self.process.stdin
        assert pipe is not None
        pipe.write(f"{word}\n")
        pipe.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def test_programs_on_several_machines_join_leave_and_close_one_run(tmp_path: Path) -> None:
    place = tmp_path / "objects"
    place.mkdir()
    programs = [Program(place, tmp_path / f"machine-{number}") for number in range(PROGRAMS)]
    killed, *others = programs
    try:
        for program in programs:
            program.tell("join")
        said = [program.says().split() for program in programs]
        for program in programs:
            program.tell("die" if program is killed else "close")
            if program is killed:
                assert program.process.wait(60) == 9
        ends = [program.says() for program in others]
        assert ends == ["0"] * len(others)
        for program in others:
            assert program.process.wait(60) == 0
    finally:
        for program in programs:
            program.process.kill()
            program.process.communicate()
    names = [words[0] for words in said]
    assert len(set(names)) == PROGRAMS
    assert len({tuple(words[1:]) for words in said}) == 1, "one trace with one root"
    objects = DirectoryObjects(DirectoryObjects.Config(str(place)))
    keys = [entry.key.removeprefix(f"{RUN_ID}/") for entry in objects.list(f"{RUN_ID}/")]
    assert [key for key in keys if key.startswith("closed") and "/" not in key] == ["closed.json"]
    assert sum(key.startswith("closed/") for key in keys) == len(others)
    reader = reader_of(objects)
    assert reader.document["trace_id"] == said[0][1]
    assert reader.document["root_span_id"] == said[0][2]
    assert reader.status == "completed"
    states = {name: state["status"] for name, state in reader.document["writers"].items()}
    assert states == {name: "lost" if name == names[0] else "completed" for name in names}
    found: Counter[Any] = Counter(record["writer"] for record in reader.records(TASKS))
    assert found == dict.fromkeys(names, COUNT)
    left = [path for program in others for path in program.folder.rglob("*")]
    assert left == [], "all of it is there"
    check_what_the_killed_one_left(objects, killed.folder, reader.document["root_span_id"])


def check_what_the_killed_one_left(objects: DirectoryObjects, folder: Path, root: str) -> None:
    (run_id,) = FileRoot(folder).ids()
    local = FileRoot(folder).find(run_id)
    assert local is not None
    assert list(local.parts())
    assert not sync_run(objects, local).error
    again = reader_of(objects)
    assert again.document["root_span_id"] == root, "what all share is not replaced"
    assert sum(1 for _ in again.records(TASKS)) == PROGRAMS * COUNT


def reader_of(objects: DirectoryObjects) -> RunReader:
    store = RemoteRoot(objects).find(RUN_ID)
    assert store is not None
    return RunReader(store, wait=0)


class Silent(MemoryObjects):
    """A place that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = False

    def create(self, key: str, data: bytes) -> bool:
        if not self.answers:
            raise ConnectionError("it does not answer")
        return super().create(key, data)


@pytest.mark.parametrize("others", [False, True])
def test_a_place_that_does_not_answer_at_the_start_is_joined_later(
    tmp_path: Path, others: bool
) -> None:
    objects = Silent()
    problems: list[str] = []
    writer = begin(objects, tmp_path / "one", problems)
    shared = writer.shared
    assert isinstance(shared, RunElsewhere)
    assert len(problems) == 1
    assert "begins on this machine" in problems[0]
    own = shared.run["root_span_id"]
    objects.answers = True
    root = own
    if others:
        other = begin(objects, tmp_path / "two", problems)
        assert other.shared is not None
        root = other.shared.run["root_span_id"]
        assert root != own
        other.close(status="completed")
    sentence = shared.join_again()
    assert ("a trace of its own" in sentence) == others
    assert shared.join_again() == "", "it is joined"
    document = json.loads(objects.get(f"{RUN_ID}/run.json"))
    assert document["root_span_id"] == root
    writer.close(status="completed")


def test_a_lost_answer_is_recognised(tmp_path: Path) -> None:
    class Lost(MemoryObjects):
        def create(self, key: str, data: bytes) -> bool:
            made = super().create(key, data)
            return made and key.startswith(".probe/")

    objects = Lost()
    problems: list[str] = []
    writer = begin(objects, tmp_path, problems)
    assert writer.shared is not None
    assert writer.shared.leave("completed", "2026-01-01T00:00:00Z") is not None, "it has closed it"
    writer.close(status="completed")
    assert problems == []


def begin(objects: MemoryObjects, folder: Path, problems: list[str]) -> RunWriter:
    place = spec_of(objects).beside(folder)
    return RunWriter.create(
        place, run_document(), on_problem=lambda problem: problems.append(problem.message)
    )
