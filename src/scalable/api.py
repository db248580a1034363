"""The public verbs: ``instrument()`` joins a client's cluster with a recorder, ``uninstrument()``
parts them again.

Nothing heavy is imported before a run really begins, so that switched-off telemetry costs nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.common.guard import Guard, printable
from scalable.common.options import InstrumentOptions, Settings, resolve
from scalable.common.otel_environment import usable_environment

if TYPE_CHECKING:
    from distributed import Client

    from scalable.crash_upload.uploads import CrashUploads
    from scalable.facts import UserEvent
    from scalable.instrumentation.connection import ClusterConnection
    from scalable.telemetry.deaths import OnDeath
    from scalable.telemetry.process import Process, RecorderProcess
    from scalable.telemetry.recorder import Recorder
    from scalable_runs.redact import Redactor
    from scalable_runs.schema import RunStatus

logger = logging.getLogger("scalable")

#: Attribute of a client that holds its instrumentation.
_ATTRIBUTE: Final = "_scalable_instrumentation"
_STATUSES: Final = ("completed", "failed", "cancelled")
_instrument_lock: Final = unlocked_in_forks(threading.Lock())
#: Errors while a run was begun.
_guard: Final = Guard()


def instrument(
    client: Client | None = None, **options: Unpack[InstrumentOptions]
) -> Instrumentation:
    """Record what a client's cluster does, from now until the run is closed.

    Parameters
    ----------
    client : distributed.Client, optional
        The client to record; default: Dask's current one.
    project : str, optional
        Name of the project, part of the run's id. Default: the working directory's name.
    runs_dir : path, optional
        Where the run's directory is made. Default: ``.scalable/runs``.
    scope : {"client", "cluster"}, optional
        Record what this client causes, nested tasks included (default), or all tasks.
    enabled : bool, optional
        False records nothing and touches nothing.
    sample_interval : float, optional
        Seconds between samples of the workers' usage. Default: 5.
    close_timeout : float, optional
        Longest time in seconds that closing waits for the scheduler, counted anew as long as facts
        arrive, three times that in all. Default: 5.
    redact_off : str, optional
        Names of redaction families not to apply, separated by commas.
    crash_upload : str, optional
        Address to ask for a place for the logs of workers that died. Default: none are sent.
    span_budget : int, optional
        Spans of tasks sent over OTLP for each trace at most. Default: 5,000.
    task_events : bool, optional
        Send the two events of every task over OTLP too. Default: False.
    running_after : float, optional
        Show an attempt over OTLP before it ends once it has run so many seconds. Default: 10.
    log_level : str or int, optional
        Least severe log record that is kept. Default: ``INFO``.
    recorder : {"process", "thread"}, optional
        What makes signals and files of the facts: a process of its own (default), or a thread of
        this one. It is a thread wherever another process would not do as well: with providers
        or a propagator of the application's, and with exporters other than OTLP's.
    parquet : bool, optional
        Write a parquet copy of each journal when the run is closed. Default: False.
    tracer_provider, meter_provider, logger_provider : optional
        Where signals go besides the run's directory. Default: the application's own providers if
        it has set any, else what the ``OTEL_*`` variables configure, else nowhere. They are used,
        never shut down.

    Returns
    -------
    Instrumentation
        A context manager, synchronous and asynchronous. It also ends by itself with the client,
        and at the latest with the interpreter. A second call for the same client returns the
        first one's: its options change nothing, and of blocks inside one another the outermost
        ends the run.

    Raises
    ------
    OptionError
        An option, or its environment variable, has a value that is not allowed.
    ValueError
        There is no client, or it is closed.
    TypeError
        `client` is no Dask client.
    ImportError
        Dask is not installed; the message says what installs it.
    """
    settings = resolve(options)
    if not settings.enabled:
        return _OFF
    client = _checked(client)
    with _instrument_lock:
        existing = client.__dict__.get(_ATTRIBUTE)
        if isinstance(existing, Instrumentation) and not existing.closed:
            existing.warn_of_ignored(settings, options)
            return existing
        return _begin_guarded(client, settings)


@dataclass(frozen=True, slots=True)
class RunDocuments:
    """What a session says of its run; without one the run is described as found.

    Attributes
    ----------
    target, provider : str
        Where it runs.
    manifest, lock : str
        manifest.yaml without secrets, and its digest.
    manifest_path : str or None
        Where the manifest was read.
    plan : mapping
        plan.json.
    components : mapping
        What each component asks for: ``cpus``, ``memory``, ``walltime``.
    values : mapping
        What the manifest says, variables replaced. It is not recorded: what is secret of it is
        hidden wherever it appears.
    """

    target: str
    provider: str
    manifest: str
    lock: str
    manifest_path: str | None
    plan: Mapping[str, Any]
    components: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]


def begin_run(client: Client, settings: Settings, documents: RunDocuments) -> Instrumentation:
    """Record a session's client; as :func:`instrument`, with the documents of the session."""
    with _instrument_lock:
        return _begin_guarded(client, settings, documents)


