"""Synthetic runs: a small simulated cluster whose facts go through the real recorder.

A :class:`~scalable.telemetry.recorder.recorder.Recorder` pulls the facts as from a scheduler. They
become signals in its ledger, records in the exporters and lines in the writer. The same shape and
seed give the same facts on any machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, islice
from pathlib import Path
from typing import Final, NamedTuple

from scalable import facts
from scalable.common.options import RecorderOptions
from scalable.facts import Batch, Fact
from scalable.facts.identity import carrier_of
from scalable.telemetry.configuration.resource import make_resource
from scalable.telemetry.configuration.routes import find_routes
from scalable.telemetry.recorder.puller import PULL_SIZE
from scalable.telemetry.recorder.recorder import Recorder
from scalable.telemetry.recorder.run_roots import RunIdentity
from scalable.telemetry.submissions.submissions import Submissions
from scalable_runs.redact import Redactor
from scalable_runs.rundoc import run_document
from scalable_runs.schema import RunStatus
from scalable_runs.writer import RunWriter

#: Start of every synthetic run, in seconds since the epoch: 2026-01-01.
EPOCH: Final = 1_767_225_600.0
#: A worker reports attempts that still run after this time, like a real worker (seconds).
ANNOUNCE_AFTER: Final = 0.02
#: Seconds between two samples of a worker.
SAMPLE_INTERVAL: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What happens in a synthetic run.

    Attributes
    ----------
    tasks
        Tasks submitted.
    workers, nthreads
        Workers at any time, and the threads of each.
    names
        Names of tasks, drawn with equal probability.
    graph
        Tasks submitted at once; the next graph is submitted when the previous one has ended.
    duration
        Mean execution time in seconds (exponentially distributed).
    failing
        Share of attempts that raise.
    retries
        How often a task that raised runs again before it fails.
    lost_workers
        Workers lost while they work; each is replaced.
    seed
        Seed of all random choices.
    """

    tasks: int = 1_000
    workers: int = 2
    nthreads: int = 1
    names: tuple[str, ...] = ("noop",)
    graph: int = 1_000
    duration: float = 0.000_2
    failing: float = 0.0
    retries: int = 0
    lost_workers: int = 0
    seed: int = 0

    @property
    def run_id(self) -> str:
        """Id of the run with this shape's seed."""
        return f"run-20260101T000000Z-synthetic-{self.seed & 0xFFFFFFFF:08x}"


class _Task:
    __slots__ = ("key", "name", "raised", "ready")

    def __init__(self, key: str, name: str) -> None:
        self.key = key
        self.name = name
        self.raised = 0
        self.ready = 0.0


class _Worker:
    __slots__ = ("address", "name", "running")

    def __init__(self, number: int) -> None:
        self.name = str(number)
        self.address = f"tcp://127.0.0.1:{40_000 + number}"
        #: run id → (task, start)
        self.running: dict[int, tuple[_Task, float]] = {}


