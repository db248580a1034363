"""Names that client, scheduler, workers, nannies and recorder share."""

from __future__ import annotations

from typing import Final

#: The annotation that carries a run's id and OpenTelemetry context to each task: the *carrier*,
#: made by :func:`~scalable.facts.identity.carrier_of`.
ANNOTATION: Final = "scalable"
#: RPC of the scheduler with which a recorder pulls facts.
PULL_OP: Final = "scalable_pull"
#: RPC of the scheduler with which a client removes the plugins of its run.
LEAVE_OP: Final = "scalable_leave"
#: Among the errors of a pull: graphs that the client sent and the scheduler did not receive.
GRAPHS_UNSEEN: Final = "graphs_unseen"
#: Name of the worker plugin; one serves all runs of a scheduler.
WORKER_PLUGIN_NAME: Final = "scalable"
#: Entry of a worker's heartbeat: bytes that it has sent to other workers.
SENT_METRIC: Final = "scalable-sent"
#: Entry of Dask's report of an execution, beside its start and stop: CPU seconds of the task's
#: thread. The name is that of Dask's own metric.
THREAD_CPU: Final = "thread-cpu"
#: Another entry: seconds to add to that start and stop. Dask has moved them by its last measurement
#: of the scheduler's clock, or not at all. Left out where there is nothing to add.
CLOCK_SHIFT: Final = "scalable-shift"
#: Stream message with which the scheduler sends a worker the settings of its runs.
CONFIG_OP: Final = "scalable-config"
#: RPC of a worker that returns at once what its code has recorded.
FLUSH_OP: Final = "scalable_flush"
#: RPC of the scheduler that calls :data:`FLUSH_OP` on all workers.
DRAIN_OP: Final = "scalable_drain"
#: RPC of the scheduler with which a client sends source texts; the answer is their number.
SOURCES_OP: Final = "scalable_sources"
#: Stream message with which a worker sends its facts to the scheduler, and a client source texts.
STREAM_OP: Final = "scalable-facts"
#: RPC of the scheduler with which a nanny sends its facts.
NANNY_OP: Final = "scalable_nanny"
#: Name of the nanny plugin; one serves all runs of a scheduler.
NANNY_PLUGIN_NAME: Final = "scalable-nanny"

#: Key of the carrier that holds what its tasks asked for, as JSON text:
#: ``[component, tag, workers]``.
PLACEMENT: Final = "placement"
#: Key of the carrier that holds the entries of baggage that are attributes of its tasks' spans.
LABELS: Final = "labels"
#: Key of the carrier that asks for its context in the environment of processes that tasks start.
ENVIRONMENT: Final = "environment"
#: Key of the carrier that says of which attempts the printed output is kept, unless it is that of
#: the failed ones: a level of :mod:`scalable.common.output_levels`.
OUTPUT: Final = "output"
#: Key of the carrier that says of which attempts arguments and results are described, unless it is
#: that of the failed ones: a level of :mod:`scalable.facts.parameters`.
PARAMETERS: Final = "parameters"
#: Key of the carrier with the spans above a nested submission, the nearest first, as
#: :func:`~scalable.facts.identity.lineage_of` reads them.
LINEAGE: Final = "above"
#: Key of the carrier of a graph that a task sent: what for, as
#: :class:`~scalable.facts.graphs.TaskRequest` has it. The carrier's span is that of the submission.
SENT: Final = "sent"
#: Key of the carrier of what was submitted where instrumentation is suppressed: it is recorded, and
#: sent nowhere.
SUPPRESSED: Final = "suppressed"
#: Type of the event with which a worker sends a part of the call of an attempt that failed.
FAILED_CALL: Final = "failed_call"
#: Entry of Dask's report of an execution: its code opened spans that the worker itself exports.
EXPORTS_CHILDREN: Final = "scalable-children"
#: Key of the carrier with the place of the data catalog.
CATALOG: Final = "catalog"
#: Key of the carrier of a graph whose layers have spans of their own.
LAYERS: Final = "layers"
#: Key of the carrier of a graph in Dask's own spans: their names and ids, outermost first.
DASK_SPANS: Final = "spans"
#: Key of the carrier of a graph in a block of ``distributed.span()``: id of the block's span.
BLOCK: Final = "block"
