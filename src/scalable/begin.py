"""Creates the parts of a run: its directory, recorder, connection to the cluster and services.

This module imports what the program needs for a run, and so is imported only when a run begins. The
recorder's own modules, and those of the upload of crash logs, are imported where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, cast

import dask.config
from opentelemetry import baggage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.id_generator import IdGenerator

from scalable.again.settings import keep_settings
from scalable.catalog.places import DEFAULT, place_to_tell
from scalable.code.containers import own_container
from scalable.code.environment import OwnSettings
from scalable.code.program import program_places
from scalable.common.carriers import chosen_baggage
from scalable.common.environment_carriers import read_environment
from scalable.common.options import RecorderOptions, Settings
from scalable.documents import RunDocuments, command, environment, packages, provider_of
from scalable.facts import FactSource
from scalable.instrumentation.connection import ClusterConnection
from scalable.instrumentation.fact_sources import NoSource
from scalable.telemetry.configuration.ids import find_id_generator, random_flag
from scalable.telemetry.configuration.resource import container_attributes, make_resource
from scalable.telemetry.configuration.routes import Routes, find_routes
from scalable.telemetry.process.process import RecorderProcess
from scalable.telemetry.process.spawning import Process
from scalable.telemetry.recorder.run_roots import RunIdentity
from scalable.telemetry.signals.spans import current_span, plain_ids
from scalable.telemetry.submissions.submissions import Submissions
from scalable_runs.redact import Redactor
from scalable_runs.rundoc import as_found, run_document
from scalable_runs.sharing import new_writer_name
from scalable_runs.stores.base import Store
from scalable_runs.stores.places import BUFFERED, StoreSpec, store_of
from scalable_runs.stores.shared import SharedRoot

if TYPE_CHECKING:
    from distributed import Client
    from distributed.diagnostics.plugin import WorkerPlugin

    from scalable.crash_upload.uploads import CrashUploads
    from scalable.telemetry.deaths.deaths import OnDeath
    from scalable.telemetry.recorder.own_environment import OwnEnvironment
    from scalable.telemetry.recorder.recorder import Recorder
    from scalable.telemetry.recorder.run_code import RunCode
    from scalable_runs.writer import RunWriter


@dataclass(frozen=True, slots=True)
class Substitutes:
    """Replacements for a test: of the clock, the ids, the cluster and the disk."""

    #: Returns the time in seconds since the epoch.
    clock: Callable[[], float] = time
    #: By default the configured generator's, else random.
    ids: IdGenerator | None = None
    #: Where facts come from; by default the client's cluster.
    source: FactSource = field(default_factory=NoSource)
    #: Where the run is written; by default its directory.
    store: Store | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """The parts of a run that is being recorded."""

    run_id: str
    trace_id: str
    settings: Settings
    client: Client | None
    #: None without a client: a session that did not start.
    connection: ClusterConnection | None
    recorder: Recorder | RecorderProcess
    uploads: CrashUploads | None

    #: The run, for this process to read.
    store: Store
    #: What this program writes of it: all, or its part.
    part: Store

    @property
    def run_dir(self) -> Path | None:
        """The run's directory on this machine, if it has one."""
        return self.recorder.run_dir

    @property
    def location(self) -> str:
        """Where the run is, for people."""
        return self.recorder.location


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a recorder is made of, in this process or its own."""

    identity: RunIdentity
    #: Arguments of :meth:`RunWriter.create`: plain values.
    files: dict[str, Any]
    #: The run, for this process.
    store: Store
    settings: Settings
    resource: Resource
    submissions: Submissions
    redact: Redactor
    routes: Routes
    warn: Callable[[str], None]
    clock: Callable[[], float]
    #: Where the program has its own code.
    code: Sequence[str]


def begin(
    run_id: str,
    started: float,
    client: Client | None,
    settings: Settings,
    documents: RunDocuments | None,
    *,
    process: Process | None,
    warn: Callable[[str], None],
    undo: ExitStack,
    substitutes: Substitutes | None = None,
) -> Recording:
    """Begin to record; `client` is None for a session that did not start.

    Without `documents` the run is described as found. `undo` gets what must be undone if this
    function or its caller fails. Raises OSError if the run's directory cannot be created.
    """
    using = substitutes or Substitutes()
    values = {} if documents is None else documents.values
    redact = Redactor.from_environment(
        os.environ, dask.config.config, values, settings.secrets, off=settings.redact_off
    )
    routes = _routes(settings, warn)
    ids = using.ids or find_id_generator(routes.environ, routes.id_generator, warn)
    started_in = read_environment(os.environ, warn)
    writer = new_writer_name() if settings.place.shared and using.store is None else ""
    # On a cluster, and in ids of spans: several writers of a run may have the same tasks.
    key = f"{run_id}.{writer}" if writer else run_id
    submissions = Submissions(
        key,
        routes.sample,
        ids=ids,
        clock=using.clock,
        inherited=baggage.get_all(started_in),
        labels=settings.baggage_attributes,
        environment=settings.task_environment,
        # Tasks find the default place by themselves.
        catalog=place_to_tell(settings.catalog) if settings.catalog != DEFAULT else None,
        output=settings.task_output,
        parameters=settings.parameters,
    )
    connection = None
    if client is not None:
        connection = ClusterConnection(
            client,
            key,
            scope=settings.scope,
            sample_interval=settings.sample_interval,
            log_level=settings.log_level,
            carrier=submissions.carrier,
            blocks=submissions,
            problem=warn,
            uses_files=settings.place.type != BUFFERED,
            plugins=_keeping_plugins(key, run_id, settings),
        )
    if documents is None:
        documents = _as_found(settings, client, connection)
    parent = current_span(started_in)
    identity = RunIdentity(
        run_id,
        redact.short(settings.project),
        documents.provider,
        ids.generate_trace_id() if parent is None else parent.trace_id,
        ids.generate_span_id(),
        started,
        random_flag(ids) if parent is None else 0,
        None if parent is None else plain_ids(parent),
        chosen_baggage(settings.baggage_attributes, started_in),
        documents.components,
        writer,
        ids.generate_span_id() if writer else 0,
    )
    files = _files(identity, settings, documents, redact)
    store = using.store or store_of(settings.place, run_id, writer or None)
    parts = _Parts(
        identity,
        files,
        store,
        settings,
        make_resource(
            run_id,
            identity.project,
            redact,
            routes.resource,
            container_attributes(own_container()),
        ),
        submissions,
        redact,
        routes,
        warn,
        using.clock,
        program_places(documents.manifest_path),
    )
    recorder = _recorder(parts, process, undo)
    if connection is not None:
        undo.callback(connection.disconnect, recorder.guard)
        connection.connect()
    uploads = _uploads(parts)
    recorder.start(
        connection.source if connection is not None else using.source,
        None if uploads is None else _submit_to(uploads),
    )
    undo.callback(recorder.close, "failed", settings.close_timeout)
    trace_id = f"{recorder.identity.trace_id:032x}"
    run_store = _whole(settings.place, run_id) if writer else store
    return Recording(
        run_id, trace_id, settings, client, connection, recorder, uploads, run_store, store
    )


def _keeping_plugins(run: str, run_id: str, settings: Settings) -> tuple[WorkerPlugin, ...]:
    """Return the plugins of the workers of a run that keeps results or failed calls."""
    found = keep_settings(run, run_id, settings)
    if found is None:
        return ()
    from scalable.again.worker_plugin import KeepingPlugin

    return (KeepingPlugin(*found),)


def _whole(place: StoreSpec, run_id: str) -> Store:
    """Return a run that several programs write, as far as it is on this machine."""
    return cast("SharedRoot", place.writing()).run(run_id)


def _routes(settings: Settings, warn: Callable[[str], None]) -> Routes:
    return find_routes(
        os.environ,
        warn,
        tracer_provider=settings.tracer_provider,
        meter_provider=settings.meter_provider,
        logger_provider=settings.logger_provider,
    )


def _as_found(
    settings: Settings, client: Client | None, connection: ClusterConnection | None
) -> RunDocuments:
    provider = provider_of(client)
    found = as_found(settings.project, provider, connection.workers() if connection else ())
    return RunDocuments(
        found.target, provider, found.manifest, found.lock, None, found.plan, {}, {}
    )


def _files(
    identity: RunIdentity, settings: Settings, documents: RunDocuments, redact: Redactor
) -> dict[str, Any]:
    run = run_document(
        identity.run_id,
        project=identity.project,
        target=documents.target,
        provider=identity.provider,
        lock=documents.lock,
        started=identity.started,
        trace_id=f"{identity.trace_id:032x}",
        environment={**environment(), "command": command(redact)},
        manifest_path=documents.manifest_path,
    )
    if settings.retry_of is not None:
        run["retry_of"] = settings.retry_of
    if (kept := keep_settings(identity.run_id, identity.run_id, settings)) is not None:
        run["kept"] = kept.document()
    if identity.writer:
        run["root_span_id"] = f"{identity.root_span_id:016x}"
    return {
        "runs_dir": settings.place.plain(),
        "run": redact.attributes(run),
        "manifest": redact(documents.manifest),
        "plan": redact.attributes(documents.plan),
        "lock": f"{documents.lock}\n",
        "writer": identity.writer or None,
        "common": identity.common() if identity.writer else None,
    }


def _recorder(
    parts: _Parts, process: Process | None, undo: ExitStack
) -> Recorder | RecorderProcess:
    """Create the recorder in `process` if the settings allow it, else in this one."""
    given = parts.settings.given
    if process is not None:
        if parts.routes.portable and given is None:
            recorder = RecorderProcess.begin(
                process,
                parts.files,
                parts.identity,
                parts.submissions,
                _portable_options(parts),
                parts.warn,
            )
            if recorder is not None:
                return recorder
        process.end()
    if given is not None and given.type != BUFFERED and parts.settings.recorder == "process":
        parts.warn(
            f"the run store is an object of this program ({given.type}), so the recorder is a "
            "thread of it; with a URL or a mapping it is a process of its own"
        )
    # Not at the top: where a process records, the program never needs these, and they are as many
    # as all others.
    from scalable.telemetry.recorder.copies import start_copies
    from scalable.telemetry.recorder.recorder import Recorder
    from scalable_runs.writer import RunWriter

    identity = parts.identity
    place = parts.settings.place if identity.writer else parts.store
    files: dict[str, Any] = {**parts.files, "runs_dir": place}
    writer = RunWriter.create(**files, on_problem=lambda problem: parts.warn(problem.message))
    undo.callback(writer.close, status="failed")
    return Recorder(
        identity if writer.shared is None else identity.joined(writer.shared.run),
        writer,
        parts.resource,
        parts.submissions,
        redact=parts.redact,
        warn=parts.warn,
        routes=parts.routes,
        options=parts.settings,
        copies=start_copies(
            parts.settings.copy, writer, parts.warn, keep=_is_read_after(parts.settings)
        ),
        code=_code(parts, writer),
        environment=_environment(parts, writer),
        clock=parts.clock,
    )


def _code(parts: _Parts, writer: RunWriter) -> RunCode:
    """Begin to look up the program's code."""
    from scalable.telemetry.recorder.run_code import RunCode

    code = RunCode(parts.code, writer, parts.redact, with_patch=parts.settings.code_patch)
    code.start()
    return code


