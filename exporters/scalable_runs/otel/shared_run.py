"""The run of the exporters of a process that were given none."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any, Final

from opentelemetry.sdk.resources import Resource

from scalable_runs.fields import fields_of
from scalable_runs.plain import iso
from scalable_runs.problems import Problem
from scalable_runs.redact import Redactor
from scalable_runs.rundoc import as_found, new_run_id, run_document
from scalable_runs.schema import DECLARATION_OF, Record
from scalable_runs.summary import RunSummary
from scalable_runs.writer import RunWriter

_logger = logging.getLogger("scalable_runs.otel.exporter")

_RUNS_DIR_VARIABLE: Final = "SCALABLE_RUNS_DIR"
_DEFAULT_RUNS_DIR: Final = ".scalable/runs"
_PROVIDER: Final = "opentelemetry"


class SharedRun:
    """Made at the first export, and closed by the last exporter; any thread may call it."""

    def __init__(self) -> None:
        self.writer: RunWriter | None = None
        self._summary = RunSummary()
        self._resource: Resource | None = None
        self._redact = Redactor()
        self._users: set[object] = set()
        #: What the exporters in use say of the run to be made.
        self._runs_dir: str | None = None
        self._project: str | None = None
        self._lock = threading.Lock()
        self._warned = False

    def join(
        self, user: object, runs_dir: str | os.PathLike[str] | None, project: str | None
    ) -> None:
        """Note an exporter that may use the run, and what it says of it; the first is heard."""
        with self._lock:
            self._users.add(user)
            if runs_dir is not None:
                self._runs_dir = self._runs_dir or os.fspath(runs_dir)
            self._project = self._project or project

    def open(self, resource: Resource | None) -> tuple[RunWriter, Resource | None] | None:
        """Return the run and its resource, made now if there is none; None if that fails."""
        with self._lock:
            if self.writer is None:
                try:
                    self._redact = Redactor.from_environment(os.environ)
                    self.writer = _create_run(resource, self._redact, self._runs_dir, self._project)
                except OSError as error:
                    if not self._warned:
                        self._warned = True
                        _logger.warning("Signals are not recorded: no run directory: %s", error)
                    return None
                self._resource = resource
                self._summary = RunSummary()
            return self.writer, self._resource

    def append(self, writer: RunWriter, file: str, records: Sequence[Record]) -> int:
        """Append and sum up together: the summary needs the records in their order."""
        records = [_redacted(record, file, self._redact) for record in records]
        with self._lock:
            if writer is self.writer:
                self._summary.add_all(file, records)
            return writer.append(file, records)

    def leave(self, user: object) -> None:
        """Close the run if no other exporter may use it."""
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
            self._runs_dir = self._project = None
            if self.writer is None:
                return
            writer, self.writer, self._resource = self.writer, None, None
            summary = self._summary
        writer.close(summary.document, status="completed", finished_at=iso(time()))

    def forget(self) -> None:
        """In a forked child: the run is the parent's, and its lock may never be released."""
        self.writer = None
        self._resource = None
        self._lock = threading.Lock()


shared_run: Final = SharedRun()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared_run.forget)


def _redacted(record: Record, file: str, redact: Redactor) -> dict[str, Any]:
    fields = fields_of(DECLARATION_OF[file])
    return {
        name: redact.value(value, name) if name not in fields or fields[name].redacted else value
        for name, value in record.items()
    }


def _create_run(
    resource: Resource | None, redact: Redactor, runs_dir: str | None, project: str | None
) -> RunWriter:
    attributes = redact.attributes(resource.attributes) if resource is not None else {}
    project = redact(project or str(attributes.get("service.name") or "unknown_service"))
    directory = runs_dir or os.environ.get(_RUNS_DIR_VARIABLE) or _DEFAULT_RUNS_DIR
    started = time()
    found = as_found(project, _PROVIDER)
    return RunWriter.create(
        Path(directory).expanduser(),
        run_document(
            new_run_id(project, started),
            project=project,
            target=found.target,
            provider=_PROVIDER,
            lock=found.lock,
            started=started,
            trace_id="",
            environment={"resource": attributes},
        ),
        manifest=found.manifest,
        plan=found.plan,
        lock=f"{found.lock}\n",
        on_problem=_warn,
    )


def _warn(problem: Problem) -> None:
    _logger.warning("The record of this run may be incomplete: %s", problem.message)
