"""The tasks of a recorder that died, restored from their lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.trace import SpanContext

from scalable import facts
from scalable.facts.identity import attempt_span_id
from scalable.telemetry.ledger.carriers import CarrierReader
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.task import Task
from scalable.telemetry.ledger.tasks import TaskBook
from scalable_runs.plain import seconds_of
from scalable_runs.schema import FINAL_STATES

#: Facts with a task's key and Dask's number of the attempt at the same places.
_OF_ATTEMPTS: Final = frozenset({facts.STARTED, facts.SUCCEEDED, facts.FAILED, facts.UNASSIGNED})


class RestoredTasks:
    """Restores tasks and their attempts; called by the recorder's thread only."""

    def __init__(self, sink: SignalSink, book: TaskBook, carriers: CarrierReader) -> None:
        self._sink = sink
        self._book = book
        self._carriers = carriers
        #: Span id of each running attempt: its line does not have Dask's number.
        self.unmatched: dict[str, int] = {}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the state of a task from a line of tasks.jsonl; makes no signal."""
        key, state = record["task_id"], record["state"]
        if state == "submitted":
            task = self._book.tasks[key] = Task(key, key, record["task_name"], None)
            task.function = record.get("function_name")
            asked = [record.get(name) for name in ("component", "tag", "requested_workers")]
            task.placement = self._carriers.placement(*asked) if any(asked) else None
            task.special = task.function is not None or task.placement is not None
            return
        task = self._book.get(key)
        task.attempt = record["attempt"]
        if record.get("recomputed"):
            task.special = task.recomputed = True
        task.running = state == "running"
        if task.running:
            task.start = seconds_of(record["timestamp"])
            task.worker = record.get("worker", "")
            trace_id, span_id = int(record["trace_id"], 16), int(record["span_id"], 16)
            task.ids = SpanContext(trace_id, span_id, False, self._sink.root[3])
            self.unmatched[key] = span_id
            return
        self.unmatched.pop(key, None)
        if state in FINAL_STATES:
            task.final = state
            if state == "failed" and "error_type" in record:
                error_type = record["error_type"]
                error_class = record.get("error_class") or error_type
                self._book.errors[key] = (error_type, error_class, record.get("error_message", ""))

    def match(self, fact: Any) -> None:
        """Find Dask's number of a restored attempt, which determines the span's id."""
        kind = fact[0]
        if kind in _OF_ATTEMPTS:
            pairs = ((fact[2], fact[3]),)
        elif kind == facts.WORKER_GONE:
            pairs = fact.assigned
        else:
            return
        for key, run_id in pairs:
            span_id = self.unmatched.get(key)
            if span_id is not None and span_id == attempt_span_id(self._sink.run, key, run_id):
                self._book.tasks[key].run_id = run_id
                del self.unmatched[key]
