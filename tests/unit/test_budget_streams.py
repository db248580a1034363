"""Random streams through ledger and budget: of what is sent, every parent is sent as well.

That is so of what is sent during the run, and of what is sent later from its directory.
"""

from __future__ import annotations

import contextvars
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from time import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from run_builder import RunBuilder
from scalable import facts
from scalable.common.guard import Guard
from scalable.facts.graphs import DaskSpan, GraphRequest
from scalable.facts.identity import ATTEMPT, EXPORTED, carried
from scalable.instrumentation import propagation
from scalable.instrumentation.child_spans import ChildSpans
from scalable.instrumentation.outbox import Outbox
from scalable.instrumentation.process_resource import process_resource
from scalable.instrumentation.relay_providers import RelayProviders
from scalable.instrumentation.relay_sdk import RelaySdk
from scalable.instrumentation.task_submissions import carrier_of_task
from scalable.telemetry.ledger.ledger import Ledger
from scalable.telemetry.ledger.relay_decoder import RelayDecoder
from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.resend.resend import resend
from scalable.telemetry.signals.dask_spans import LeftSpan
from scalable.telemetry.signals.spans import SpanFactory, parent_of, span_context
from scalable.telemetry.spans.span_router import SpanRouter
from scalable.telemetry.submissions.submission_spans import SubmissionSpans
from scalable.telemetry.submissions.submissions import Submissions
from scalable_runs.otel.encode import encode_logs, encode_spans
from scalable_runs.reader import RunReader
from scalable_runs.redact import Redactor
from scalable_runs.schema import TASKS, Record
from taken import Taken

RUN = "run-1"
NAMES = ("inc", "add", "load", "fit")


class Sent:
    """Takes what the router sends."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def put(self, spans: Any) -> None:
        self.spans += spans


class NoLoop:
    """The loop of an outbox that is emptied by hand."""

    def call_soon_threadsafe(self, *_: Any) -> None:
        pass

    call_later = call_soon_threadsafe


class Exporting(SpanProcessor):
    """The exporter of a worker that has a provider of its own; it exports at the end of a task."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._batches: dict[Any, list[ReadableSpan]] = {}

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._cluster.outside.add(span.context.span_id)

    def on_end(self, span: ReadableSpan) -> None:
        attempt: Any = propagation.current_attempt.get()
        self._batches.setdefault(attempt.run_id, []).append(span)

    def export(self, run_id: int) -> None:
        self._cluster.exported += self._batches.pop(run_id, ())


@dataclass
class Worker:
    """A worker of the simulated cluster; what its tasks record waits in its outbox."""

    address: str
    #: Its own exporter; None if its spans are relayed.
    exporter: Exporting | None
    outbox: Outbox = field(init=False)
    tracer: Any = field(init=False)

    def __post_init__(self) -> None:
        loop: Any = NoLoop()
        self.outbox = Outbox(loop, lambda: self.address, lambda _: None, process_resource())
        if self.exporter is not None:
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(ChildSpans())
            provider.add_span_processor(self.exporter)
            self.tracer = provider.get_tracer("of.the.user")
            return
        relay = RelayProviders(self.outbox, lambda: 0.0, Guard())
        sdk = RelaySdk(relay.on_span_start, relay.on_span_end)
        self.tracer = sdk.tracer_provider.get_tracer("of.the.user")


@dataclass
class Attempt:
    """One execution of a task, as propagation sees it."""

    key: str
    name: str
    carrier: str | None
    run_id: int
    worker: Worker
    depth: int
    began: float
    outbox: Any = None
    exports: bool = False
    ahead = 0.0
    submissions: Any = None
    code: Iterator[None] = field(init=False)
    context: contextvars.Context = field(default_factory=contextvars.Context)


@dataclass
class Pending:
    key: str
    name: str
    carrier: str | None
    depth: int
    tries: int = 0