def _environment(parts: _Parts, writer: RunWriter) -> OwnEnvironment | None:
    """Begin to find out what the program runs with, if that is wanted."""
    if not parts.settings.environment:
        return None
    from scalable.telemetry.recorder.own_environment import OwnEnvironment

    environment = OwnEnvironment(OwnSettings.here(dask.config.config), writer)
    environment.start()
    return environment


def _portable_options(parts: _Parts) -> dict[str, Any]:
    """Plain values from which the recorder's process creates its parts."""
    return {
        "options": {
            each.name: getattr(parts.settings, each.name) for each in fields(RecorderOptions)
        },
        "resource": dict(parts.resource.attributes),
        "resource_schema": parts.resource.schema_url,
        "redact_off": sorted(parts.settings.redact_off),
        "secrets": sorted(parts.redact.secrets),
        "redact_salt": parts.redact.salt,
        "copy": None if parts.settings.copy is None else parts.settings.copy.plain(),
        "keep": _is_read_after(parts.settings),
        "code": parts.code,
        "program": tuple(OwnSettings.here(dask.config.config)),
    }


def _is_read_after(settings: Settings) -> bool:
    """Whether this program reads its part of the run once more when the run is closed."""
    return settings.parquet or settings.crash_upload is not None


def _uploads(parts: _Parts) -> CrashUploads | None:
    """The service that sends crash logs, if the user asked for it."""
    url = parts.settings.crash_upload
    if url is None:
        return None
    from scalable.crash_upload.uploads import CrashUploads

    try:
        return CrashUploads(
            parts.store,
            parts.identity.run_id,
            url,
            redact=parts.redact.lines,
            versions=packages(),
        )
    except ValueError as error:
        # The run has begun, and must not fail for this.
        parts.warn(f"crash logs are not sent: {error}")
        return None


def _submit_to(uploads: CrashUploads) -> OnDeath:
    from scalable.crash_upload.logs import CrashLog
    from scalable_runs.task_logs import WORKER_LOGS

    def on_death(name: str, log: str | None, cause: str) -> None:
        if log is not None and log.startswith(WORKER_LOGS):
            uploads.submit(CrashLog(name, log, cause))

    return on_death
