"""What attempts were called with and what they returned, until they end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from scalable import facts
from scalable.facts.parameters import Description, Level
from scalable.facts.relay_items import CallItem
from scalable.telemetry import semconv
from scalable.telemetry.ledger.task import Task
from scalable.telemetry.parameters import read_parameters
from scalable_runs.redact import Redactor

#: Attempts of which something is kept at most, and metrics of one.
MAX_KEPT: Final = 10_000
MAX_METRICS: Final = 20

_Key = tuple[str, int]


class DescribedCalls:
    """Keeps descriptions of running attempts; called by the recorder's thread only."""

    def __init__(self, tasks: Mapping[str, Task], redact: Redactor) -> None:
        self._tasks = tasks
        self._redact = redact
        #: Of which attempts the run wants them.
        self.level: Level = "failed"
        #: By task and Dask's number of the attempt: attributes of its span.
        self.kept: dict[_Key, dict[str, Any]] = {}
        #: The last value of each metric that an attempt has recorded.
        self._metrics: dict[_Key, dict[str, float]] = {}
        #: Items that came too late or were too many.
        self.dropped = 0

    def take(self, fact: facts.RelayBatch) -> None:
        """Keep what a worker reports of attempts that are about to succeed."""
        self.dropped += fact.dropped
        if self.level in ("off", "failed"):
            return
        items: list[CallItem] = orjson.loads(fact.payload)["items"] if fact.number else []
        for item in items:
            found = self._kept_of((item["task"], item["run_id"]))
            if found is not None:
                for name, entries in (
                    (semconv.INPUT_PARAMETERS, item["inputs"]),
                    (semconv.OUTPUT_PARAMETERS, item["outputs"]),
                ):
                    if read := read_parameters(orjson.dumps(entries), self._redact):
                        found[name] = read

    def note_metric(self, fact: facts.UserEvent, name: str, value: float) -> None:
        """Keep the last value of a metric that the code of an attempt has recorded."""
        if fact.key is None or fact.run_id is None or self.level == "off":
            return
        of = fact.key, fact.run_id
        if self._kept_of(of) is not None:
            metrics = self._metrics.setdefault(of, {})
            if name in metrics or len(metrics) < MAX_METRICS:
                metrics[name] = value

    def pop(self, task: Task) -> dict[str, Any]:
        """Remove and return what is known of the attempt of a task that ends, as attributes."""
        of = task.key, task.run_id
        found = self.kept.pop(of, {})
        metrics = self._metrics.pop(of, {})
        if metrics:
            outputs: list[Description] = list(found.get(semconv.OUTPUT_PARAMETERS, ()))
            outputs += [
                {"name": name, "kind": "metric", "value": value} for name, value in metrics.items()
            ]
            found[semconv.OUTPUT_PARAMETERS] = outputs
        return found

    def _kept_of(self, of: _Key) -> dict[str, Any] | None:
        """What is kept of an attempt; None if it has ended."""
        key, run_id = of
        task = self._tasks.get(key)
        if task is not None and (
            run_id < task.run_id or (run_id == task.run_id and not task.running)
        ):
            self.dropped += 1
            return None
        found = self.kept.setdefault(of, {})
        if len(self.kept) > MAX_KEPT:
            oldest = next(iter(self.kept))
            self.kept.pop(oldest)
            self._metrics.pop(oldest, None)
            self.dropped += 1
        return found