class Cluster:
    """Runs random tasks with the package's own propagation and relay; makes the facts of it."""

    def __init__(self, chance: Random, run: str = RUN) -> None:
        self.chance = chance
        self.run = run
        self.submissions = Submissions(run, clock=lambda: self.now)
        self.now = 1_000.0
        self.facts: deque[Any] = deque()
        #: What some of the workers export themselves.
        self.exported: list[ReadableSpan] = []
        self.outside: set[int] = set()
        exporting = chance.choice((0, 0, 1, 3))
        self.workers = [
            Worker(f"tcp://w:{number}", Exporting(self) if number < exporting else None)
            for number in range(3)
        ]
        self.ready: list[Pending] = []
        self.running: list[Attempt] = []
        self.submitted = 0
        #: Tasks of each submission.
        self.sizes: Counter[int] = Counter()
        self.run_ids = 0
        self.nesting = chance.choice((0.0, 0.1, 0.3))
        self.users = chance.choice((0.0, 0.3, 1.0))
        self.failing = chance.choice((0.0, 0.1, 0.6))
        self.losing = chance.choice((0.0, 0.01, 0.05))
        self.spanning = chance.choice((0.0, 0.3, 0.7))
        #: Blocks of `span()` by name and id: those that are open, and those that were left.
        self.blocks: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []
        self.entered = 0

    def submit(self, carrier: str | None, count: int, depth: int = 0) -> None:
        for _ in range(count):
            self.submitted += 1
            key, name = f"key-{self.submitted}", self.chance.choice(NAMES)
            self.facts.append(
                facts.Submitted(facts.SUBMITTED, self.now, key, name, None, (), 0, carrier, False)
            )
            self.ready.append(Pending(key, name, carrier, depth))

    def submit_as_client(self) -> None:
        carrier = self.submissions.carrier(self.request())
        count = self.chance.randint(1, 40)
        self.submit(carrier, count)
        self.count(carrier, count)

    def count(self, carrier: str, count: int) -> None:
        parent = parent_of(carried(carrier))
        assert parent is not None
        self.sizes[parent.span_id] += count

    def request(self) -> GraphRequest:
        """A graph in blocks of `span()`: some are entered first, and some are left."""
        while self.blocks and self.chance.random() < 0.4:
            self.left.append(self.blocks.pop())
            self.submissions.left([self.left[-1][1]])
        while len(self.blocks) < 3 and self.chance.random() < self.spanning:
            self.entered += 1
            self.blocks.append((self.chance.choice(NAMES), f"block-{self.entered}"))
            if self.chance.random() < 0.7:
                self.submissions.entered([self.blocks[-1][1]])
        blocks = self.blocks
        if self.left and self.chance.random() < 0.1:  # in a copy of the context of a block
            blocks = [*blocks, self.chance.choice(self.left)]
        if not blocks:
            return GraphRequest("submit", (), 0)
        names, ids = zip(*blocks, strict=True)
        return GraphRequest("submit", (), 0, span=DaskSpan(names, ids))

    def code(self, attempt: Attempt) -> Iterator[None]:
        """User code: spans within spans, tasks that are submitted from within."""
        # No `with`: of a task that is killed, no span ends.
        chance, tracer = self.chance, attempt.worker.tracer
        propagation.enter(attempt)
        while chance.random() < 0.5:
            yield
            if chance.random() < self.users:
                outer = tracer.start_span("user")
                token = attach(trace.set_span_in_context(outer))
                yield
                if chance.random() < self.nesting and attempt.depth < 3:
                    self.submit_nested(attempt)
                while chance.random() < 0.3:
                    inner = tracer.start_span("inner")
                    yield
                    inner.end()
                detach(token)
                outer.end()
            if chance.random() < self.nesting and attempt.depth < 3:
                self.submit_nested(attempt)

    def submit_nested(self, attempt: Attempt) -> None:
        attempt.ahead = self.now - time()
        operation = self.chance.choice(("submit", "map", "compute"))
        count = 1 if operation == "submit" else self.chance.randint(0, 5)
        for _ in range(self.chance.randint(1, 3)):
            lineage = propagation._lineage(attempt)  # pyright: ignore[reportPrivateUsage]
            carrier = carrier_of_task(attempt, GraphRequest(operation, ("x-1",), 1), lineage)
            if self.chance.random() < 0.9:  # a scheduler that keeps no history does not say it
                self.facts.append(facts.TaskGraph(facts.TASK_GRAPH, self.now, carrier))
            self.submit(carrier, count, attempt.depth + 1)
            self.count(carrier, count)

    def begin(self) -> None:
        pending = self.ready.pop(self.chance.randrange(len(self.ready)))
        self.run_ids += 1
        worker = self.chance.choice(self.workers)
        attempt = Attempt(
            pending.key,
            pending.name,
            pending.carrier,
            self.run_ids,
            worker,
            pending.depth,
            self.now,
            worker.outbox,
        )
        attempt.code = self.code(attempt)
        self.running.append(attempt)
        if self.chance.random() < 0.3:
            self.report_start(attempt)

    def report_start(self, attempt: Attempt) -> None:
        self.facts.append(
            facts.Started(
                facts.STARTED, attempt.began, attempt.key, attempt.run_id, attempt.worker.address
            )
        )

    def advance(self) -> None:
        attempt = self.chance.choice(self.running)
        if self.chance.random() < self.losing:
            self.lose(attempt.worker)
            return
        try:
            attempt.context.run(next, attempt.code)
        except StopIteration:
            self.end(attempt)

    def end(self, attempt: Attempt) -> None:
        self.running.remove(attempt)
        self.flush(attempt.worker)
        key, run_id, address = attempt.key, attempt.run_id, attempt.worker.address
        if attempt.worker.exporter is not None:
            attempt.worker.exporter.export(attempt.run_id)
        if attempt.exports:
            self.facts.append(
                facts.ChildrenExported(facts.CHILDREN_EXPORTED, self.now, key, run_id)
            )
        if self.chance.random() < self.failing:
            retry = self.chance.random() < 0.5
            self.facts.append(
                facts.Failed(
                    facts.FAILED, self.now, key, run_id, address, attempt.began, self.now, 0.0,
                    (), "ValueError", "no", "Traceback", None, retry,
                )
            )  # fmt: skip
            if retry:
                self.again(attempt)
        else:
            self.facts.append(
                (facts.SUCCEEDED, self.now, key, run_id, address, attempt.began, self.now, 0.0,
                 (), 28, "int", None)
            )  # fmt: skip

    def again(self, attempt: Attempt) -> None:
        self.ready.append(Pending(attempt.key, attempt.name, attempt.carrier, attempt.depth))

    def lose(self, worker: Worker) -> None:
        """A worker is killed: its open spans are never ended, nor is what waits there sent."""
        worker.outbox.empty()
        for attempt in [each for each in self.running if each.worker is worker]:
            self.running.remove(attempt)
            self.report_start(attempt)
            key = attempt.key
            self.facts.append(
                facts.Unassigned(
                    facts.UNASSIGNED, self.now, key, attempt.run_id, worker.address, "worker-lost"
                )
            )
            self.facts.append(facts.Waiting(facts.WAITING, self.now, key))
            self.again(attempt)

    def flush(self, worker: Worker) -> None:
        for _, fact in worker.outbox.empty():
            self.facts.append(facts.RelayBatch(*fact))

    def step(self) -> None:
        self.now += self.chance.random() * 0.05
        if self.ready and (len(self.running) < 8 or not self.running):
            self.begin()
        elif self.running:
            self.advance()
        if self.chance.random() < 0.05:
            self.flush(self.chance.choice(self.workers))


