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
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, cast

from scalable import records
from scalable.cache import store as cache
from scalable.common.forks import unlocked_in_forks
from scalable.common.options import InstrumentOptions, Settings, resolve
from scalable.manifest.errors import Problem, SessionError
from scalable.manifest.load import (
    Manifest,
    check_manifest,
    load_manifest,
    read_text,
    shown,
)
from scalable.manifest.model import clock
from scalable.manifest.plan import Objective, Plan, Policy, apply_policy, make_plan
from scalable.manifest.providers.base import Provider, ProviderError

if TYPE_CHECKING:
    from scalable.api import Instrumentation
    from scalable.documents import RunDocuments
    from scalable.session.client import Offer, ScalableClient

logger = logging.getLogger("scalable")

#: Seconds that closing the client or the cluster may take.
_CLOSE_TIMEOUT: Final = 30.0
#: The same after Ctrl-C: a thread that runs a task cannot be stopped, and nobody wants to wait.
_CANCEL_TIMEOUT: Final = 5.0

#: Seconds of one turn of waiting for workers.
_TURN: Final = 1.0

_current: ContextVar[ScalableSession | None] = ContextVar("scalable_session", default=None)
_open: Final[list[ScalableSession]] = []
_lock: Final = unlocked_in_forks(threading.Lock())
#: The session that `scalable run` has started for a script; see :func:`provide`.
_provided: ScalableSession | None = None


def current_session() -> ScalableSession | None:
    """The session that is open here: this context's own, else the one started last."""
    session = _current.get()
    if session is not None:
        return session
    with _lock:
        return _open[-1] if _open else None


def provide(session: ScalableSession | None) -> None:
    """Let ``from_yaml()`` return this session: a script is being run in it."""
    global _provided
    _provided = session


class StartError(SessionError):
    """A session did not start; `run_dir` tells why.

    Attributes
    ----------
    run_dir : pathlib.Path or None
        Directory of the failed run.
    """

    def __init__(self, message: str, run_dir: Path | None) -> None:
        super().__init__(message)
        self.run_dir = run_dir


