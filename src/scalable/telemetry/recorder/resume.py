"""Read a run whose recorder died, so that another recorder can continue it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from scalable.telemetry import semconv
from scalable.telemetry.recorder import wire
from scalable.telemetry.submissions.recorded_blocks import block_above
from scalable_runs.otel.decode import context_of, parent_of
from scalable_runs.reader import RunReader
from scalable_runs.schema import (
    ENVIRONMENTS,
    SPANS,
    TASKS,
    WORKERS,
    Record,
    Restart,
    RunDocument,
)
from scalable_runs.stores.places import Place, store_of
from scalable_runs.summary import RunSummary
from scalable_runs.writer import Found, Problem, RunWriter, identity

#: Ended tasks whose last state is kept: their results may still be lost.
MAX_ENDED: Final = 200_000
#: Parents of attempts that are looked for among the spans.
MAX_PARENTS: Final = 100_000


class Position(NamedTuple):
    """How far a recorder had written; its successor gets everything after that again."""

    #: Number of the first fact that is not completely in the files.
    after: int
    #: Last `seq` of each journal by then.
    numbers: Mapping[str, int]
    #: Number of the program's own messages in the files by then.
    messages: int


class Resumed(NamedTuple):
    """What a recorder needs to continue a run."""

    writer: RunWriter
    summary: RunSummary
    #: Records of tasks.jsonl and workers.jsonl up to the position that give the present state, and
    #: all of environments.jsonl.
    records: list[tuple[str, Record]]
    after: int
    #: Number of the first fact that the recorder which died did not get.
    news: int
    restarts: list[Restart]
    usage_left_out: int
    unwatched: Mapping[str, str]
    #: Parents of attempts and submissions, by trace and span id, that have no line yet.
    parents: Sequence[tuple[int, int]] = ()
    #: Ids of the spans of Dask's blocks that have a line.
    blocks: frozenset[int] = frozenset()


def resume(
    runs_dir: Place,
    run_id: str,
    position: tuple[int, Mapping[str, int], int],
    *,
    news: int,
    remote_errors: Mapping[str, int],
    died: float,
    restarts: Iterable[Mapping[str, Any]],
    program: int,
    writer: str | None = None,
    on_problem: Callable[[Problem], None],
) -> Resumed:
    """Read a run whose recorder died at `died` (seconds since the epoch) and become its writer.

    `position` is a :class:`Position`, `news` the number of the first fact that the recorder did not
    get. `remote_errors` are the counts of the cluster's plugins, which are reported again, and
    `restarts` the entries of run.json for recorders that died before. Raises OSError if the run
    cannot be read or written.
    """
    after, numbers, _ = position
    store = store_of(runs_dir, run_id, writer)
    reader = RunReader(store, writer=writer)
    if not reader.document:
        raise OSError(f"run.json of {run_id} cannot be read")
    summary = RunSummary()
    found: dict[str, Found] = {}
    written: dict[str, Counter[Any]] = {}
    state, parents = _State(), _Parents()
    for file in reader.files():
        upto = numbers.get(file, 0)
        journal = _Journal(upto, state.add if file in (TASKS, WORKERS) else None)
        passed = parents.follow(file, journal.follow(file, reader.records(file)))
        if summary.add_all(file, passed) == 0:
            for _ in passed:
                pass
        found[file] = Found(journal.last, upto, journal.lines)
        if journal.written:
            written[file] = journal.written
    document: dict[str, Any] = dict(reader.document)
    telemetry: Mapping[str, Any] = document.get("telemetry") or {}
    # The plugins send their counts again with their next answer.
    errors = Counter(telemetry.get("errors") or {})
    errors.subtract(remote_errors)
    document["telemetry"] = {**telemetry, "errors": dict(+errors)}
    run_writer = RunWriter.resume(
        store if writer is None else runs_dir,
        cast("RunDocument", document),
        found,
        program=program,
        on_problem=on_problem,
        writer=writer,
    )
    run_writer.written = written
    all_restarts: list[Restart] = [*cast("Iterable[Restart]", restarts), wire.restart(died)]
    return Resumed(
        run_writer,
        summary,
        [*state.records(), *((ENVIRONMENTS, it) for it in reader.records(ENVIRONMENTS))],
        after,
        news,
        all_restarts,
        telemetry.get("usage_left_out", 0),
        telemetry.get("unwatched_workers") or {},
        parents.missing(),
        frozenset(parents.blocks),
    )


class _Journal:
    """Follows one journal to its end."""

    def __init__(self, upto: int, keep: Callable[[str, Record], None] | None) -> None:
        self._upto = upto
        self._keep = keep
        self.last = 0
        self.lines = 0
        #: Lines after the position: they will be made again.
        self.written: Counter[Any] = Counter()

    def follow(self, file: str, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.last = max(self.last, record.get("seq") or 0)
            self.lines += 1
            if self.last > self._upto:
                self.written[identity(record)] += 1
            elif self._keep is not None:
                self._keep(file, record)
            yield record


class _Parents:
    """Finds spans that attempts, and submissions in Dask's blocks, have as their parents.

    Of these, those that were not written are wanted.
    """

    def __init__(self) -> None:
        self._named: dict[int, int] = {}
        self._written: set[int] = set()
        #: Written spans of Dask's blocks.
        self.blocks: set[int] = set()

    def follow(self, file: str, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if file in (SPANS, TASKS):
                self._add(file, record)
            yield record

    def _add(self, file: str, record: Record) -> None:
        ids, parent = context_of(record), parent_of(record)
        if ids is not None:
            self._written.add(ids.span_id)
            if semconv.DASK_SPAN_BLOCKS in (record.get("attributes") or {}):
                self.blocks.add(ids.span_id)
        is_known = file == TASKS or block_above(record) is not None
        if is_known and parent is not None and len(self._named) < MAX_PARENTS:
            self._named[parent.span_id] = parent.trace_id

    def missing(self) -> list[tuple[int, int]]:
        return [
            (trace_id, span_id)
            for span_id, trace_id in self._named.items()
            if span_id not in self._written
        ]


class _State:
    """Records that give the present state of tasks and workers."""

    def __init__(self) -> None:
        #: Records of each task: its submission, the start of its last attempt, the last one.
        self._tasks: dict[str, list[Record | None]] = {}
        self._workers: dict[str, dict[str, Record]] = {}
        self._ended = 0

    def add(self, file: str, record: Record) -> None:
        if file == WORKERS:
            self._add_worker(record)
        else:
            self._add_task(record)

    def _add_task(self, record: Record) -> None:
        key, state = record["task_id"], record["state"]
        task = self._tasks.setdefault(key, [None, None, None])
        if state == "submitted":
            # Its dependencies are not needed.
            kept = {name: value for name, value in record.items() if name != "dependencies"}
            self._tasks[key] = [kept, None, None]
        elif state == "running":
            task[1], task[2] = record, None
        elif state == "cancelled":
            self._tasks.pop(key)
        else:
            task[2] = record
            self._ended += state in ("succeeded", "failed")
            if self._ended > 2 * MAX_ENDED:
                self._forget()

    def _forget(self) -> None:
        ended = [key for key, task in self._tasks.items() if _has_ended(task)]
        for key in ended[:-MAX_ENDED]:
            del self._tasks[key]
        self._ended = min(len(ended), MAX_ENDED)

    def _add_worker(self, record: Record) -> None:
        address = str(record.get("worker"))
        if record["state"] in ("launched", "ready"):
            self._workers.setdefault(address, {})[record["state"]] = record
        else:
            self._workers.pop(address, None)

    def records(self) -> list[tuple[str, Record]]:
        found: list[tuple[str, Record]] = [
            (WORKERS, record) for states in self._workers.values() for record in states.values()
        ]
        found += [
            (TASKS, record)
            for task in self._tasks.values()
            for record in task
            if record is not None
        ]
        return found


def _has_ended(task: list[Record | None]) -> bool:
    return task[2] is not None and task[2]["state"] in ("succeeded", "failed")
