"""The public verbs: ``instrument()`` records what a client's cluster does until the run is closed,
``uninstrument()`` closes it.

Nothing heavy is imported before a run begins, so that disabled telemetry costs nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from html import escape
from pathlib import Path
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from scalable.code.own_sources import own_sources
from scalable.code.tracebacks import format_exception
from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.common.guard import Guard, Warnings
from scalable.common.options import PLACES, InstrumentOptions, OptionError, Settings, resolve
from scalable.common.otel_environment import usable_environment
from scalable.configured import configured_options
from scalable.documents import RunDocuments
from scalable.facts.texts import ErrorTexts, module_of, printable

if TYPE_CHECKING:
    from distributed import Client

    from scalable.begin import Recording
    from scalable.facts import UserEvent
    from scalable_runs.reader import RunReader
    from scalable_runs.schema import RunStatus

logger = logging.getLogger("scalable")

#: Attribute of a client that holds its instrumentation.
_ATTRIBUTE: Final = "_scalable_instrumentation"
_STATUSES: Final = ("completed", "failed", "cancelled")
_instrument_lock: Final = unlocked_in_forks(threading.Lock())
#: Counts errors at the beginning and the end of runs.
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
    run_id : str, optional
        Id of the run: by default a new one. Programs with the same id write one run together if
        the run store is ``chunked-fs`` or ``chunked-object``; with others the run must be new.
    run_store : str, mapping or object, optional
        Where and how the run is kept: a URL (``s3://bucket/prefix``, ``gs://…``, ``az://…``,
        ``file:///…``, ``memory://``), the name of a type (``buffered``), a mapping with ``type``
        and ``config``, or an object. Default: a directory in `runs_dir`.
    runs_dir_remote : str or path, optional
        Where a copy of the run is kept: a URL of an object storage, or a mounted directory.
    scope : {"client", "cluster"}, optional
        Record what this client causes, nested tasks included (default), or all tasks.
    enabled : bool, optional
        False records nothing and touches nothing.
    sample_interval : float, optional
        Seconds between samples of the workers' usage. Default: 5.
    close_timeout : float, optional
        Longest time in seconds that closing waits for the scheduler. Facts that arrive extend the
        wait, up to three times as long in all. Default: 5.
    redact_off : str, optional
        Names of redaction families not to apply, separated by commas.
    crash_upload : str, optional
        Address of a service that says where to upload the logs of workers that died. Default: no
        logs are sent.
    baggage_attributes : str, optional
        Keys of OpenTelemetry's baggage whose entries become attributes of submissions, of attempts
        and of the spans of their code, separated by commas; ``*`` for all. Default: none.
    task_environment : bool, optional
        Set ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE`` for processes that tasks start with
        :mod:`subprocess`. Default: False.
    span_budget : int, optional
        Spans of tasks sent over OTLP for each trace at most. Default: 5,000.
    task_events : bool, optional
        Send the two events of every task over OTLP too. Default: False.
    running_after : float, optional
        Show an attempt over OTLP before it ends once it has run for this long, in seconds.
        Default: 10.
    log_level : str or int, optional
        Least severe log record that is kept. Default: ``INFO``.
    code_patch : bool, optional
        Keep what differs from the commit of the program's repository as code.patch in the run.
        Default: True.
    task_output : {"off", "failed", "all"}, optional
        Attempts whose output (stdout and stderr) is kept, 64 kB of each at most. Default:
        ``failed``.
    keep_results : bool, int or str, optional
        Keep the results of tasks across runs, and take what is kept instead of computing it again;
        a number of bytes or a size such as ``500MB`` is the largest result that is kept. Default:
        False; True stands for 256 MiB.
    keep_failed : bool, int or str, optional
        Keep function and arguments of attempts that fail, as they are, for ``scalable replay``; a
        number or a size as above. Default: False; True stands for 8 MiB.
    retry_of : str, optional
        Id of the run that this one repeats; it keeps and takes results as with `keep_results`.
    environment : bool, optional
        Record what the program, the scheduler and the workers run with: versions of all packages,
        Dask's configuration, host, variables of an allow-list. Default: True.
    parameters : {"off", "failed", "sample", "all"}, optional
        Attempts whose arguments are described, 2 kB of each at most: those that failed or were
        retried; with ``sample`` and ``all`` those that succeed too, with what they return. Default:
        ``failed``.
    objects : bool, int or str, optional
        Keep arguments and results that are described, and that the record does not have whole, in
        the data catalog, pickled; a number or a size as above. Default: False; True stands for
        64 MiB.
    recorder : {"process", "thread"}, optional
        What turns facts into signals and files: a separate process (default), or a thread of this
        one. It is always a thread if the application has set providers, or uses exporters other
        than OTLP's.
    catalog : str or path, optional
        Where the data catalog is: a directory, or a URL that fsspec can write to. Default:
        ``.scalable/catalog``.
    parquet : bool, optional
        Write a parquet copy of each journal when the run is closed. Default: False.
    tracer_provider, meter_provider, logger_provider : optional
        Where signals go besides the run's directory. Default: the application's own providers if
        it has set any, else what the ``OTEL_*`` variables configure, else nowhere. They are used,
        never shut down.

    Returns
    -------
    Instrumentation
        A context manager, synchronous and asynchronous. The run also ends when the client is
        closed, and at the latest with the interpreter. A second call for the same client returns
        the same object: its options have no effect, and of nested blocks the outermost ends the
        run.

    Raises
    ------
    OptionError
        An option, or its environment variable, has a value that is not allowed.
    ValueError
        There is no client, or it is closed.
    TypeError
        `client` is not a Dask client.
    ImportError
        Dask is not installed; the message says what installs it.
    """
    settings = resolve(options, configured=configured_options())
    if not settings.enabled:
        return _OFF
    client = _checked(client)
    with _instrument_lock:
        existing = client.__dict__.get(_ATTRIBUTE)
        if isinstance(existing, Instrumentation) and not existing.closed:
            existing.warn_of_ignored(settings, options)
            return existing
        return _begin_guarded(client, settings)


