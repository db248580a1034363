"""A session: a manifest's target started, a client on it, everything recorded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, Unpack, cast

from scalable import records
from scalable.cache.store import set_directory
from scalable.catalog.places import use
from scalable.common.forks import unlocked_in_forks
from scalable.common.options import InstrumentOptions, resolve
from scalable.configured import configured_options
from scalable.manifest.errors import Problem, SessionError
from scalable.manifest.load import Manifest, check_manifest, load_manifest, read_text, shown
from scalable.manifest.plan import Objective, Plan, Policy, make_plan
from scalable.session.starting import Start, WorkerWait, documents, make_client, prepare

if TYPE_CHECKING:
    from scalable.api import Instrumentation
    from scalable.session.client import ScalableClient

logger = logging.getLogger("scalable")

#: Seconds that closing the client or the cluster may take.
_CLOSE_TIMEOUT: Final = 30.0
#: The same after Ctrl-C: a thread that runs a task cannot be stopped.
_CANCEL_TIMEOUT: Final = 5.0


class StartError(SessionError):
    """A session did not start; its run records the reason.

    Attributes
    ----------
    run_dir : pathlib.Path or None
        Directory of the failed run, if it has one.
    location : str or None
        Where the failed run is, if it was recorded.
    """

    def __init__(self, message: str, run_dir: Path | None, location: str | None = None) -> None:
        super().__init__(message)
        self.run_dir = run_dir
        self.location = location


class ScalableSession:
    """A manifest's target while it runs.

    Used by one thread (or one event loop) at a time; any number of sessions may be open at once.

    Parameters
    ----------
    manifest : Manifest
        A valid manifest, with its target chosen; see :meth:`from_yaml`.
    **options
        Options of :func:`scalable.instrument`.

    Attributes
    ----------
    manifest : Manifest
        The manifest.
    client : ScalableClient or None
        The Dask client, once started.
    cluster : object or None
        Dask's cluster object, if the provider made one.
    """

    def __init__(self, manifest: Manifest, **options: Unpack[InstrumentOptions]) -> None:
        self.manifest = manifest
        self.client: ScalableClient | None = None
        self.cluster: Any = None
        configured = configured_options()
        self._settings = resolve(options, manifest=manifest.options, configured=configured)
        self._run: Instrumentation | None = None
        #: The run, once it has begun; also of a session that did not start.
        self._recorded: Instrumentation | None = None
        self._cleanup = contextlib.ExitStack()
        self._state = "new"
        self._start_failed = False
        self._status: str | None = None

    @classmethod
    def from_yaml(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        target: str | None = None,
        **options: Unpack[InstrumentOptions],
    ) -> ScalableSession:
        """Read a manifest and choose its target; nothing is started.

        Parameters
        ----------
        path : path, optional
            Default: ``SCALABLE_MANIFEST``, else ``scalable.yaml`` here or in the nearest directory
            above.
        target : str, optional
            Default: ``SCALABLE_TARGET``, else the only target, else ``auto``: inside a Slurm job
            the slurm one, else the local one.
        **options
            Options of :func:`scalable.instrument`; they take precedence over the environment and
            the manifest's `telemetry`.

        Raises
        ------
        ManifestError
            The manifest has problems: all of them, each with its place.
        SessionError
            There is no manifest, or no such target.
        OptionError
            An option has a value that is not allowed.
        """
        provided = _provided_for(path, target)
        if provided is None:
            return cls(load_manifest(path, target=target), **options)
        if any(value is not None for value in options.values()):
            logger.warning(
                "scalable: `scalable run` has started the session already; the options given to "
                "from_yaml() (%s) have no effect",
                ", ".join(options),
            )
        return provided

    # -- before the start -------------------------------------------------------------------------

    def validate(self) -> tuple[Problem, ...]:
        """Check the whole manifest again, all targets and overlays; returns its problems."""
        path = self.manifest.path
        return () if path is None else check_manifest(read_text(path), shown(path))

    def plan(
        self,
        *,
        dry_run: bool = False,
        objective: Objective | None = None,
        policy: Policy | None = None,
    ) -> Plan:
        """Return what :meth:`start` would start, and what it may cost; starts nothing.

        Parameters
        ----------
        dry_run : bool
            The plan is only to be read: :meth:`start` does not take it.
        objective : {"speed", "cost"}, optional
            ``speed`` (default): as many workers as the target allows; ``cost``: the fewest that
            serve every component.
        policy : {"fixed", "adaptive"}, optional
            Whether the number of workers follows the work. Default: as in the target.

        Raises
        ------
        SessionError
            There is no such objective or policy.
        """
        provider = self.manifest.make_provider()
        return make_plan(
            self.manifest, provider, dry_run=dry_run, objective=objective, policy=policy
        )

    # -- state ------------------------------------------------------------------------------------

    @property
    def run_dir(self) -> Path | None:
        """Directory of the run; None before the start, without one, or if telemetry is off."""
        return self._recorded.run_dir if self._recorded is not None else None

    @property
    def location(self) -> str | None:
        """Where the run is, for people; None before the start, or if telemetry is off."""
        return self._recorded.location if self._recorded is not None else None

    @property
    def run_id(self) -> str | None:
        """Id of the run; None before the start, or if telemetry is off."""
        return self._recorded.run_id if self._recorded is not None else None

    @property
    def status(self) -> str:
        """``new``, ``running``, or how the run ended."""
        return self._status or self._state

    def counts(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far; zeros if nothing is recorded."""
        return self._run.progress() if self._run is not None else (0, 0, 0)

    def __repr__(self) -> str:
        manifest = self.manifest
        where = f", in {self.location}" if self.location is not None else ""
        return (
            f"<{type(self).__name__} {manifest.root.project.name!r} on {manifest.target_name} "
            f"({manifest.provider.name}) {self.status}{where}>"
        )

    # -- start ------------------------------------------------------------------------------------

    def start(self, plan: Plan | None = None) -> ScalableClient:
        """Start the workers of the plan, connect a client, begin to record; returns the client.

        A second call returns the same client.

        Parameters
        ----------
        plan : Plan, optional
            Default: :meth:`plan`.

        Raises
        ------
        StartError
            It did not start: what was started is stopped again, and the run's directory has a
            failure record of phase ``session.start``.
        SessionError
            The session was closed, or the plan cannot be started.
        """
        if self._state == "running":
            return cast("ScalableClient", self.client)
        start = self._prepare(plan, asynchronous=False)
        try:
            started = start.provider.start(start.groups, asynchronous=False)
            self.cluster = None if isinstance(started, dict) else started
            client = self.client = make_client(self.manifest, start, started)
            self._record(start.plan)
            start.provider.populate(self.cluster, start.groups)
            wait = WorkerWait(start, self.cluster)
            while wait.wanted:
                try:
                    client.wait_for_workers(wait.wanted, timeout=wait.next_timeout())
                    break
                except TimeoutError as error:
                    wait.timed_out(error)
        except BaseException as error:
            self._raise_failed_start(start, error)
        return self._started(start)

    async def start_async(self, plan: Plan | None = None) -> ScalableClient:
        """Start on the running event loop; the client is an asynchronous one. See :meth:`start`."""
        if self._state == "running":
            return cast("ScalableClient", self.client)
        start = self._prepare(plan, asynchronous=True)
        try:
            started = start.provider.start(start.groups, asynchronous=True)
            if not isinstance(started, dict):
                started = self.cluster = await started
            client = self.client = await make_client(self.manifest, start, started)
            self._record(start.plan)
            if self._run is not None:
                await self._run.__aenter__()
            start.provider.populate(self.cluster, start.groups)
            wait = WorkerWait(start, self.cluster)
            while wait.wanted:
                try:
                    await client.wait_for_workers(wait.wanted, timeout=wait.next_timeout())
                    break
                except TimeoutError as error:
                    wait.timed_out(error)
        except BaseException as error:
            await self._stop_async()
            self._raise_failed_start(start, error)
        return self._started(start)

    def _prepare(self, plan: Plan | None, *, asynchronous: bool) -> Start:
        if self._state != "new":
            raise SessionError(f"the session is {self._state}: a session is started once")
        start = prepare(self.manifest, plan, asynchronous, self._settings.catalog)
        self._cleanup.callback(use(start.catalog))
        self._cleanup.callback(set_directory, set_directory(start.cache_directory))
        return start

    def _record(self, plan: Plan) -> None:
        if not self._settings.enabled:
            return
        from scalable.api import begin_run

        client = cast("ScalableClient", self.client)
        run = begin_run(client, self._settings, documents(self.manifest, plan))
        if not run.enabled:
            return
        run.outlive_client()
        self._run = run
        self._recorded = run
        if plan.estimate is not None and plan.groups:
            fields = plan.estimate.record_fields()
            self.record_cost(region=self.manifest.target.region, **fields)

    def _started(self, start: Start) -> ScalableClient:
        self._state = "running"
        self._cleanup.callback(_closed, self, _opened(self))
        client = cast("ScalableClient", self.client)
        if not start.plan.groups:
            from scalable.session.offer import existing_offer

            client.offer = existing_offer(client, client.offer)
        return client

    def _raise_failed_start(self, start: Start, error: BaseException) -> NoReturn:
        """Stop what was started, leave a run that records the reason, and raise."""
        self._state = "closed"
        self._start_failed = True
        cancelled = isinstance(error, KeyboardInterrupt | asyncio.CancelledError)
        if self._run is not None:
            self._run.fail("session.start", error)
        elif self._settings.enabled:
            from scalable.api import record_failed_start

            with _logged("record the failed start"):
                self._recorded = record_failed_start(
                    self._settings, documents(self.manifest, start.plan), error, "session.start"
                )
        self._end("cancelled" if cancelled else "failed", stop=not start.asynchronous)
        if not isinstance(error, Exception):
            raise error
        where = f"; the run's record: {self.location}" if self.location is not None else ""
        reason = str(error) or type(error).__name__
        message = f"the session did not start: {reason}{where}"
        raise StartError(message, self.run_dir, self.location) from error

    # -- end --------------------------------------------------------------------------------------

    def close(self, status: str | None = None) -> None:
        """End the session: client, cluster, the run's status and summary; nothing is left running.

        Each step happens even if one before it fails: a failure of closing is a failure record of
        phase ``session.close``. The second call does nothing.

        Parameters
        ----------
        status : {"completed", "failed", "cancelled"}, optional
            How it ended. Default: ``completed``.
        """
        if self._state == "running":
            self._state = "closed"
            self._end(status or "completed", stop=True)

    async def close_async(self, status: str | None = None) -> None:
        """End an asynchronous session; see :meth:`close`."""
        if self._state == "running":
            self._state = "closed"
            await self._stop_async()
            self._cleanup.close()  # the context is this task's, not the thread's
            await asyncio.to_thread(self._end, status or "completed", stop=False)

    def close_after(self, status: str, error: BaseException | None) -> None:
        """Close after a workflow, which may have closed it itself; `error` is what it raised."""
        if error is not None and self._state == "running" and self._run is not None:
            self._run.fail("session.context", error)
        self.close(status)

    def _end(self, status: str, *, stop: bool) -> None:
        errors: list[BaseException] = []

        def step(what: str, action: Callable[..., Any], *arguments: Any, **more: Any) -> None:
            try:
                action(*arguments, **more)
            except Exception as error:
                errors.append(error)
                logger.warning("scalable: closing the session: %s failed: %r", what, error)

        run, client, cluster = self._run, cast("Any", self.client), self.cluster
        if stop:
            timeout = _CANCEL_TIMEOUT if status == "cancelled" else _CLOSE_TIMEOUT
            if run is not None:
                step("the workers' measurements", run.drain)
            if client is not None and client.status not in ("closed", "closing"):
                step("the client", client.close, timeout=timeout)
            if cluster is not None:
                step("the cluster", cluster.close, timeout=timeout)
        final = "failed" if errors and status == "completed" else status
        if run is not None:
            # After a failed start, further errors follow from its cause.
            for error in errors if not self._start_failed else ():
                run.fail("session.close", error)
            step("the run", run.close, final)
            final = run.status
        self._status = final
        step("the context", self._cleanup.close)

    async def _stop_async(self) -> None:
        if self._run is not None:
            await asyncio.to_thread(self._run.drain)
        for one in (self.client, self.cluster):
            if one is not None:
                with _logged("close an asynchronous client or cluster"):
                    await asyncio.wait_for(cast("Any", one).close(), _CLOSE_TIMEOUT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(_status_after(self._run, exception))

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close_async(_status_after(self._run, exception))

    # -- records ----------------------------------------------------------------------------------

    def record_artifact(
        self, location: str | os.PathLike[str] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Record a file, directory or object; see :func:`scalable.record_artifact`."""
        storage = self.manifest.root.project.default_storage
        if location is not None and storage and not os.path.exists(location):  # noqa: PTH110
            place = os.fspath(location)
            if "://" not in place and not os.path.isabs(place):  # noqa: PTH117
                location = f"{storage.rstrip('/')}/{place}"
        return records.record_artifact(location, emit=self._emit, **fields)

    def record_cost(self, total_hourly: float | None = None, **fields: Any) -> dict[str, Any]:
        """Record what the run costs; see :func:`scalable.record_cost`."""
        fields.setdefault("provider", self.manifest.provider.name)
        return records.record_cost(total_hourly, emit=self._emit, **fields)

    def record_metric(self, name: str, value: float, **fields: Any) -> dict[str, Any]:
        """Record a number; see :func:`scalable.record_metric`."""
        return records.record_metric(name, value, emit=self._emit, **fields)

    def _emit(self, event_type: str, fields: Mapping[str, Any]) -> bool:
        run = self._run
        if self._state == "new" and run is None:
            raise SessionError(f"the session is not started: record the {event_type} after start()")
        if self._state == "closed":
            logger.warning("scalable: the session is closed: the %s is not recorded", event_type)
            return False
        if run is None or run.closed:
            return False
        from scalable.instrumentation.user_events import client_event

        run.note(client_event(event_type, fields))
        return True


def _status_after(run: Instrumentation | None, error: BaseException | None) -> str:
    """Return the status after a block that raised `error`, which the run records."""
    from scalable.api import status_after

    status = status_after(error)
    if status == "failed" and error is not None and run is not None:
        run.fail("session.context", error)
    return status


@contextlib.contextmanager
def _logged(action: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("scalable: cannot %s: %r", action, error)


# -- which session is open here --------------------------------------------------------------------

_current: Final[ContextVar[ScalableSession | None]] = ContextVar("scalable_session", default=None)
_open: Final[list[ScalableSession]] = []
_lock: Final = unlocked_in_forks(threading.Lock())
#: The session that `scalable run` has started for a script.
_provided: ScalableSession | None = None


def current_session() -> ScalableSession | None:
    """Return the open session: that of this context, else the one started last."""
    session = _current.get()
    if session is not None:
        return session
    with _lock:
        return _open[-1] if _open else None


def provide(session: ScalableSession | None) -> None:
    """Make ``from_yaml()`` return this session, while a script runs in it."""
    global _provided
    _provided = session


def _provided_for(
    path: str | os.PathLike[str] | None, target: str | None
) -> ScalableSession | None:
    """Return the session that `scalable run` has started, if it is of this manifest and target."""
    if _provided is None or target not in (None, "auto", _provided.manifest.target_name):
        return None
    same = _provided.manifest.path
    if path is None or (same is not None and Path(path).resolve() == same.resolve()):
        return _provided
    return None


def _opened(session: ScalableSession) -> Token[ScalableSession | None]:
    """Add an open session; returns what :func:`_closed` needs."""
    with _lock:
        _open.append(session)
    return _current.set(session)


def _closed(session: ScalableSession, token: Token[ScalableSession | None]) -> None:
    """Remove a session."""
    with _lock:
        if session in _open:
            _open.remove(session)
    # Another context than that of the start keeps its own value.
    with contextlib.suppress(ValueError):
        _current.reset(token)