class SyntheticCluster:
    """Simulates a cluster and yields the facts that its scheduler's plugin would note.

    Attributes
    ----------
    truth
        True counts so far: ``submitted``, ``attempts``, ``succeeded``, ``failed``,
        ``retried``, ``lost`` (attempts) and ``workers_lost``.
    now
        The simulated scheduler's clock.
    """

    def __init__(self, shape: Shape) -> None:
        self.truth: Counter[str] = Counter()
        self.now = EPOCH
        self._shape = shape
        self._chance = random.Random(shape.seed)
        self._run_ids = count(1)
        self._numbers = count()
        self._workers: list[_Worker] = []
        self._free: list[_Worker] = []
        self._ready: deque[_Task] = deque()
        #: (time, run id, worker, whether it is the end or a report)
        self._agenda: list[tuple[float, int, bool, _Worker]] = []
        self._sampled = EPOCH
        marks = range(1, max(2, shape.tasks))
        self._losses = deque(
            sorted(self._chance.sample(marks, min(shape.lost_workers, len(marks))))
        )

    def facts(self) -> Iterator[Fact]:
        """Every fact of the run, in order; may be called once."""
        shape = self._shape
        for _ in range(shape.workers):
            yield from self._join()
        left = shape.tasks
        while left:
            size = min(left, shape.graph)
            left -= size
            yield from self._run_graph(size)

    def _join(self) -> Iterator[Fact]:
        worker = _Worker(next(self._numbers))
        self._workers.append(worker)
        self._free += [worker] * self._shape.nthreads
        now, address = self.now, worker.address
        yield facts.WorkerReady(
            facts.WORKER_READY,
            now,
            address,
            worker.name,
            "127.0.0.1",
            1000 + int(worker.name),
            self._shape.nthreads,
            2**32,
            None,
        )
        yield self._sample(worker)
        yield facts.WorkerHello(facts.WORKER_HELLO, now, address, now - 0.5)

    def _sample(self, worker: _Worker) -> Fact:
        memory = 100_000_000 + 1_000 * self._chance.randrange(100_000)
        cpu = round(self._chance.random() * self._shape.nthreads, 3)
        return facts.Sample(
            facts.SAMPLE,
            self.now,
            worker.address,
            cpu,
            memory,
            2**32,
            memory // 2,
            0,
            0.0,
            "running",
            0,
        )

    def _run_graph(self, size: int) -> Iterator[Fact]:
        shape, chance = self._shape, self._chance
        trace_id, span_id = chance.getrandbits(128) | 1, chance.getrandbits(64) | 1
        carrier = carrier_of(
            {"run": shape.run_id, "traceparent": f"00-{trace_id:032x}-{span_id:016x}-01"}
        )
        keys: list[str] = []
        for _ in range(size):
            name = chance.choice(shape.names)
            task = _Task(f"{name}-{chance.getrandbits(128):032x}", name)
            keys.append(task.key)
            self.now += 2e-6
            task.ready = self.now
            self._ready.append(task)
            yield facts.Submitted(
                facts.SUBMITTED, self.now, task.key, name, name, (), 0, carrier, False
            )
        self.truth["submitted"] += size
        target = self.truth["succeeded"] + self.truth["failed"] + size
        while self.truth["succeeded"] + self.truth["failed"] < target:
            self._assign()
            at, run_id, is_end, worker = heappop(self._agenda)
            if run_id not in worker.running:  # it went with its worker, or has ended
                continue
            self.now = max(self.now, at) + 1e-5
            if not is_end:
                task, start = worker.running[run_id]
                yield facts.Started(facts.STARTED, start, task.key, run_id, worker.address)
                continue
            yield from self._end(worker, run_id, at)
            if self._losses and self.truth["attempts"] >= self._losses[0]:
                busy = [candidate for candidate in self._workers if candidate.running]
                if busy:
                    self._losses.popleft()
                    yield from self._lose(chance.choice(busy))
            if self.now - self._sampled >= SAMPLE_INTERVAL:
                self._sampled = self.now
                for sampled in self._workers:
                    yield self._sample(sampled)
        for key in keys:
            self.now += 2e-6
            yield key

    def _assign(self) -> None:
        while self._ready and self._free:
            worker, task = self._free.pop(), self._ready.popleft()
            run_id = next(self._run_ids)
            start = self.now + 1e-4
            stop = start + self._chance.expovariate(1 / self._shape.duration)
            worker.running[run_id] = (task, start)
            self.truth["attempts"] += 1
            heappush(self._agenda, (stop, run_id, True, worker))
            if stop - start > ANNOUNCE_AFTER:
                heappush(self._agenda, (start + ANNOUNCE_AFTER, run_id, False, worker))

    def _end(self, worker: _Worker, run_id: int, stop: float) -> Iterator[Fact]:
        task, start = worker.running.pop(run_id)
        self._free.append(worker)
        chance, shape = self._chance, self._shape
        cpu = (stop - start) * chance.uniform(0.5, 1.0)
        if shape.failing and chance.random() < shape.failing:
            yield from self._raise(worker, run_id, task, start, stop, cpu)
            return
        self.truth["succeeded"] += 1
        yield facts.Succeeded(
            facts.SUCCEEDED,
            self.now,
            task.key,
            run_id,
            worker.address,
            start,
            stop,
            task.ready,
            (),
            28,
            "int",
            cpu,
        )

    def _raise(
        self, worker: _Worker, run_id: int, task: _Task, start: float, stop: float, cpu: float
    ) -> Iterator[Fact]:
        task.raised += 1
        will_retry = task.raised <= self._shape.retries
        message = f"bad value {self._chance.randrange(1000)}"
        yield facts.Failed(
            facts.FAILED,
            self.now,
            task.key,
            run_id,
            worker.address,
            start,
            stop,
            task.ready,
            (),
            "ValueError",
            message,
            f'Traceback (most recent call last):\n  File "work.py", line 7, in {task.name}\n'
            f'    raise ValueError("{message}")\nValueError: {message}\n',
            cpu,
            will_retry,
        )
        if will_retry:
            self.truth["retried"] += 1
            yield self._again(task)
        else:
            self.truth["failed"] += 1

    def _lose(self, worker: _Worker) -> Iterator[Fact]:
        self.truth["workers_lost"] += 1
        self._workers.remove(worker)
        self._free = [free for free in self._free if free is not worker]
        now, running = self.now, list(worker.running.items())
        worker.running = {}
        yield self._sample(worker)
        yield facts.WorkerGone(
            facts.WORKER_GONE,
            now,
            worker.address,
            False,
            "lost",
            self._shape.nthreads,
            tuple((task.key, run_id) for run_id, (task, _) in running),
            tuple((run_id, start) for run_id, (_, start) in running),
            0,
            100_000_000,
        )
        yield facts.WorkerExit(
            facts.WORKER_EXIT, now, worker.address, -9, "SIGKILL", True, False, 0, 0, "", ""
        )
        for run_id, (task, _) in running:
            self.truth["lost"] += 1
            yield facts.Unassigned(
                facts.UNASSIGNED, now, task.key, run_id, worker.address, "worker-lost"
            )
            yield self._again(task)
        self.now += 0.5
        yield from self._join()

    def _again(self, task: _Task) -> Fact:
        task.ready = self.now
        self._ready.appendleft(task)
        return facts.Waiting(facts.WAITING, self.now, task.key)