def begin_run(client: Client, settings: Settings, documents: RunDocuments) -> Instrumentation:
    """Record a session's client; as :func:`instrument`, with the documents of the session."""
    with _instrument_lock:
        return _begin_guarded(client, settings, documents)


def record_failed_start(
    settings: Settings, documents: RunDocuments, error: BaseException, phase: str
) -> Instrumentation:
    """Record a run that says why a session did not start, and return it, closed.

    Raises OSError if it cannot be created.
    """
    instrumentation = _begin(None, settings, documents)
    instrumentation.fail(phase, error)
    instrumentation.close("failed")
    return instrumentation


def uninstrument(client: Client | None = None) -> None:
    """Close the run of a client and remove the plugins from its cluster; no effect without a run.

    Parameters
    ----------
    client : distributed.Client, optional
        Default: Dask's current one.
    """
    _check_dask()
    if client is None:
        from scalable.instrumentation.dask_compat import global_client

        client = global_client()
    existing = client.__dict__.get(_ATTRIBUTE) if client is not None else None
    if isinstance(existing, Instrumentation):
        existing.close()


def _nothing() -> None:
    """Undo nothing."""


class Instrumentation:
    """A run that is being recorded.

    Its methods may be called from any thread; the work is done by the recorder.

    Attributes
    ----------
    run_id : str
        Id of the run.
    run_dir : pathlib.Path or None
        Its directory on this machine, if it has one.
    location : str
        Where it is, for people.
    trace_id : str
        Trace id of the run's root span, 32 hexadecimal digits.
    enabled : bool
        False if telemetry is switched off.
    """

    enabled: bool = True

    def __init__(self, recording: Recording) -> None:
        self.run_id = recording.run_id
        self.run_dir: Path | None = recording.run_dir
        self.location = recording.location
        self._store = recording.store
        self._part = recording.part
        self.trace_id = recording.trace_id
        self._settings = recording.settings
        self._client = recording.client
        self._connection = recording.connection
        self._recorder = recording.recorder
        self._uploads = recording.uploads
        self._lock = unlocked_in_forks(threading.Lock())
        self._closed = False
        self._status = "running"
        self._outlives = False
        self._drained = False
        self._blocks = 0
        self._stop_listening = self._unhook = _nothing
        if self._client is not None:
            with ExitStack() as undo:
                self._stop_listening = _listen(self.note, self._settings.catalog, self.run_id)
                undo.callback(self._stop_listening)
                self._unhook = _hook_client(self._client, self)
                undo.pop_all()
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

    def reader(self) -> RunReader:
        """A reader of the run as it is now, wherever it is kept.

        Raises
        ------
        ValueError
            Telemetry is switched off.
        """
        if not self.enabled:
            raise ValueError("there is no run to read: telemetry is switched off")
        from scalable_runs.reader import RunReader

        store = self._store
        if self._settings.place.is_elsewhere and not self._part.names():
            # Its part was removed here, as all of it is there.
            store = self._settings.place.open().find(self.run_id) or store
        return RunReader(store)

    def report(self) -> str:
        """The report of the run as it is now, as text; as :meth:`reader`."""
        reader = self.reader()
        from scalable.analysis import load_report, render_text

        return render_text(load_report(reader))

    def warn_of_ignored(self, settings: Settings, options: Mapping[str, Any]) -> None:
        """Name the options of a further `instrument()` that have no effect on this run."""
        # The values given for places may hold secrets, which their settings do not show.
        ignored = [
            f"{name}={getattr(settings, name) if name in PLACES else _shown(value)}"
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
        """Collect from the workers what their code has measured; before the cluster is closed."""
        if self._connection is not None and not self._drained:
            self._drained = True
            self._connection.drain()

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far."""
        return self._recorder.progress()

    def outlive_client(self) -> None:
        """Keep the run open when its client is closed; the caller closes it."""
        self._outlives = True
        self._unhook()
        self._unhook = _nothing

    def note(self, event: UserEvent) -> None:
        """Record an event of the application's code."""
        if not self._closed:
            self._recorder.note(event)

    def after_fork(self) -> None:
        """Count as closed in a process forked from the program: the run belongs to the program."""
        self._closed = True

    def fail(self, phase: str, error: BaseException) -> None:
        """Add a failure record of `phase` that belongs to no task."""
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
            `status` is not one of these.
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
        self._stop_listening()
        written = self._recorder.close(
            status, timeout, None if error is None else _described(error)
        )
        if written:
            if self._recorder.status != "running":
                self._status = self._recorder.status
        else:
            logger.warning(
                "scalable: run %s is still being written after %g s, in the background",
                self.run_id,
                timeout + 1.0,
            )
        if self._connection is not None:
            self._connection.disconnect(self._recorder.guard, outlived=self._outlives)
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
            write_snapshots(self._part)
        except Exception as error:
            logger.warning("scalable: parquet copies of run %s failed: %s", self.run_id, error)

    def close_at_exit(self) -> None:
        """Close the run at the interpreter's exit."""
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
        """Count blocks: only the outermost one ends the run."""
        with self._lock:
            self._blocks -= 1
            return self._blocks <= 0

    async def __aenter__(self) -> Self:
        if self._connection is not None:
            await self._connection.settle()
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
        return f"<{type(self).__name__} {self.run_id!r} {self._status}, in {self.location}>"

    def _repr_html_(self) -> str:
        rows = {
            "Run": self.run_id,
            "Status": self._status,
            "Directory" if self.run_dir is not None else "Place": self.location,
            "Trace": self.trace_id,
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"


class _Off(Instrumentation):
    """A run that is not recorded; it is closed from the start."""

    enabled = False

    def __init__(self) -> None:
        self.run_id = ""
        self.run_dir = None
        self.location = ""
        self.trace_id = "0" * 32
        self._connection = None
        self._unhook = _nothing
        self._lock = unlocked_in_forks(threading.Lock())
        self._blocks = 0
        self._closed = True
        self._status = "off"

    def progress(self) -> tuple[int, int, int]:
        return 0, 0, 0

    def __repr__(self) -> str:
        return "<Instrumentation off>"

    def _repr_html_(self) -> str:
        return "<p>Telemetry is switched off.</p>"


_OFF: Final = _Off()
#: In the order in which they were begun.
_open_runs: Final[list[Instrumentation]] = []


@cache
def _end_with_the_interpreter() -> None:
    # Once and not for each run: an unregistered function still occupies a slot.
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
    """Begin a run; if that fails, warn, and the program continues without a record."""
    try:
        instrumentation = _begin(client, settings, documents)
    except OSError as error:
        if settings.run_id and isinstance(error, FileExistsError):
            # Only an id that the user gave can be that of another run.
            raise OptionError(_taken(settings)) from error
        logger.warning("scalable records nothing: %s", error)
        return _OFF
    except Exception as error:
        _guard.failed("instrument", error)
        return _OFF
    setattr(client, _ATTRIBUTE, instrumentation)
    return instrumentation


def _taken(settings: Settings) -> str:
    return (
        f"run_id cannot be {settings.run_id!r}: there is such a run in {settings.runs_dir}. Give "
        "another id, or remove that run. Programs that write one run together need another store: "
        "SCALABLE_RUN_STORE=chunked-fs"
    )


def _begin(
    client: Client | None, settings: Settings, documents: RunDocuments | None = None
) -> Instrumentation:
    from scalable.telemetry.process.spawning import spawn
    from scalable_runs.rundoc import new_run_id

    started = time()
    run_id = settings.run_id or new_run_id(settings.project.lower(), started)
    warn = Warnings(f"scalable, run {run_id}: ")
    with usable_environment(warn), ExitStack() as undo:
        process = None
        if client is not None and settings.recorder == "process" and settings.is_portable:
            process = spawn(run_id)
            if process is not None:
                undo.callback(process.end)
        # The process starts while this one imports the rest, which takes as long.
        from scalable.begin import begin

        recording = begin(
            run_id, started, client, settings, documents, process=process, warn=warn, undo=undo
        )
        instrumentation = Instrumentation(recording)
        undo.pop_all()
    return instrumentation


# -- ending ---------------------------------------------------------------------------------------


def status_after(error: BaseException | None) -> RunStatus:
    """Status of a run whose block was left with `error`, or without one."""
    if error is None or isinstance(error, GeneratorExit):
        return "completed"
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return "cancelled"
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return "completed"
    return "failed"


def _shown(value: Any) -> str:
    from scalable_runs.redact import Redactor

    return Redactor()(repr(value))


def _described(error: BaseException) -> ErrorTexts:
    try:
        own_sources().gather()
        text = format_exception(error)
    except Exception:
        text = ""
    message = printable(error)
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        message = f"exit status {error.code}"
    return type(error).__qualname__, message, text, module_of(type(error))


def _listen(note: Callable[[UserEvent], None], catalog: str, run_id: str) -> Callable[[], None]:
    """Record what the program's code reports outside of tasks; returns the undo function."""
    from scalable.catalog.places import use
    from scalable.instrumentation.user_events import add_handler

    undo = ExitStack()
    undo.callback(add_handler(note))
    undo.callback(use(catalog, run_id))
    return undo.close


def _hook_client(client: Client, instrumentation: Instrumentation) -> Callable[[], None]:
    """Close the run before its client is closed; returns the undo function."""
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
