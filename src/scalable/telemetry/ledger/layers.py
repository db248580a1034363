"""Spans between a submission and its attempts: one for each layer of the graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import isfinite
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.facts.identity import SUBMISSION, Above
from scalable.telemetry import semconv
from scalable.telemetry.ledger.carriers import Carried
from scalable.telemetry.ledger.layer import Layer
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.task import Task
from scalable.telemetry.signals.rollups import ROLLUP_BOUNDS

#: Seconds after its last attempt when the span of a layer is sent: a lost result is often found to
#: be lost at once.
LINGER: Final = 0.5
#: Layers that further tasks may join.
MAX_LAYERS: Final = 10_000


class Layers:
    """Follows the layers of one run's graphs; called by the recorder's thread only.

    Only graphs whose carrier says so have layers: single submits have none.
    """

    def __init__(self, sink: SignalSink, shown: Callable[[str], str], *, sends_spans: bool) -> None:
        self._sink = sink
        #: Returns a task's key as it is recorded.
        self._shown = shown
        self._sends_spans = sends_spans
        self._layers: OrderedDict[tuple[int, str], Layer] = OrderedDict()
        #: Layers with a span that was not sent yet, by its id, and the end of the last attempt.
        self._unsent: dict[int, tuple[Layer, float]] = {}

    def enter(self, task: Task, found: Carried) -> bool:
        """A task was submitted; returns whether it is the first one of its layer."""
        parent = found.parent
        if parent is None or not found.has_layers:
            return False
        group = _group_of(task.shown, task.name)
        key = (parent[1], group)
        layer = self._layers.get(key)
        is_new = layer is None
        if layer is None:
            by = "" if found.sent is None else self._shown(found.sent.task)
            layer = self._layers[key] = Layer(group, task.name, parent, found.lineage, by)
            if len(self._layers) > MAX_LAYERS:
                self._layers.popitem(last=False)
        layer.open += 1
        task.layer = layer
        return is_new

    def parent_of(self, task: Task) -> SpanContext | None:
        """Parent span of a task's attempts; None: the run's root."""
        layer = task.layer
        if layer is None:
            return task.parent
        if layer.is_used is None:
            # The scheduler reports all tasks of a graph before the end of any of them.
            layer.is_used = layer.tasks > 1
        if not layer.is_used:
            return task.parent
        if layer.ids is None:
            name = f"layer {layer.parent[1]:016x} {layer.group}"
            ids = layer.ids = self._sink.ids(name, layer.number, layer.parent)
            self._unsent[ids[1]] = layer, task.start
            if self._sends_spans:
                above = (Above(SUBMISSION, ids[1]), *layer.lineage) if layer.lineage else ()
                self._sink.output.parents.append((ids, above))
        return layer.ids

    def attempt(self, task: Task, span: ReadableSpan, state: str, stop: float) -> None:
        """An attempt with the parent of :meth:`parent_of` has ended."""
        layer = task.layer
        if layer is None or layer.ids is None:
            return
        layer.rollup.add(span)
        if state in ("retried", "lost"):
            layer.states[state] += 1
        _, last = self._unsent[layer.ids[1]]
        self._unsent[layer.ids[1]] = layer, max(last, stop)

    def tick(self, now: float) -> None:
        """Send the spans of layers whose tasks have ended."""
        for layer, last in list(self._unsent.values()):
            if layer.open <= 0 and now - last >= LINGER:
                self._send(layer, last)

    def close(self) -> None:
        """The run ends: send all spans."""
        for layer, last in list(self._unsent.values()):
            self._send(layer, last)

    def _send(self, layer: Layer, last: float) -> None:
        ids, rollup, states = layer.ids, layer.rollup, layer.states
        if ids is None:
            return
        del self._unsent[ids[1]]
        attributes = {
            semconv.LAYER_NAME: layer.group,
            semconv.TASK_NAME: layer.name,
            semconv.LAYER_TASKS: layer.tasks,
            semconv.LAYER_ATTEMPTS: rollup.count,
            semconv.LAYER_SUCCEEDED: states["succeeded"],
            semconv.LAYER_FAILED: states["failed"],
            semconv.LAYER_CANCELLED: states["cancelled"],
            semconv.LAYER_RETRIED: states["retried"],
            semconv.LAYER_LOST: states["lost"],
        }
        if layer.task:
            attributes[semconv.SUBMIT_TASK] = layer.task
        if rollup.count:
            attributes |= {
                semconv.ROLLUP_SUM: round(rollup.total, 6),
                semconv.ROLLUP_MIN: round(rollup.low, 6),
                semconv.ROLLUP_MAX: round(rollup.high, 6),
                semconv.ROLLUP_BOUNDS: ROLLUP_BOUNDS,
                semconv.ROLLUP_BUCKETS: tuple(rollup.buckets),
            }
        first = rollup.first if isfinite(rollup.first) else last
        name = semconv.SPAN_LAYER.format(name=layer.name)
        span = self._sink.span(name, ids, layer.parent, first, max(first, last), attributes)
        self._sink.add_span(span)
        layer.begin_again()


def _group_of(key: str, name: str) -> str:
    """Name of Dask's group of a task: what a key ``('sum-1f…', 0)`` begins with, or its name."""
    if key.startswith("('"):
        end = key.find("'", 2)
        if end > 0:
            return key[2:end]
    return name