class ScalableSession:
    """What a manifest's target is while it runs.

    Used by one thread (or one event loop) at a time; any number of sessions may be open at once.

    Parameters
    ----------
    manifest : Manifest
        A manifest that holds, with its target chosen; see :meth:`from_yaml`.
    **options
        Options of :func:`scalable.instrument`.

    Attributes
    ----------
    manifest : Manifest
        What it runs.
    client : ScalableClient or None
        The Dask client, once started.
    cluster : object or None
        Dask's cluster object, where the provider made one.
    """

    def __init__(self, manifest: Manifest, **options: Unpack[InstrumentOptions]) -> None:
        self.manifest = manifest
        self.client: ScalableClient | None = None
        self.cluster: Any = None
        self._settings = _settings(manifest, options)
        self._run: Instrumentation | None = None
        self._run_dir: Path | None = None
        self._cache_before: tuple[Path | None] | None = None
        self._token: Token[ScalableSession | None] | None = None
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
            Options of :func:`scalable.instrument`; they come before the environment and the
            manifest's `telemetry`.

        Raises
        ------
        ManifestError
            The manifest has problems: all of them, each with its place.
        SessionError
            There is no manifest, or no such target.
        OptionError
            An option has a value that is not allowed.
        """
        provided = _provided
        if provided is not None and target in (None, "auto", provided.manifest.target_name):
            same = provided.manifest.path
            if path is None or (same is not None and Path(path).resolve() == same.resolve()):
                if any(value is not None for value in options.values()):
                    logger.warning(
                        "scalable: the session was started by `scalable run` already; options that "
                        "from_yaml() is given (%s) change nothing",
                        ", ".join(options),
                    )
                return provided
        return cls(load_manifest(path, target=target), **options)

    # -- before ---------------------------------------------------------------------------------

    def validate(self) -> tuple[Problem, ...]:
        """Check the whole manifest again, all targets and overlays; returns what is wrong."""
        path = self.manifest.path
        if path is None:
            return ()
        return check_manifest(read_text(path), shown(path))

    def plan(
        self,
        *,
        dry_run: bool = False,
        objective: Objective | None = None,
        policy: Policy | None = None,
    ) -> Plan:
        """Work out what :meth:`start` would start, and what it may cost; starts nothing.

        Parameters
        ----------
        dry_run : bool
            The plan is only to be looked at: :meth:`start` does not take it.
        objective : {"speed", "cost"}, optional
            ``speed`` (default): as many workers as the target allows; ``cost``: the fewest that
            serve every component.
        policy : {"fixed", "adaptive"}, optional
            Whether workers come and go with the work. Default: as the target says.

        Raises
        ------
        SessionError
            There is no such objective or policy.
        """
        return make_plan(
            self.manifest, self._provider(), dry_run=dry_run, objective=objective, policy=policy
        )

    def _provider(self) -> Provider:
        manifest = self.manifest
        return manifest.provider(
            manifest.target, manifest.root.components, manifest.root.project.name
        )

    # -- what it has ------------------------------------------------------------------------------

    @property
    def run_dir(self) -> Path | None:
        """Directory of the run; None before it was started, or where telemetry is off."""
        return self._run_dir

    @property
    def run_id(self) -> str | None:
        """Id of the run."""
        return self._run_dir.name if self._run_dir is not None else None

    @property
    def status(self) -> str:
        """``new``, ``running``, or how the run ended."""
        return self._status or self._state

    # -- starting ---------------------------------------------------------------------------------

    def start(self, plan: Plan | None = None) -> ScalableClient:
        """Start what the plan says, connect a client, begin to record; returns the client.

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
            The session was closed, or the plan is not one to start.
        """
        if self._state == "running":
            return cast("ScalableClient", self.client)
        steps = self._begin_start(plan)
        try:
            self._connect(steps)
            self._record(steps)
            steps.provider.populate(self.cluster, list(steps.plan.groups))
            self._wait(steps)
        except Exception as error:
            raise self._failed_start(steps, error) from error
        except BaseException as error:
            self._failed_start(steps, error)
            raise
        return self._started(steps)

    async def start_async(self, plan: Plan | None = None) -> ScalableClient:
        """Start on the running event loop; the client is an asynchronous one. See :meth:`start`."""
        if self._state == "running":
            return cast("ScalableClient", self.client)
        steps = self._begin_start(plan, asynchronous=True)
        try:
            started = steps.provider.start(list(steps.plan.groups), asynchronous=True)
            if isinstance(started, dict):
                arguments = cast("dict[str, Any]", started)
            else:
                self.cluster = await started
                arguments = {"address": self.cluster}
            self.client = await self._make_client(arguments, steps)
            self._record(steps)
            if self._run is not None:
                await self._run.__aenter__()
            steps.provider.populate(self.cluster, list(steps.plan.groups))
            await self._wait_async(steps)
        except Exception as error:
            await self._stop_async()
            raise self._failed_start(steps, error) from error
        except BaseException as error:
            await self._stop_async()
            self._failed_start(steps, error)
            raise
        return self._started(steps)

    def _begin_start(self, plan: Plan | None, *, asynchronous: bool = False) -> _Steps:
        if self._state != "new":
            raise SessionError(f"the session is {self._state}: a session is started once")
        if plan is not None and plan.dry_run:
            raise SessionError("a plan made with dry_run=True is to be looked at, not started")
        if plan is not None and plan.manifest_lock != self.manifest.lock:
            raise SessionError("the plan was made for another manifest")
        provider = self._provider()
        plan = plan or make_plan(self.manifest, provider)
        apply_policy(provider, plan)
        start_timeout = self.manifest.target.start_timeout or provider.default_start_timeout
        directory = self._cache_directory()
        self._cache_before = (cache.set_directory(directory),)
        return _Steps(provider, _with_cache(plan, directory), start_timeout, asynchronous)

    def _cache_directory(self) -> Path:
        local = self.manifest.root.project.local_cache
        if local is not None and cache.DIRECTORY_VARIABLE not in os.environ:
            return Path(local).expanduser().resolve()
        return cache.cache_directory().resolve()

    def _connect(self, steps: _Steps) -> None:
        started = steps.provider.start(list(steps.plan.groups), asynchronous=False)
        if isinstance(started, dict):
            arguments = cast("dict[str, Any]", started)
        else:
            self.cluster = started
            arguments = {"address": started}
        self.client = self._make_client(arguments, steps)

    def _make_client(self, arguments: Mapping[str, Any], steps: _Steps) -> Any:
        from scalable.session.client import ScalableClient

        client = ScalableClient(asynchronous=steps.asynchronous, **arguments)
        client._offer = self._offer(steps)  # pyright: ignore[reportPrivateUsage]
        return client

    def _offer(self, steps: _Steps) -> Offer:
        from scalable.session.client import Declared, Offer

        root = self.manifest.root
        capacity = dict.fromkeys(root.components, 0 if steps.plan.groups else 1)
        for group in steps.plan.groups:
            for name in group.components:
                capacity[name] = max(capacity[name], group.threads)
        served = {name for name, most in capacity.items() if most}
        return Offer(
            # A component that no group serves is no tag of this session.
            {name: most for name, most in capacity.items() if most},
            {tag: name for name in served for tag in root.components[name].tags},
            {
                name: Declared(task.component, task.cache, tuple(task.outputs))
                for name, task in root.tasks.items()
            },
            steps.provider.binds_tags,
            self.manifest.path,
        )

    def _record(self, steps: _Steps) -> None:
        if not self._settings.enabled:
            return
        from scalable.api import begin_run

        client = cast("ScalableClient", self.client)
        run = begin_run(client, self._settings, self._documents(steps.plan))
        if not run.enabled:
            return
        run.outlive_client()
        self._run = run
        self._run_dir = run.run_dir
        self._record_estimate(steps.plan)

    def _record_estimate(self, plan: Plan) -> None:
        found = plan.estimate
        if found is not None and plan.groups:
            records.record_cost(
                found.total_hourly,
                total_monthly=found.total_monthly,
                currency=found.currency,
                provider=plan.provider,
                region=self.manifest.target.region,
                line_items=found.line_items,
                metadata={"estimate": True, "basis": found.basis, "as_of": found.as_of},
                emit=self._emit,
            )

    def _documents(self, plan: Plan) -> RunDocuments:
        from scalable.documents import RunDocuments

        manifest = self.manifest
        return RunDocuments(
            manifest.target_name,
            manifest.provider.name,
            manifest.copy,
            manifest.lock,
            str(manifest.path.resolve()) if manifest.path is not None else None,
            plan.document(),
            {
                name: {
                    "cpus": one.cpus,
                    "memory": one.memory,
                    "walltime": _walltime(one.walltime, manifest.target),
                }
                for name, one in manifest.root.components.items()
            },
            {**manifest.root.model_dump(), "target": manifest.target.model_dump()},
        )

    def _wait(self, steps: _Steps) -> None:
        wanted = steps.provider.wanted_workers(list(steps.plan.groups))
        waiting = _Waiting(steps, self.cluster)
        while wanted and waiting:
            with waiting:
                cast("Any", self.client).wait_for_workers(wanted, timeout=waiting.seconds)

    async def _wait_async(self, steps: _Steps) -> None:
        wanted = steps.provider.wanted_workers(list(steps.plan.groups))
        waiting = _Waiting(steps, self.cluster)
        while wanted and waiting:
            with waiting:
                await cast("Any", self.client).wait_for_workers(wanted, timeout=waiting.seconds)

    def _started(self, steps: _Steps) -> ScalableClient:
        self._state = "running"
        self._token = _current.set(self)
        with _lock:
            _open.append(self)
        client = cast("ScalableClient", self.client)
        if not steps.plan.groups:
            client._offer = _found(client)  # pyright: ignore[reportPrivateUsage]
        return client

    def _failed_start(self, steps: _Steps, error: BaseException) -> StartError:
        """Stop what was started and leave a run that tells why."""
        self._state = "closed"
        self._start_failed = True
        self._status = "cancelled" if _is_cancellation(error) else "failed"
        if self._run is not None:
            self._run.fail("session.start", error)
        elif self._settings.enabled and self._run_dir is None:
            from scalable.api import record_failed_start

            with _logged("record the failed start"):
                self._run_dir = record_failed_start(
                    self._settings, self._documents(steps.plan), error, "session.start"
                )
        self._end(self._status, stop=not steps.asynchronous)
        where = f"; the run's record: {self._run_dir}" if self._run_dir is not None else ""
        said = str(error) or type(error).__name__
        return StartError(f"the session did not start: {said}{where}", self._run_dir)

    def counts(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far; zeros where nothing is recorded."""
        return self._run.progress() if self._run is not None else (0, 0, 0)

    # -- ending -----------------------------------------------------------------------------------

    def close(self, status: str | None = None) -> None:
        """End the session: client, cluster, the run's status and summary; nothing is left running.

        Each step happens even if one before it fails: a failure of closing is a failure record of
        phase ``session.close``. The second call does nothing.

        Parameters
        ----------
        status : {"completed", "failed", "cancelled"}, optional
            How it ended. Default: ``completed``.
        """
        if self._state != "running":
            return
        self._state = "closed"
        self._end(status or "completed", stop=True)

    def end_of_workflow(self, status: str, error: BaseException | None) -> None:
        """Close after a workflow, which may have done so itself; `error` is what it raised."""
        if error is not None and self._state == "running" and self._run is not None:
            self._run.fail("session.context", error)
        self.close(status)

    async def close_async(self, status: str | None = None) -> None:
        """End an asynchronous session; see :meth:`close`."""
        if self._state != "running":
            return
        self._state = "closed"
        await self._stop_async()
        self._unlist()
        await asyncio.to_thread(self._end, status or "completed", stop=False)

    def _end(self, status: str, *, stop: bool) -> None:
        errors: list[BaseException] = []

        def step(what: str, action: Callable[[], Any]) -> None:
            try:
                action()
            except Exception as error:
                errors.append(error)
                logger.warning("scalable: closing the session: %s failed: %r", what, error)

        run = self._run
        if stop:
            if run is not None:
                step("the workers' measurements", run.drain)
            timeout = _CANCEL_TIMEOUT if status == "cancelled" else _CLOSE_TIMEOUT
            step("the client", lambda: self._close_client(timeout))
            step("the cluster", lambda: self._close_cluster(timeout))
        if run is not None:
            if not self._start_failed:
                # What stopping half a cluster raises follows from what kept it from starting.
                for error in errors:
                    run.fail("session.close", error)
            step(
                "the run",
                lambda: run.close("failed" if errors and status == "completed" else status),
            )
            self._status = run.status
        else:
            self._status = "failed" if errors else status
        step("the context", self._reset_context)

    async def _stop_async(self) -> None:
        if self._run is not None:
            await asyncio.to_thread(self._run.drain)
        for one in (self.client, self.cluster):
            if one is not None:
                with _logged("close an asynchronous client or cluster"):
                    await asyncio.wait_for(cast("Any", one).close(), _CLOSE_TIMEOUT)

    def _close_client(self, timeout: float) -> None:
        client = cast("Any", self.client)
        if client is not None and client.status not in ("closed", "closing"):
            client.close(timeout=timeout)

    def _close_cluster(self, timeout: float) -> None:
        cluster = self.cluster
        if cluster is not None:
            cluster.close(timeout=timeout)

    def _reset_context(self) -> None:
        self._unlist()
        if self._cache_before is not None:
            cache.set_directory(*self._cache_before)
            self._cache_before = None

    def _unlist(self) -> None:
        with _lock:
            if self in _open:
                _open.remove(self)
        if self._token is not None:
            # Closed in another context than it was started in: that one's variable stays its own.
            with contextlib.suppress(ValueError):
                _current.reset(self._token)
            self._token = None

    def _failed_block(self, error: BaseException | None) -> str:
        from scalable.api import status_after

        status = status_after(error)
        if status == "failed" and error is not None and self._run is not None:
            self._run.fail("session.context", error)
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(self._failed_block(exception))

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close_async(self._failed_block(exception))

    def __repr__(self) -> str:
        manifest = self.manifest
        where = f", in {self._run_dir}" if self._run_dir is not None else ""
        return (
            f"<{type(self).__name__} {manifest.root.project.name!r} on {manifest.target_name} "
            f"({manifest.provider.name}) {self.status}{where}>"
        )

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


