"""What the program ran with, and which workers ran with something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from scalable_runs.reader import RunReader
from scalable_runs.schema import ENVIRONMENTS, Record

#: Bytes of the journal that are read.
_MAX_BYTES: Final = 64 * 2**20
#: Workers named in one sentence.
_MAX_NAMED: Final = 3
#: What is named whether or not a task imported it, first.
_ALWAYS: Final = ("python", "dask", "distributed")
_SHOWN: Final = {"python": "Python", "dask": "Dask"}


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """A package of which some processes have another version than the program.

    Attributes
    ----------
    package
        Its name; `python` is Python itself.
    version, program_version
        What these processes have and what the program has; None where it is not installed.
    imported
        One of these processes had imported it.
    workers
        Addresses of these workers → their names.
    on_scheduler
        The scheduler is one of these processes.
    """

    package: str
    version: str | None
    program_version: str | None
    imported: bool
    workers: Mapping[str, str]
    on_scheduler: bool

    @property
    def matters(self) -> bool:
        """Whether it can have changed what tasks did."""
        return self.imported or self.package in _ALWAYS


@dataclass(frozen=True, slots=True)
class Environments:
    """What the processes of a run ran with.

    Attributes
    ----------
    program
        The program's line, with its packages; empty if there is none.
    differences
        Those that matter first.
    worker_count
        Workers that said what they run with.
    """

    program: Mapping[str, Any]
    differences: tuple[VersionDifference, ...]
    worker_count: int

    @property
    def named(self) -> tuple[VersionDifference, ...]:
        """The differences that can have changed what tasks did."""
        return tuple(one for one in self.differences if one.matters)

    @property
    def others(self) -> int:
        """Packages that differ, and that no worker was seen to import."""
        return len({one.package for one in self.differences if not one.matters})


def load_environments(reader: RunReader) -> Environments:
    """Read what a run's record says of environments."""
    program: Mapping[str, Any] = {}
    workers: dict[str, str] = {}
    #: By package and both versions: workers, whether it was imported, and on the scheduler.
    found: dict[tuple[str, str | None, str | None], _Found] = {}
    if 0 < reader.size(ENVIRONMENTS) <= _MAX_BYTES:
        for record in reader.records(ENVIRONMENTS):
            if record.get("process") == "program":
                program = program or record
                continue
            address = str(record.get("worker") or "")
            if address:
                workers[address] = str(record.get("worker_id") or address)
            _add(found, record, address, workers.get(address, ""))
    differences = [
        VersionDifference(*key, one.imported, dict(one.workers), one.on_scheduler)
        for key, one in found.items()
    ]
    differences.sort(key=_rank)
    return Environments(program, tuple(differences), len(workers))


class _Found:
    """The processes of one difference; used while they are gathered."""

    def __init__(self) -> None:
        self.imported = self.on_scheduler = False
        self.workers: dict[str, str] = {}


def _add(
    found: dict[tuple[str, str | None, str | None], _Found],
    record: Record,
    address: str,
    name: str,
) -> None:
    differs: Any = record.get("differs")
    imported: Any = record.get("imported")
    names = set(cast("list[str]", imported)) if isinstance(imported, list) else set[str]()
    if not isinstance(differs, dict):
        return
    for package, pair in cast("dict[str, Any]", differs).items():
        if not isinstance(pair, list) or len(cast("list[Any]", pair)) != 2:
            continue
        here, there = (None if it is None else str(it) for it in cast("list[Any]", pair))
        one = found.setdefault((package, here, there), _Found())
        one.imported = one.imported or package in names
        if address:
            one.workers[address] = name
        else:
            one.on_scheduler = True


def _rank(one: VersionDifference) -> tuple[bool, int, int, str]:
    order = _ALWAYS.index(one.package) if one.package in _ALWAYS else len(_ALWAYS)
    return not one.matters, order, -len(one.workers), one.package


def difference_words(one: VersionDifference, worker_count: int = 0) -> str:
    """Say it: ``worker 3 has numpy 2.1.0, the program 2.3.0``."""
    names = sorted(one.workers.values())
    who: list[str] = []
    if names:
        who.append(_workers_words(names, worker_count))
    if one.on_scheduler:
        who.append("the scheduler")
    verb = "has" if len(names) + one.on_scheduler == 1 else "have"
    shown = _SHOWN.get(one.package, one.package)
    has = f"no {shown}" if one.version is None else f"{shown} {one.version}"
    there = one.program_version or "none"
    return f"{' and '.join(who)} {verb} {has}, the program {there}"


def _workers_words(names: Sequence[str], worker_count: int) -> str:
    if len(names) == 1:
        return f"worker {names[0]}"
    if len(names) == worker_count:
        return f"all {worker_count:,} workers"
    if len(names) <= _MAX_NAMED:
        return f"workers {', '.join(names[:-1])} and {names[-1]}"
    more = len(names) - _MAX_NAMED
    return f"workers {', '.join(names[:_MAX_NAMED])} and {more:,} more"


def packages_of(found: Environments, run: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the program's packages: all, or in earlier runs those that record."""
    environment: Any = run.get("environment")
    tables: Iterable[Any] = (
        found.program.get("packages"),
        environment.get("packages") if isinstance(environment, dict) else None,
    )
    for table in tables:
        if isinstance(table, dict) and table:
            return {str(name): str(of) for name, of in cast("dict[Any, Any]", table).items()}
    return {}
