"""A run as OpenLineage events (https://openlineage.io), sent by its own client.

The run has a START and a COMPLETE, FAIL or ABORT, and so have the tasks of each name, whose parent
is the run. There is no RUNNING: an event is sent once it is known how the run ended.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from scalable.provenance.gathered import Artifact, Gathered, Group

#: OpenLineage's own variable.
NAMESPACE_VARIABLE: Final = "OPENLINEAGE_NAMESPACE"
DEFAULT_NAMESPACE: Final = "scalable"
_PRODUCER: Final = "https://pypi.org/project/scalable-otel/"
_ENDS: Final[Mapping[str, str]] = {
    "completed": "COMPLETE",
    "cancelled": "ABORT",
    "failed": "FAIL",
    "lost": "FAIL",
}
_MAX_TEXT: Final = 2_000


def events_of(run: Gathered, namespace: str | None = None) -> Iterator[Any]:
    """Yield the events of a run that has ended, in the order of their sending.

    Parameters
    ----------
    run
        What the run did.
    namespace
        Namespace of its jobs. Default: ``OPENLINEAGE_NAMESPACE``, or `scalable`.

    Raises
    ------
    ImportError
        OpenLineage's client is not installed; the message names the extra.
    """
    space = namespace or os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE
    yield from _Events(run, space).all()


def send(run: Gathered, target: str | None, namespace: str | None = None) -> int:
    """Send the events of a run; returns their number.

    Parameters
    ----------
    run
        What the run did.
    target
        An address (``http://…``), or a file to which the events are appended as JSON lines.
        Default: as the client's own configuration says (``OPENLINEAGE_URL``, …).
    namespace
        As for :func:`events_of`.

    Raises
    ------
    ImportError
        OpenLineage's client is not installed; the message names the extra.
    Exception
        What the client raises if an event was not accepted.
    """
    events = list(events_of(run, namespace))
    client = _client(target)
    for event in events:
        client.emit(event)
    client.close()
    return len(events)


def is_configured() -> bool:
    """Whether OpenLineage's own variables say where to send events."""
    return any(
        name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
        or name.startswith("OPENLINEAGE__TRANSPORT")
        for name in os.environ
    )


def _client(target: str | None) -> Any:
    module = _import("openlineage.client.client")
    if target is None:
        return module.OpenLineageClient()
    if "://" in target:
        return module.OpenLineageClient(config={"transport": {"type": "http", "url": target}})
    path = str(Path(target).expanduser())
    settings = {"type": "file", "log_file_path": path, "append": True}
    return module.OpenLineageClient(config={"transport": settings})


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "OpenLineage's client is not installed: pip install 'scalable-otel[openlineage]'"
        ) from error


class _Events:
    """Makes the events of one run; used by one thread."""

    def __init__(self, run: Gathered, namespace: str) -> None:
        self._run = run
        self._namespace = namespace
        self._v2 = _import("openlineage.client.event_v2")
        self._facets = _import("openlineage.client.facet_v2")
        self._project = str(run.run.get("project_name") or "run")
        self._run_id = _uuid(run.run_id)

    def all(self) -> Iterator[Any]:
        run = self._run
        whole = self._event("START", run.started_at, self._run_id, self._job(), {})
        yield whole
        for name in run.names:
            yield from self._tasks(name, [group for group in run.groups if group.name == name])
        end = _ENDS[run.status]
        facets = self._error(run.why or f"The run was {run.status}.") if end == "FAIL" else {}
        inputs = {one.location or one.name: one for one in run.inputs()}
        outputs = {one.location or one.name: one for one in run.outputs()}
        yield self._event(
            end, run.ended_at, self._run_id, self._job(), facets, inputs.values(), outputs.values()
        )

    def _tasks(self, name: str, groups: list[Group]) -> Iterator[Any]:
        run = self._run
        parent = self._facets.parent_run
        facet = {
            "parent": parent.ParentRunFacet(
                run=parent.Run(runId=self._run_id),
                job=parent.Job(namespace=self._namespace, name=self._project),
                producer=_PRODUCER,
            )
        }
        run_id = _uuid(f"{run.run_id}/{name}")
        job = self._job(name)
        began = min((group.first_at for group in groups if group.first_at), default=run.started_at)
        ended = max((group.last_at for group in groups if group.last_at), default=run.ended_at)
        yield self._event("START", began, run_id, job, facet)
        states = {group.state: group.count for group in groups}
        told = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
        if states.get("failed") or states.get("unknown"):
            facet |= self._error(f"Tasks of {name}: {told}.")
            end = "FAIL"
        else:
            end = "COMPLETE" if states.get("succeeded") else "ABORT"
        yield self._event(
            end, ended, run_id, job, facet, list(run.inputs(name)), list(run.outputs(name))
        )

    def _event(
        self,
        state: str,
        at: str,
        run_id: str,
        job: Any,
        facets: Mapping[str, Any],
        inputs: Any = (),
        outputs: Any = (),
    ) -> Any:
        v2 = self._v2
        engine = self._facets.processing_engine_run.ProcessingEngineRunFacet(
            version=self._run.packages.get("distributed") or "unknown",
            name="dask",
            producer=_PRODUCER,
        )
        return v2.RunEvent(
            eventType=getattr(v2.RunState, state),
            eventTime=at,
            run=v2.Run(runId=run_id, facets={"processing_engine": engine, **facets}),
            job=job,
            producer=_PRODUCER,
            inputs=[self._dataset(v2.InputDataset, one) for one in inputs],
            outputs=[self._dataset(v2.OutputDataset, one) for one in outputs],
        )

    def _job(self, name: str = "") -> Any:
        facets: dict[str, Any] = {
            "jobType": self._facets.job_type_job.JobTypeJobFacet(
                processingType="BATCH",
                integration="DASK",
                jobType="TASK" if name else "JOB",
                producer=_PRODUCER,
            )
        }
        code = self._run.code
        if code.get("code_identifier_type") == "git" and code.get("code_identifier_url"):
            location = self._facets.source_code_location_job
            facets["sourceCodeLocation"] = location.SourceCodeLocationJobFacet(
                type="git",
                url=str(code["code_identifier_url"]),
                version=str(code.get("code_identifier") or ""),
                branch=str(code.get("branch") or "") or None,
                producer=_PRODUCER,
            )
        full = f"{self._project}.{name}" if name else self._project
        return self._v2.Job(namespace=self._namespace, name=full, facets=facets)

    def _error(self, message: str) -> dict[str, Any]:
        made = self._facets.error_message_run.ErrorMessageRunFacet(
            message=message[:_MAX_TEXT], programmingLanguage="PYTHON", producer=_PRODUCER
        )
        return {"errorMessage": made}

    def _dataset(self, kind: Any, one: Artifact) -> Any:
        """A file by OpenLineage's rules of naming: the scheme and host, and the path."""
        scheme, separator, rest = one.location.partition("://")
        if not separator:
            return kind(namespace="file", name=one.location or one.name)
        host, _, path = rest.partition("/")
        return kind(namespace=f"{scheme}://{host}", name=path or "/")


def _uuid(text: str) -> str:
    """A run's id by OpenLineage's rules; the same at each export, so that none is there twice."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_PRODUCER}#{text}"))