class _Steps:
    """What one start needs from its beginning to its end."""

    __slots__ = ("asynchronous", "plan", "provider", "start_timeout")

    def __init__(
        self, provider: Provider, plan: Plan, start_timeout: float, asynchronous: bool
    ) -> None:
        self.provider = provider
        self.plan = plan
        self.start_timeout = start_timeout
        self.asynchronous = asynchronous


class _Waiting:
    """A wait for the first workers, in turns: between two the provider is asked for trouble.

    True until the workers have come. Used by the thread or loop that starts a session.
    """

    def __init__(self, steps: _Steps, cluster: Any) -> None:
        self._steps = steps
        self._cluster = cluster
        self._deadline = monotonic() + steps.start_timeout
        self._come = False

    @property
    def seconds(self) -> float:
        """How long the next turn may take."""
        return min(_TURN, max(0.01, self._deadline - monotonic()))

    def __bool__(self) -> bool:
        return not self._come

    def __enter__(self) -> None:
        trouble = self._steps.provider.trouble(self._cluster)
        if trouble is not None:
            raise ProviderError(trouble)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, TimeoutError):
            self._come = error is None
            return False
        if monotonic() < self._deadline:
            return True
        start_timeout = self._steps.start_timeout
        come = getattr(error, "available_workers", None)
        if come is None:
            raise TimeoutError(f"the workers did not come within {start_timeout:g} s") from None
        # The same error, with the time of all turns.
        wanted = cast("Any", error).expected_workers
        raise cast("Any", type(error))(come, wanted, start_timeout) from None


