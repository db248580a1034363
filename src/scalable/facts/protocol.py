"""Names under which client, scheduler, workers, nannies and recorder find each other."""

from __future__ import annotations

from typing import Final

#: Name of the annotation that carries a run's id and the OTel context to every task: the *carrier*,
#: made by :func:`carrier_of` and read by :func:`carried`.
ANNOTATION: Final = "scalable"
#: RPC of the scheduler by which a recorder pulls facts.
PULL_OP: Final = "scalable_pull"
#: RPC of the scheduler by which a client takes the plugins of its run away.
LEAVE_OP: Final = "scalable_leave"
#: Among the errors that a pull brings: graphs that the client sent and the scheduler took none in.
GRAPHS_UNSEEN: Final = "graphs_unseen"
#: Name of the worker plugin; one serves all runs of a scheduler.
WORKER_PLUGIN_NAME: Final = "scalable"
#: Entry of a worker's heartbeat: bytes that it sent to other workers since it began.
SENT_METRIC: Final = "scalable-sent"
#: Entry of what Dask reports of an execution, beside its start and stop: CPU seconds of the task's
#: thread; the name is that of Dask's own metric.
THREAD_CPU: Final = "thread-cpu"
#: Stream message by which the scheduler tells a worker what its runs want.
CONFIG_OP: Final = "scalable-config"
#: RPC of a worker by which it hands over at once what its code has recorded.
FLUSH_OP: Final = "scalable_flush"
#: RPC of the scheduler by which a client has the workers asked for that.
DRAIN_OP: Final = "scalable_drain"
#: Stream message by which a worker hands its facts to the scheduler.
STREAM_OP: Final = "scalable-facts"
#: RPC of the scheduler by which a nanny hands its facts in.
NANNY_OP: Final = "scalable_nanny"
#: Name of the nanny plugin; one serves all runs of a scheduler.
NANNY_PLUGIN_NAME: Final = "scalable-nanny"

#: Key of the carrier under which a client says what its tasks asked for, as JSON text:
#: ``[component, tag, workers]``.
PLACEMENT: Final = "placement"