class Recording:
    """Ledger, relay and budget, put together as the recorder does it."""

    def __init__(self, limit: int, cluster: Cluster, *, writes: bool = False) -> None:
        self.writes = writes
        run, submissions = cluster.run, cluster.submissions
        resource = Resource({})
        self.root = span_context(1, 1)
        guard = Guard()
        self.submissions = submissions
        redact = Redactor()
        self.spans = SpanFactory(resource)
        self.ledger = Ledger(
            run,
            self.root,
            resource,
            provider="local",
            redact=redact,
            guard=guard,
            sends_spans=True,
            running_after=0.3,
        )
        self.relay = RelayDecoder(resource, redact=redact, log_level=0)
        self.ledger.on(facts.RELAY_SPANS, self.relay.take)
        self.router = SpanRouter(run, self.root, resource, limit)
        self.sent = Sent()
        shipper: Any = self.sent
        self.router.shippers.append(shipper)
        self.submission_spans = SubmissionSpans(
            run,
            "streams",
            self.root,
            self.spans,
            redact,
            self.ledger.tasks.graph_sizes,
            self.ledger.tasks.graphs,
            lambda span, context: self.write(encode_spans([span], RECORD_MAP)),
            self.router.send,
        )
        self.blocks = self.ledger.tasks.blocks
        self.block_ids: list[int] = []
        self.left: list[LeftSpan] = []
        #: What a run directory has of it.
        self.records: list[Record] = []
        #: Ids of all attempts that ended, and of those that the budget does not count.
        self.ended: set[int] = set()
        self.outside: set[int] = set()

    def take(self, batch: list[Any], now: float, *, drained: bool) -> None:
        self.open_blocks(now)
        self.ledger.take(batch, now)
        self.submitted(now, everything=False)
        self.emit()
        self.submission_spans.release(now, exact=True, drained=drained)
        self.blocks.tick(now, self.submission_spans.blocks(), exact=True)

    def open_blocks(self, now: float, *, everything: bool = False) -> None:
        opened, left = self.submissions.blocks(now, all_of_them=everything)
        self.left += left
        self.block_ids += [each.ids.span_id for each in self.blocks.open(opened, 0.0)]

    def emit(self) -> None:
        relayed = self.relay.drain().spans
        self.router.export_foreign(relayed)
        output = self.ledger.sink.drain()
        if self.writes:
            self.write(encode_spans(relayed, RECORD_MAP))
            for signals in output.batches:
                self.write(encode_logs(signals.logs, RECORD_MAP))
                self.write(encode_spans(signals.spans, RECORD_MAP))
        self.outside |= {span_id for _, span_id in output.exporting}
        for _, lineage in output.parents:
            if any(above.kind == EXPORTED for above in lineage):
                self.outside |= {above.span_id for above in lineage if above.kind == ATTEMPT}
        self.ended |= {
            span.context.span_id
            for signals in output.batches
            for span in signals.spans
            if span.context is not None and "dask.task.key" in (span.attributes or {})
        }
        self.router.export(output, self.submissions.opened())

    def write(self, files: Mapping[str, Sequence[Record]]) -> None:
        for records in files.values():
            self.records += records

    def submitted(self, now: float, *, everything: bool) -> None:
        ended = self.submissions.ended(now, all_of_them=everything)
        self.submission_spans.note(ended, 0.0, now, inf if everything else now)
        for each in ended:
            if each.block is not None:
                below = each.parent == each.block
                self.blocks.submitted(each.block, each.ids, each.last, below=below)
        self.blocks.leave(self.left)
        self.left.clear()

    def close(self, now: float, *, complete: bool, told: bool) -> dict[str, int]:
        """`told`: the program has said which submissions are complete, and was not killed."""
        self.ledger.close(now, complete=complete)
        if told:
            self.open_blocks(now, everything=True)
            self.submitted(now, everything=True)
        self.submission_spans.note((), 0.0, now, inf)
        self.emit()
        self.submission_spans.release(now, exact=complete, everything=True)
        self.blocks.close(exact=complete)
        self.emit()
        counts = self.router.settle()
        self.ledger.sink.add_span(self.spans.span("run", self.root, None, 1.0, now, {}))
        self.emit()
        return counts