def _settings(manifest: Manifest, options: InstrumentOptions) -> Settings:
    telemetry = {"project": manifest.root.project.name, **manifest.telemetry}
    return resolve(options, manifest=telemetry)


def _walltime(of_component: int | None, target: Any) -> str | None:
    seconds = of_component or getattr(target, "walltime", None)
    return clock(seconds) if seconds is not None else None


def _with_cache(plan: Plan, directory: Path) -> Plan:
    """Let the workers keep results where the client does."""
    from dataclasses import replace

    groups = tuple(
        replace(group, env={cache.DIRECTORY_VARIABLE: str(directory), **group.env})
        for group in plan.groups
    )
    return replace(plan, groups=groups)


def _found(client: ScalableClient) -> Offer:
    """What the workers of a cluster that was there already offer."""
    from dataclasses import replace

    from scalable.instrumentation import dask_compat

    offer = client._offer  # pyright: ignore[reportPrivateUsage]
    workers: Any = dask_compat.identity(client).get("workers", {})
    offered: dict[str, int] = {}
    for worker in dict(workers).values():
        for name, count in (worker.get("resources") or {}).items():
            if name in offer.components:
                offered[name] = max(offered.get(name, 0), int(count))
    if not offered:
        # Its workers know nothing of components: tags are recorded, and bind to no worker.
        return replace(offer, bound=False)
    return replace(
        offer,
        components=offered,
        tags={tag: name for tag, name in offer.tags.items() if name in offered},
    )


def _is_cancellation(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | asyncio.CancelledError)


@contextlib.contextmanager
def _logged(what: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("scalable: cannot %s: %r", what, error)