class Mark(NamedTuple):
    """The progress of a synthetic run."""

    tasks: int
    cpu: float
    simulation: float


class SyntheticSource:
    """Passes the facts of a synthetic cluster to a recorder, and meters the recorder.

    Called by the recorder's thread only: the time between two pulls is that of the recorder.

    Attributes
    ----------
    cpu
        CPU time of the recorder so far in seconds, without the simulation.
    simulation
        CPU time of the simulation in seconds: the same work for every task, which measures the
        current speed of the machine.
    marks
        ``(tasks submitted, cpu, simulation)`` at each pull.
    """

    def __init__(self, cluster: SyntheticCluster) -> None:
        self.cpu = 0.0
        self.simulation = 0.0
        self.marks: list[Mark] = []
        self._cluster = cluster
        self._facts = cluster.facts()
        self._left: float | None = None

    def pull(self, after: int, limit: int = PULL_SIZE, timeout: float = 0.0) -> Batch:
        """The next facts; they are not kept."""
        entered = time.thread_time()
        if self._left is not None:
            self.cpu += entered - self._left
            self.marks.append(Mark(self._cluster.truth["submitted"], self.cpu, self.simulation))
        # As they come from a scheduler, in plain tuples.
        raw = [
            fact if isinstance(fact, str) else tuple(fact) for fact in islice(self._facts, limit)
        ]
        self._left = time.thread_time()
        self.simulation += self._left - entered
        now = self._cluster.now + 1e-3
        return Batch(facts.decode(raw), after + len(raw), len(raw) == limit, 0, {}, now)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(slots=True)
class Recorded:
    """A recorded run: its path, its true counts and its cost."""

    path: Path
    truth: Counter[str]
    cpu: float
    marks: list[Mark]
    wall: float
    #: Seconds that `close` took; None for a run that is not closed.
    closing: float | None = None
    warnings: list[str] = field(default_factory=list[str])
    #: Internal errors, by place.
    errors: dict[str, int] = field(default_factory=dict[str, int])


def record(
    runs_dir: Path | str, shape: Shape, *, close: bool = True, tolerant: bool = False
) -> Recorded:
    """Record a synthetic run below `runs_dir`.

    Parameters
    ----------
    runs_dir
        Where its directory is made.
    shape
        What happens in it.
    close
        False leaves the run open when everything is written: ending the process then leaves a
        run like that of a crashed driver.
    tolerant
        Internal errors are in :attr:`Recorded.errors` instead of raising RuntimeError.
    """
    cluster = SyntheticCluster(shape)
    source = SyntheticSource(cluster)
    warnings: list[str] = []
    recorder = make_recorder(runs_dir, shape, warnings)
    began = time.perf_counter()
    recorder.start(source)
    taken = recorder.flush(timeout=3600.0)
    errors = dict(recorder.guard.errors)
    if not taken or (errors and not tolerant) or cluster.truth["submitted"] != shape.tasks:
        raise RuntimeError(f"the synthetic run was not recorded: {errors}")
    recorded = Recorded(
        recorder.run_dir,
        cluster.truth,
        source.cpu,
        source.marks,
        time.perf_counter() - began,
        warnings=warnings,
        errors=errors,
    )
    if close:
        status: RunStatus = "completed"
        began = time.perf_counter()
        recorder.close(status, timeout=60.0)
        recorded.closing = time.perf_counter() - began
    return recorded


def make_recorder(runs_dir: Path | str, shape: Shape, warnings: list[str]) -> Recorder:
    """A recorder with a run directory below `runs_dir`, not started; it appends its warnings."""
    identity = RunIdentity(shape.run_id, "synthetic", "synthetic", 1 << 100, 1, EPOCH)
    writer = RunWriter.create(
        runs_dir,
        run_document(
            shape.run_id,
            project=identity.project,
            target="existing",
            provider=identity.provider,
            lock="",
            started=EPOCH,
            trace_id=f"{identity.trace_id:032x}",
            environment={},
        ),
    )
    return Recorder(
        identity,
        writer,
        make_resource(shape.run_id, identity.project, Redactor()),
        Submissions(shape.run_id),
        redact=Redactor(),
        warn=warnings.append,
        routes=find_routes({}, warnings.append),
        options=RecorderOptions(),
    )


def main() -> None:
    """Write one synthetic run, as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic", description=__doc__)
    parser.add_argument("runs_dir", type=Path)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--names", type=int, default=1, help="different task names")
    parser.add_argument("--failing", type=float, default=0.0, help="share of attempts that raise")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--lost-workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--crash", action="store_true", help="kill the process, do not close the run"
    )
    given = parser.parse_args()
    names = tuple(f"step-{number}" for number in range(given.names))
    shape = Shape(
        tasks=given.tasks,
        workers=given.workers,
        names=names if given.names > 1 else ("noop",),
        failing=given.failing,
        retries=given.retries,
        lost_workers=given.lost_workers,
        seed=given.seed,
    )
    recorded = record(given.runs_dir, shape, close=not given.crash)
    print(recorded.path, flush=True)
    if given.crash:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