def check(sent: list[ReadableSpan], outside: set[int], recording: Recording, limit: int) -> None:
    """`outside` are ids of spans that workers export, and may have lost."""
    ended = recording.ended
    seen = Counter(span.context.span_id for span in sent if span.context is not None)
    twice = [span.name for span in sent if span.context and seen[span.context.span_id] > 1]
    assert not twice
    ids = set(seen)
    for span in sent:
        parent = span.parent
        assert parent is None or parent.span_id in ids or parent.span_id in outside, span.name
        assert all(link.context.span_id in ids for link in span.links)
    by_trace: Counter[int] = Counter()
    summed = 0
    for span in sent:
        assert span.context is not None
        summed += (span.attributes or {}).get("dask.rollup.count", 0)  # type: ignore[operator]
        # A stand-in may have the id of an attempt that was left out.
        is_attempt = "scalable.stand_in" not in (span.attributes or {})
        by_trace[span.context.trace_id] += is_attempt and span.context.span_id in ended
    assert sum(by_trace.values()) + summed == len(ended)
    if not recording.outside:
        assert all(count <= limit for count in by_trace.values())


def check_sizes(sent: list[ReadableSpan], sizes: Counter[int]) -> None:
    """No submission says a number of tasks that is not its own."""
    for span in sent:
        size = (span.attributes or {}).get("dask.graph.tasks")
        assert span.context is not None
        assert size is None or size == sizes[span.context.span_id]


