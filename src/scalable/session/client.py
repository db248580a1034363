"""A Dask client whose tasks can ask for a component of the manifest."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast

from dask.base import normalize_token
from distributed import Client

from scalable.instrumentation import dask_compat, propagation
from scalable.manifest.errors import SessionError

logger = logging.getLogger("scalable")


class TagError(SessionError, ValueError):
    """A task asks for what no worker can ever give."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What the manifest says of the function of a name."""

    component: str | None = None
    cache: bool = False
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What the workers of a session offer.

    Attributes
    ----------
    components : mapping
        Each component → how many of its tasks one worker runs at a time, at most.
    tags : mapping
        Further names → component.
    tasks : mapping
        Name of a function → what the manifest says of it.
    bound : bool
        Workers have the components as Dask resources, and tasks are bound to them.
    """

    components: Mapping[str, int] = field(default_factory=dict[str, int])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    tasks: Mapping[str, Declared] = field(default_factory=dict[str, Declared])
    bound: bool = True
    #: The manifest, where there is one: messages name the line to change.
    manifest: Path | None = None


_NOTHING: Final = Offer()


class ScalableClient(Client):
    """A :class:`distributed.Client` whose `submit` and `map` take ``tag=`` and ``n=``.

    Everything else is that of a Dask client. Made by a :class:`ScalableSession`.
    """

    _offer: Offer = _NOTHING

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Requests of an asynchronous client that are under way.
        self._retries: set[asyncio.Future[None]] = set()
        super().__init__(*args, **kwargs)

    def submit(self, func: Any, *args: Any, tag: str | None = None, **kwargs: Any) -> Any:
        """Submit a function, as :meth:`distributed.Client.submit`.

        Parameters
        ----------
        func, *args, **kwargs
            As Dask has them.
        tag : str, optional
            Component (or one of its tags) whose workers run it. Default: what the manifest's
            `tasks` say of a function of this name, else any worker.
        n : int
            With `tag`: how many tasks' worth of a worker it takes. Default: 1. Without a tag, ``n``
            is an argument of the function.

        Returns
        -------
        distributed.Future
            What failed before is run again, as a new attempt of the same task. A plain client
            returns the old exception as long as a future of the failed task is held.

        Raises
        ------
        TagError
            No worker of this session can ever run it.
        """
        declared = self._declared(func)
        tag = tag if tag is not None else declared.component
        if tag is None:
            return self._run_again(super().submit(_wrapped(func, declared), *args, **kwargs))
        n = self._take_n(kwargs, declared, tag)
        resources = self._resources(tag, n, kwargs.pop("resources", None))
        with _asking(self._component(tag), tag, n):
            return self._run_again(
                super().submit(_wrapped(func, declared), *args, resources=resources, **kwargs)
            )

    def map(self, func: Any, *iterables: Any, tag: str | None = None, **kwargs: Any) -> Any:
        """Map a function, as :meth:`distributed.Client.map`; for ``tag=`` and ``n=`` see `submit`.

        Raises
        ------
        TagError
            No worker of this session can ever run it.
        """
        declared = self._declared(func)
        tag = tag if tag is not None else declared.component
        if tag is None:
            return super().map(_wrapped(func, declared), *iterables, **kwargs)
        n = self._take_n(kwargs, declared, tag)
        resources = self._resources(tag, n, kwargs.pop("resources", None))
        with _asking(self._component(tag), tag, n):
            return super().map(_wrapped(func, declared), *iterables, resources=resources, **kwargs)

    def _run_again(self, future: Any) -> Any:
        """Let a task run again that had failed when it was submitted once more."""
        state = self.futures.get(future.key)
        if state is None or not _had_failed(self, future):
            return future
        error, trace = state.exception, state.traceback

        async def retry() -> None:
            # Before the request: the answer to it may come after the new result.
            state.retry()
            try:
                await cast("Any", self.scheduler).retry(keys=[future.key], client=self.id)
            except Exception:
                state.set_error(error, trace)
                raise

        if self.asynchronous:
            state.retry()
            self._retries.add(task := asyncio.ensure_future(retry()))
            task.add_done_callback(self._retries.discard)
        else:
            self.sync(retry)
        return future

    def _graph_to_futures(self, *args: Any, **kwargs: Any) -> Any:
        # `submit` does not come here with a key that is known: others cannot be run again.
        futures: Any = super()._graph_to_futures(*args, **kwargs)
        failed = [key for key, future in futures.items() if _had_failed(self, future)]
        if failed:
            logger.warning(
                "scalable: %d task%s of this call had failed before and %s not run again, as a "
                "future of the failed task is still held (such as %s): let go of it, call "
                "client.retry(futures), or submit with pure=False",
                len(failed),
                "" if len(failed) == 1 else "s",
                "is" if len(failed) == 1 else "are",
                str(failed[0])[:200],
            )
        return futures

    def _declared(self, func: Any) -> Declared:
        name = getattr(func, "__name__", None)
        return self._offer.tasks.get(name, _PLAIN) if isinstance(name, str) else _PLAIN

    def _take_n(self, kwargs: dict[str, Any], declared: Declared, tag: str) -> int:
        n = kwargs.pop("n", 1)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise TagError(f"n cannot be {n!r}: it is how many tasks' worth of a worker, from 1")
        return n

    def _component(self, tag: str) -> str:
        component = tag if tag in self._offer.components else self._offer.tags.get(tag)
        if component is None:
            known = sorted({*self._offer.components, *self._offer.tags})
            near = get_close_matches(tag, known, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
            )
            raise TagError(f"no worker serves the tag {tag!r}; {hint}{self._where_to_add(tag)}")
        return component

    def _where_to_add(self, tag: str) -> str:
        """Where the manifest can be given a tag."""
        place = component_place(self._offer.manifest)
        return f"; or add `tags: [{tag}]` to a component in {place}" if place else ""

    def _resources(
        self, tag: str, n: int, more: Mapping[str, float] | None
    ) -> dict[str, float] | None:
        component = self._component(tag)
        if not self._offer.bound:
            return dict(more) if more else None
        most = self._offer.components[component]
        if n > most:
            most = self._offered_now(component)
        if n > most:
            raise TagError(
                f"tag {tag!r}, n={n}: no worker serves more than {most:g} of component "
                f"{component!r} at a time; tags: {', '.join(sorted(self._offer.components))}"
            )
        return {**(more or {}), component: n}

    def _offered_now(self, component: str) -> float:
        """What the largest worker offers that is there now, as far as the client was told."""
        workers: Iterable[Any] = dict(dask_compat.identity(self).get("workers", {})).values()
        offers = [float((worker.get("resources") or {}).get(component, 0)) for worker in workers]
        return max(offers, default=0.0) or self._offer.components[component]


_PLAIN: Final = Declared()


def _had_failed(client: Any, future: Any) -> bool:
    """Whether a future just made is of a task that had failed, and is held elsewhere too."""
    return client.refcount.get(future.key, 0) > 1 and future.status == "error"


def component_place(manifest: Path | None) -> str | None:
    """Return where the first component of a manifest stands, as ``scalable.yaml:7``."""
    if manifest is None:
        return None
    from scalable.manifest.load import read_text, shown
    from scalable.manifest.source import read_source

    try:
        source = read_source(read_text(manifest), shown(manifest))
    except Exception:
        return shown(manifest)  # it was changed since the session began
    lines = [mark.line for path, mark in source.keys.items() if path[:1] == ("components",)]
    return f"{shown(manifest)}:{min(lines[1:] or lines)}" if lines else shown(manifest)


@contextmanager
def _asking(component: str, tag: str, n: int) -> Generator[None]:
    token = propagation.placement.set(json.dumps([component, tag, n]))
    try:
        yield
    finally:
        propagation.placement.reset(token)


def _wrapped(func: Any, declared: Declared) -> Any:
    if declared.cache or declared.outputs:
        return DeclaredTask(func, declared.cache, declared.outputs)
    return func


class DeclaredTask:
    """A function with what the manifest's `tasks` add to it; called in the thread of a task."""

    def __init__(self, function: Any, cache: bool, outputs: Sequence[str]) -> None:
        self._function = function
        self._cache = cache
        self._outputs = tuple(outputs)
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function, from the cache if it may be; record its outputs once it is done."""
        from scalable.cache.cacheable import cacheable
        from scalable.records import record_artifact

        function = cacheable(self._function) if self._cache else self._function
        result = function(*args, **kwargs)
        for output in self._outputs:
            record_artifact(output, kind="output")
        return result

    def __dask_tokenize__(self) -> Any:
        return normalize_token((type(self).__name__, self._function, self._cache, self._outputs))
