"""Random graphs, and a random edit of their program: what a retry computes, and what it reuses."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scalable
from cluster import kept_tasks
from cluster.kept_tasks import LOG

FUNCTIONS = 3
MODULE = "edited_program"

_numbers = itertools.count()


@dataclass(frozen=True)
class Program:
    """The constants of a program, its graph, and how it is written."""

    #: Of each function; and of the helper that the first two functions call.
    constants: tuple[int, ...]
    helper: int
    #: Of each task: its function, a literal, and the tasks whose results it takes.
    tasks: tuple[tuple[int, int, tuple[int, ...]], ...]
    comment: str = ""

    def source(self) -> str:
        lines = ["from cluster.kept_tasks import LOG, note", f"SHIFT = {self.helper}", ""]
        lines += ["def shifted(x):", f"    return x + SHIFT  # {self.comment}", ""]
        for number, constant in enumerate(self.constants):
            value = f"{constant} * literal + sum(above)"
            value = f"shifted({value})" if number < 2 else value
            lines += [
                f"def function_{number}(literal, *above):  # {self.comment}",
                f'    """{self.comment}"""',
                "    note(LOG, 'ran')",
                f"    return ({value}) % 7",
                "",
            ]
        return "\n".join(lines)

    def code_of(self, function: int) -> tuple[int, ...]:
        """What the result of a function depends on."""
        return (function, self.constants[function], *((self.helper,) if function < 2 else ()))

    def calls(self) -> tuple[list[int], list[tuple[Any, ...]]]:
        """The result and the call of each task, computed without Dask."""
        results: list[int] = []
        calls: list[tuple[Any, ...]] = []
        for function, literal, above in self.tasks:
            values = tuple(results[each] for each in above)
            value = self.constants[function] * literal + sum(values)
            results.append((value + (self.helper if function < 2 else 0)) % 7)
            calls.append((self.code_of(function), literal, values))
        return results, calls


@st.composite
def programs(draw: st.DrawFn) -> Program:
    small = st.integers(0, 4)
    tasks = [
        (
            draw(st.integers(0, FUNCTIONS - 1)),
            draw(small),
            tuple(draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)))
            if number
            else (),
        )
        for number in range(draw(st.integers(1, 8)))
    ]
    return Program(tuple(draw(small) for _ in range(FUNCTIONS)), draw(small), tuple(tasks))


@st.composite
def edits(draw: st.DrawFn) -> tuple[Program, Program]:
    program = draw(programs())
    kind = draw(st.sampled_from(["comment", "constant", "helper", "literal"]))
    if kind == "comment":
        return program, replace(program, comment="other words")
    if kind == "helper":
        return program, replace(program, helper=program.helper + draw(st.integers(1, 7)))
    if kind == "constant":
        place = draw(st.integers(0, FUNCTIONS - 1))
        changed = list(program.constants)
        changed[place] += draw(st.integers(1, 7))
        return program, replace(program, constants=tuple(changed))
    place = draw(st.integers(0, len(program.tasks) - 1))
    tasks = list(program.tasks)
    function, literal, above = tasks[place]
    tasks[place] = (function, literal + draw(st.integers(1, 7)), above)
    return program, replace(program, tasks=tuple(tasks))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        patch.chdir(directory)
        yield directory
    sys.modules.pop(MODULE, None)


def imported(program: Program, place: Path) -> ModuleType:
    (place / f"{MODULE}.py").write_text(program.source())
    sys.modules.pop(MODULE, None)
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        return importlib.import_module(MODULE)
    finally:
        sys.dont_write_bytecode = before


def run(client: Client, program: Program, place: Path, **options: Any) -> tuple[list[int], int]:
    """Run a program; returns the results of its tasks and the number of executions."""
    module = imported(program, place)
    number = next(_numbers)
    log = Path(LOG.path)
    log.unlink(missing_ok=True)
    futures: list[Any] = []
    with scalable.instrument(client, recorder="thread", runs_dir=place / "runs", **options):
        for index, (function, literal, above) in enumerate(program.tasks):
            futures.append(
                client.submit(
                    getattr(module, f"function_{function}"),
                    literal,
                    *(futures[each] for each in above),
                    key=f"task-{number}-{index}",
                )
            )
        results = client.gather(futures)
    return results, len(log.read_text().splitlines()) if log.exists() else 0


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits())
def test_a_retry_gives_the_result_of_a_fresh_run_and_reuses_all_that_it_may(
    client: Client, place: Path, edited: tuple[Program, Program]
) -> None:
    before, after = edited
    with pytest.MonkeyPatch.context() as patch:
        directory = place / f"cache-{next(_numbers)}"
        patch.setattr(kept_tasks.Log, "path", str(place / "log"))
        patch.setenv("SCALABLE_CACHE_DIR", str(directory))

        results, calls = before.calls()
        assert run(client, before, place, keep_results=True) == (results, len(before.tasks))

        results_after, calls_after = after.calls()
        changed = [call for call in calls_after if call not in set(calls)]
        found = run(client, after, place, retry_of="run-before")
        assert found == (results_after, len(changed)), (before.source(), after.source())