def check_blocks(recording: Recording) -> None:
    """Each block has one span, with the submissions in it, and its counts add up."""
    spans = {it.context.span_id: it for it in recording.sent.spans if it.context is not None}
    blocks = [it for it in spans.values() if "dask.span.blocks" in (it.attributes or {})]
    assert sorted(it.context.span_id for it in blocks if it.context) == sorted(recording.block_ids)
    for block in blocks:
        about: Any = block.attributes
        if "dask.span.tasks.known" in about:
            ends = ("succeeded", "failed", "cancelled")
            known = sum(about[f"dask.span.tasks.{end}"] for end in ends)
            assert about["dask.span.tasks.known"] == known
    for span in spans.values():
        parent = spans.get(span.parent.span_id) if span.parent is not None else None
        if parent in blocks:
            assert (span.start_time or 0) >= (parent.start_time or 0)


def run(cluster: Cluster, recording: Recording, *, complete: bool, told: bool) -> dict[str, int]:
    """Run tasks at random and record them; returns what the root says."""
    chance = cluster.chance
    for step in range(chance.choice((50, 400))):
        if step % chance.choice((40, 150)) == 0:
            cluster.submit_as_client()
        cluster.step()
        if chance.random() < 0.1:
            count = chance.randint(0, len(cluster.facts))
            batch = [cluster.facts.popleft() for _ in range(count)]
            recording.take(batch, cluster.now, drained=not cluster.facts)
    recording.take([*cluster.facts] if complete else [], cluster.now, drained=complete)
    return recording.close(cluster.now, complete=complete, told=told)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 40, 5_000])
def test_no_span_is_sent_without_its_parent(limit: int):
    for seed in range(20):
        chance = Random(1_000 * limit + seed)
        cluster = Cluster(chance)
        recording = Recording(limit, cluster)
        complete, told = chance.random() < 0.7, chance.random() < 0.7
        counts = run(cluster, recording, complete=complete, told=told)
        # Of attempts whose end nobody has told, the recorder does not know the children either.
        exported = cluster.exported if complete else []
        check([*recording.sent.spans, *exported], cluster.outside, recording, limit)
        check_sizes(recording.sent.spans, cluster.sizes)
        check_blocks(recording)
        assert counts["scalable.spans.sent"] <= len(recording.ended)


def test_no_span_is_sent_later_without_its_parent(tmp_path: Path):
    users = nested = left_out = 0
    for seed in range(30):
        chance = Random(seed)
        run_id = f"run-20260101T000000Z-seed-{seed:08d}"
        cluster = Cluster(chance, run_id)
        recording = Recording(0, cluster, writes=True)
        complete, told = chance.random() < 0.7, chance.random() < 0.7
        run(cluster, recording, complete=complete, told=told)
        builder = RunBuilder(tmp_path, run_id, trace_id=f"{1:032x}")
        lost = 0.02 * (seed % 3)  # what a recorder that was killed had not written
        builder.add(
            *(
                record
                for record in recording.records
                if record["event_type"] != "span" or chance.random() >= lost
            )
        )
        directory = builder.finish(10.0)
        known = attempts_of(directory)
        for limit in (None, 0, 1, 3, 40):
            taken = Taken()
            resent = resend(RunReader(directory), taken, span_budget=limit)
            assert not resent.left_out
            recording.ended, recording.outside = known, set()
            check(taken.spans, set(), recording, len(known) if limit is None else limit)
            if limit is None:
                assert resent.attempts == len(known)
                assert not resent.user_spans_left_out
                ids = {span.context.span_id for span in taken.spans if span.context is not None}
                assert known <= ids
            names = Counter(span.name for span in taken.spans)
            users += names["inner"] + names["user"]
            nested += sum("dask.submission.task" in (span.attributes or {}) for span in taken.spans)
            left_out += resent.user_spans_left_out
    assert users > 500
    assert nested > 50
    assert left_out > 100


def attempts_of(directory: Path) -> set[int]:
    """Ids of the attempts of a run, ended or not."""
    return {
        int(record["span_id"], 16)
        for record in RunReader(directory).records(TASKS)
        if "span_id" in record and record["state"] != "submitted"
    }