def record_failed_start(
    settings: Settings, documents: RunDocuments, error: BaseException, phase: str
) -> Path:
    """Leave a run directory that tells why a session did not start; returns it.

    Raises
    ------
    OSError
        The directory cannot be made.
    """
    instrumentation = _begin(None, settings, documents)
    instrumentation.fail(phase, error)
    instrumentation.close("failed")
    return instrumentation.run_dir


def uninstrument(client: Client | None = None) -> None:
    """Close the run of a client and take everything off its cluster; no run, nothing to do."""
    _check_dask()
    if client is None:
        from scalable.instrumentation.dask_compat import global_client

        client = global_client()
    existing = client.__dict__.get(_ATTRIBUTE) if client is not None else None
    if isinstance(existing, Instrumentation):
        existing.close()


class Instrumentation:
    """A run that is being recorded.

    Its methods may be called from any thread; the work is done by the recorder.

    Attributes
    ----------
    run_id : str
        Id of the run.
    run_dir : pathlib.Path
        Its directory.
    trace_id : str
        Trace id of the run's root span, 32 hexadecimal digits.
    enabled : bool
        False for the object that stands for telemetry switched off.
    """

    enabled: bool = True

    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        trace_id: str,
        settings: Settings,
        client: Client | None,
        link: ClusterConnection | None,
        recorder: Recorder | RecorderProcess,
        uploads: CrashUploads | None = None,
    ) -> None:
        self.run_id = run_id
        self.run_dir = run_dir
        self.trace_id = trace_id
        self._settings = settings
        self._client = client
        self._link = link
        self._recorder = recorder
        self._uploads = uploads
        self._lock = unlocked_in_forks(threading.Lock())
        self._closed = False
        self._status = "running"
        self._outlives = False
        self._drained = False
        self._blocks = 0
        self._end_listening = _listen(self.note) if client is not None else _nothing
        self._unhook = _hook_client(client, self) if client is not None else _nothing
        _end_with_the_interpreter()
        _open_runs.append(self)
        let_go_in_forks(self)

    @property
    def closed(self) -> bool:
        """The run has ended."""
        return self._closed

    @property
    def status(self) -> str:
        """``running``, or how the run ended."""
        return self._status

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that the scheduler knows by now is written.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        bool
            False if it took longer.
        """
        return True if self._closed else self._recorder.flush(timeout)

    def warn_of_ignored(self, settings: Settings, options: Mapping[str, Any]) -> None:
        """Say which options of a further `instrument()` change nothing, as the run began before."""
        ignored = [
            f"{name}={value!r}"
            for name, value in options.items()
            if value is not None and getattr(settings, name) != getattr(self._settings, name)
        ]
        if ignored:
            logger.warning(
                "scalable: this client is recorded already, in run %s: %s changes nothing",
                self.run_id,
                ", ".join(ignored),
            )

    def drain(self) -> None:
        """Have the workers hand over what their code has measured: before the cluster is closed."""
        if self._link is not None and not self._drained:
            self._drained = True
            self._link.drain()

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far."""
        return self._recorder.progress()

    def outlive_client(self) -> None:
        """Let the run go on when its client is closed: whoever asks for that ends it."""
        self._outlives = True
        self._unhook()
        self._unhook = _nothing

    def note(self, event: UserEvent) -> None:
        """Record what the application's own code asks for."""
        if not self._closed:
            self._recorder.note(event)

    def after_fork(self) -> None:
        """Take no part, in a process forked from the program: the run is the program's."""
        self._closed = True

    def fail(self, phase: str, error: BaseException) -> None:
        """Let the run have a failure record of `phase` that belongs to no task."""
        if not self._closed:
            self._recorder.fail(phase, *_described(error))

    def close(self, status: str | None = None) -> None:
        """End the run; the second call does nothing.

        Parameters
        ----------
        status : {"completed", "failed", "cancelled"}, optional
            How it ended. Default: ``completed``.

        Raises
        ------
        ValueError
            There is no such status.
        """
        if status is not None and status not in _STATUSES:
            raise ValueError(f"status cannot be {status!r}; allowed: {', '.join(_STATUSES)}")
        self._close(status or "completed", None)

    def _close(self, status: Any, error: BaseException | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._status = status
        _open_runs.remove(self)
        self._unhook()
        if self._client is not None and self._client.__dict__.get(_ATTRIBUTE) is self:
            del self._client.__dict__[_ATTRIBUTE]
        timeout = self._settings.close_timeout
        self.drain()
        self._end_listening()
        written = self._recorder.close(
            status, timeout, None if error is None else _described(error)
        )
        if written:
            if self._recorder.status != "running":
                self._status = self._recorder.status
        else:
            logger.warning(
                "scalable: run %s is still being written after %g s; it goes on in the background",
                self.run_id,
                timeout + 1.0,
            )
        if self._link is not None:
            self._link.disconnect(self._recorder.guard, outlived=self._outlives)
        if self._uploads is not None and not self._uploads.close(timeout):
            logger.warning(
                "scalable: crash logs of run %s are left to send: scalable crash-logs upload",
                self.run_id,
            )

        if self._settings.parquet:
            self._write_parquet(written)

    def _write_parquet(self, written: bool) -> None:
        if not written:
            logger.warning("scalable: no parquet copies, as run %s is not complete", self.run_id)
            return
        from scalable_runs.parquet import write_snapshots

        try:
            write_snapshots(self.run_dir)
        except Exception as error:
            logger.warning("scalable: parquet copies of run %s failed: %s", self.run_id, error)

    def close_at_exit(self) -> None:
        """The interpreter ends, and nobody has closed the run."""
        error = getattr(sys, "last_value", None)
        if isinstance(error, BaseException):
            self._close(status_after(error), error)
        else:
            self._close("completed", None)

    def __enter__(self) -> Self:
        with self._lock:
            self._blocks += 1
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._leaves_last_block():
            status = status_after(exception)
            self._close(status, exception if status == "failed" else None)

    def _leaves_last_block(self) -> bool:
        """Count a block that is left: one inside of another does not end the run."""
        with self._lock:
            self._blocks -= 1
            return self._blocks <= 0

    async def __aenter__(self) -> Self:
        if self._link is not None:
            await self._link.settle()
        return self.__enter__()

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._leaves_last_block():
            status = status_after(exception)
            await asyncio.to_thread(self._close, status, exception if status == "failed" else None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id!r} {self._status}, in {self.run_dir}>"

    def _repr_html_(self) -> str:
        rows = {
            "Run": self.run_id,
            "Status": self._status,
            "Directory": str(self.run_dir),
            "Trace": self.trace_id,
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"


class _Off(Instrumentation):
    """Stands for a run that is not recorded: everything works, nothing happens."""

    enabled = False

    def __init__(self) -> None:
        self.run_id = ""
        self.run_dir = Path()
        self.trace_id = "0" * 32
        self._status = "off"

    @property
    def closed(self) -> bool:
        return True

    def flush(self, timeout: float = 5.0) -> bool:
        return True

    def drain(self) -> None:
        pass

    def progress(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def outlive_client(self) -> None:
        pass

    def note(self, event: UserEvent) -> None:
        pass

    def fail(self, phase: str, error: BaseException) -> None:
        pass

    def close(self, status: str | None = None) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    def __repr__(self) -> str:
        return "<Instrumentation off>"

    def _repr_html_(self) -> str:
        return "<p>Telemetry is switched off.</p>"


_OFF: Final = _Off()
#: In the order in which they were begun.
_open_runs: Final[list[Instrumentation]] = []


@cache
def _end_with_the_interpreter() -> None:
    # Once, and not for each run: what is unregistered leaves its place taken for ever.
    atexit.register(_close_open_runs)


def _close_open_runs() -> None:
    for run in reversed(_open_runs.copy()):
        run.close_at_exit()


# -- beginning ------------------------------------------------------------------------------------


def _check_dask() -> None:
    try:
        import distributed as _  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"scalable.instrument() needs Dask, which is not installed ({error}): "
            "pip install 'scalable-otel[dask]'",
            name=error.name,
        ) from error


def _checked(client: object) -> Client:
    _check_dask()
    from distributed import Client

    from scalable.instrumentation.dask_compat import global_client

    if client is None:
        client = global_client()
        if client is None:
            raise ValueError(
                "instrument() found no Dask client: make one first (client = Client(...)), "
                "or pass it: instrument(client)"
            )
    elif not isinstance(client, Client):
        raise TypeError(f"instrument() needs a distributed.Client, not {type(client).__name__}")
    if client.status in ("closed", "closing"):
        raise ValueError(f"instrument() needs a connected client; this one is {client.status}")
    return client


def _begin_guarded(
    client: Client, settings: Settings, documents: RunDocuments | None = None
) -> Instrumentation:
    """Begin a run; where that fails, say so and let the work go on without a record."""
    try:
        instrumentation = _begin(client, settings, documents)
    except OSError as error:
        logger.warning("scalable records nothing: %s", error)
        return _OFF
    except Exception as error:
        _guard.failed("instrument", error)
        return _OFF
    setattr(client, _ATTRIBUTE, instrumentation)
    return instrumentation


def _begin(
    client: Client | None, settings: Settings, documents: RunDocuments | None = None
) -> Instrumentation:
    from scalable.telemetry.process import RecorderProcess, discard, spawn
    from scalable_runs.rundoc import new_run_id

    started = time()
    run_id = new_run_id(settings.project.lower(), started)
    warn = _Warnings(run_id)
    _warn_of_missing(settings, warn)
    with usable_environment(warn), ExitStack() as undo:
        process = None
        if client is not None and settings.recorder == "process" and not settings.providers:
            process = spawn(run_id)
        if process is not None:
            undo.callback(discard, process)
        instrumentation, recorder = _begin_with(
            process, undo, run_id, started, client, settings, documents, warn
        )
        undo.pop_all()
    if process is not None and not isinstance(recorder, RecorderProcess):
        discard(process)
    return instrumentation


def _begin_with(
    process: Process | None,
    undo: ExitStack,
    run_id: str,
    started: float,
    client: Client | None,
    settings: Settings,
    documents: RunDocuments | None,
    warn: _Warnings,
) -> tuple[Instrumentation, Recorder | RecorderProcess]:
    from scalable.instrumentation.connection import ClusterConnection
    from scalable.instrumentation.fact_sources import NoSource
    from scalable.telemetry.process import RecorderProcess
    from scalable.telemetry.providers import make_resource
    from scalable.telemetry.recorder import Recorder, RunIdentity
    from scalable.telemetry.routes import find_routes
    from scalable.telemetry.spans import new_span_id, new_trace_id
    from scalable.telemetry.submissions import Submissions, propagates_as_configured
    from scalable_runs.redact import Redactor
    from scalable_runs.rundoc import as_found, run_document
    from scalable_runs.writer import RunWriter

    redact = _redactor(Redactor, settings, documents)
    project = redact.short(settings.project)
    identity = RunIdentity(
        run_id,
        project,
        documents.provider if documents is not None else _provider(client),
        new_trace_id(),
        new_span_id(),
        started,
        documents.components if documents is not None else {},
    )
    routes = find_routes(
        os.environ,
        warn,
        tracer_provider=settings.tracer_provider,
        meter_provider=settings.meter_provider,
        logger_provider=settings.logger_provider,
    )
    submissions = Submissions(run_id, routes.sampled)
    link = None
    if client is not None:
        link = ClusterConnection(
            client,
            run_id,
            scope=settings.scope,
            sample_interval=settings.sample_interval,
            log_level=settings.log_level,
            carrier=submissions.carrier,
            problem=warn,
        )
    if documents is None:
        found = as_found(settings.project, identity.provider, link.workers() if link else [])
        documents = RunDocuments(
            found.target, identity.provider, found.manifest, found.lock, None, found.plan, {}, {}
        )
    trace_id = f"{identity.trace_id:032x}"
    files: dict[str, Any] = {
        "runs_dir": str(settings.runs_dir.absolute()),
        "run": redact.attributes(
            run_document(
                run_id,
                project=project,
                target=documents.target,
                provider=identity.provider,
                lock=documents.lock,
                started=started,
                trace_id=trace_id,
                environment=_environment(),
                manifest_path=documents.manifest_path,
            )
        ),
        "manifest": redact(documents.manifest),
        "plan": redact.attributes(documents.plan),
        "lock": f"{documents.lock}\n",
    }
    resource = make_resource(run_id, project, redact, routes.resource)
    options: dict[str, Any] = {
        "span_budget": settings.span_budget,
        "task_events": settings.task_events,
        "running_after": settings.running_after,
        "log_level": settings.log_level,
    }
    recorder = None
    if process is not None and routes.portable and propagates_as_configured(os.environ):
        more = {
            "resource": dict(resource.attributes),
            "resource_schema": resource.schema_url,
            "redact_off": sorted(settings.redact_off),
            "secrets": sorted(redact.secrets),
            "redact_salt": redact.salt,
        }
        recorder = RecorderProcess.begin(
            process, files, identity, submissions, options | more, warn
        )
    if recorder is None:
        writer = RunWriter.create(**files, on_problem=lambda problem: warn(problem.message))
        undo.callback(writer.close, status="failed")
        recorder = Recorder(
            identity,
            writer,
            resource,
            submissions,
            redact=redact,
            warn=warn,
            routes=routes,
            **options,
        )
    if link is not None:
        undo.callback(link.disconnect, recorder.guard)
        link.connect()
    uploads = _uploads(recorder.run_dir, run_id, settings, redact.lines)
    recorder.start(
        link.source if link is not None else NoSource(),
        None if uploads is None else _submitting(uploads),
    )
    undo.callback(recorder.close, "failed", settings.close_timeout)
    instrumentation = Instrumentation(
        run_id, recorder.run_dir, trace_id, settings, client, link, recorder, uploads
    )
    return instrumentation, recorder


def _uploads(
    run_dir: Path, run_id: str, settings: Settings, redact: Callable[[str], str]
) -> CrashUploads | None:
    """The service that sends crash logs, where that was asked for."""
    if settings.crash_upload is None:
        return None
    from scalable.crash_upload.uploads import CrashUploads

    try:
        return CrashUploads(
            run_dir, run_id, settings.crash_upload, redact=redact, versions=_packages()
        )
    except ValueError as error:
        # The run is there already, and must not fail for this.
        logger.warning("scalable: crash logs are not sent: %s", error)
        return None


def _submitting(uploads: CrashUploads) -> OnDeath:
    from scalable.crash_upload.logs import CrashLog
    from scalable.telemetry.deaths import LOGS_DIRECTORY

    def on_death(name: str, log: str | None, cause: str) -> None:
        if log is not None and log.startswith(LOGS_DIRECTORY):
            uploads.submit(CrashLog(name, log, cause))

    return on_death


def _warn_of_missing(settings: Settings, warn: Callable[[str], None]) -> None:
    """Say at once what was asked for and will not be there when the run has ended."""
    remote = os.environ.get(_REMOTE_VARIABLE, "").strip()
    if remote:
        warn(
            f"{_REMOTE_VARIABLE}={remote!r} is not supported yet: the run stays in "
            f"{settings.runs_dir}; copy it when it has ended, with rsync or a tool of the store"
        )
    if settings.parquet and find_spec("pyarrow") is None:
        from scalable_runs.parquet import EXTRA

        warn(f"there will be no parquet copies: pyarrow is not installed: {EXTRA}")


#: Asks for a copy of the run elsewhere.
_REMOTE_VARIABLE: Final = "SCALABLE_RUNS_DIR_REMOTE"


class _Warnings:
    """Tells the user each thing once; called by whichever thread found it."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._said: set[str] = set()

    def __call__(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            logger.warning("scalable, run %s: %s", self._run_id, sentence)


def _redactor(
    redactor: type[Redactor], settings: Settings, documents: RunDocuments | None
) -> Redactor:
    """A redactor that knows what the environment, Dask's options and the manifest say is secret."""
    from scalable.instrumentation.dask_compat import configuration

    manifest: Mapping[str, Any] = {} if documents is None else documents.values
    return redactor.from_environment(os.environ, configuration(), manifest, off=settings.redact_off)


def _provider(client: Client | None) -> str:
    cluster = client.cluster if client is not None else None
    if cluster is None or isinstance(cluster, str):
        return "existing"
    return type(cluster).__name__.removesuffix("Cluster").lower() or "cluster"


def _environment() -> dict[str, Any]:
    """What ran: versions and host, and no variable of the environment."""
    import platform
    import socket

    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "program": Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "",
        "packages": _packages(),
    }


@cache
def _packages() -> dict[str, str]:
    """Versions of what records; kept, as a program may begin a run for each of its requests."""
    from importlib.metadata import PackageNotFoundError, version

    packages: dict[str, str] = {}
    for name in ("scalable-otel", "dask", "distributed", "opentelemetry-sdk"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return packages


# -- ending ---------------------------------------------------------------------------------------


def status_after(error: BaseException | None) -> RunStatus:
    """How a run ended whose block was left by `error`, or by nothing."""
    if error is None or isinstance(error, GeneratorExit):
        return "completed"
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return "completed"
    return "failed"


def _described(error: BaseException) -> tuple[str, str, str]:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = ""
    said = printable(error)
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        said = f"exit status {error.code}"
    return type(error).__qualname__, said, text


def _nothing() -> None:
    """Undo nothing."""


def _listen(note: Callable[[UserEvent], None]) -> Callable[[], None]:
    """Let the run have what the program records outside of tasks; returns what ends that."""
    from scalable.instrumentation.user_events import add_handler

    return add_handler(note)


def _hook_client(client: Client, instrumentation: Instrumentation) -> Callable[[], None]:
    """Let the run end before its client does; returns what takes the hooks off again."""
    from scalable.instrumentation.dask_compat import close_method

    close, close_async = client.close, close_method(client)

    def closing(*args: Any, **kwargs: Any) -> Any:
        if not _on_client_loop(client):
            instrumentation.close()
        return close(*args, **kwargs)

    async def closing_async(*args: Any, **kwargs: Any) -> Any:
        if not instrumentation.closed:
            await asyncio.to_thread(instrumentation.close)
        return await close_async(*args, **kwargs)

    hooks = {"close": closing, "_close": closing_async}
    client.__dict__.update(hooks)

    def unhook() -> None:
        for name, ours in hooks.items():
            if client.__dict__.get(name) is ours:
                del client.__dict__[name]

    return unhook


def _on_client_loop(client: Client) -> bool:
    try:
        from scalable.instrumentation.dask_compat import asyncio_loop

        return asyncio_loop(client.loop) is asyncio.get_running_loop()
    except RuntimeError:
        return False
