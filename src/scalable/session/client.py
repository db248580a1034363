"""A Dask client whose tasks can ask for a component of the manifest."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from distributed import Client

from scalable.common.hints import suggestion
from scalable.instrumentation import propagation
from scalable.instrumentation.dask_compat import hide_frames
from scalable.manifest.errors import SessionError
from scalable.manifest.load import read_text, shown
from scalable.manifest.source import read_source
from scalable.session.declared import Declared
from scalable.session.offer import Offer, worker_resources

logger = logging.getLogger("scalable")

_NOTHING_OFFERED: Final = Offer()
_NOTHING_DECLARED: Final = Declared()


class TagError(SessionError, ValueError):
    """No worker of the session can ever run the task."""


class ScalableClient(Client):
    """A :class:`distributed.Client` whose `submit` and `map` take ``tag=`` and ``n=``.

    Everything else is as in a Dask client. Made by a :class:`ScalableSession`.
    """

    #: What the workers offer; set by the session.
    offer: Offer = _NOTHING_OFFERED

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Requests of an asynchronous client that are under way.
        self._retries: set[asyncio.Future[None]] = set()
        # Methods here call Dask's: their frames are between those and the user's code.
        hide_frames("scalable")
        super().__init__(*args, **kwargs)

    def submit(self, func: Any, *args: Any, tag: str | None = None, **kwargs: Any) -> Any:
        """Submit a function, as :meth:`distributed.Client.submit`.

        Parameters
        ----------
        func, *args, **kwargs
            As in Dask.
        tag : str, optional
            Component (or one of its tags) whose workers run it. Default: what the manifest's
            `tasks` declare for a function of this name, else any worker.
        n : int
            With a tag: how many of the component's slots on a worker it takes. Default: 1. Without
            a tag, ``n`` is an argument of the function.

        Returns
        -------
        distributed.Future
            A task that failed before is run again, as a new attempt. A plain client returns the old
            exception as long as a future of the failed task is held.

        Raises
        ------
        TagError
            No worker of this session can ever run it.
        """
        with self._placed(func, tag, kwargs) as function:
            return self._run_again(super().submit(function, *args, **kwargs))

    def map(self, func: Any, *iterables: Any, tag: str | None = None, **kwargs: Any) -> Any:
        """Map a function, as :meth:`distributed.Client.map`; for ``tag=`` and ``n=`` see `submit`.

        Raises
        ------
        TagError
            No worker of this session can ever run it.
        """
        with self._placed(func, tag, kwargs) as function:
            return super().map(function, *iterables, **kwargs)

    @contextmanager
    def _placed(self, func: Any, tag: str | None, kwargs: dict[str, Any]) -> Generator[Any]:
        """Yield the function to run; sets `resources` in `kwargs`, and records the tag."""
        name = getattr(func, "__name__", None)
        declared = self.offer.tasks.get(name) if isinstance(name, str) else None
        declared = declared or _NOTHING_DECLARED
        tag = tag if tag is not None else declared.component
        if tag is None:
            yield declared.wrap(func)
            return
        n: Any = kwargs.pop("n", 1)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise TagError(f"n cannot be {n!r}: it is a number of slots on a worker, from 1")
        component = self._component(tag)
        if self.offer.bound:
            self._check_capacity(tag, component, n)
            kwargs["resources"] = {**(kwargs.get("resources") or {}), component: n}
        token = propagation.placement.set(json.dumps([component, tag, n]))
        try:
            yield declared.wrap(func)
        finally:
            propagation.placement.reset(token)

    def _component(self, tag: str) -> str:
        component = tag if tag in self.offer.components else self.offer.tags.get(tag)
        if component is None:
            hint = suggestion(tag, sorted({*self.offer.components, *self.offer.tags}), "tags")
            place = component_place(self.offer.manifest)
            more = f"; or add `tags: [{tag}]` to a component in {place}" if place else ""
            raise TagError(f"no worker serves the tag {tag!r}; {hint}{more}")
        return component

    def _check_capacity(self, tag: str, component: str, n: int) -> None:
        most: float = self.offer.components[component]
        if n > most:  # a larger worker may have joined
            most = worker_resources(self).get(component) or most
        if n > most:
            raise TagError(
                f"tag {tag!r}, n={n}: no worker serves more than {most:g} of component "
                f"{component!r} at a time; tags: {', '.join(sorted(self.offer.components))}"
            )

    def _run_again(self, future: Any) -> Any:
        """Retry the task if it had failed before this submission."""
        state = self.futures.get(future.key)
        if state is None or not _had_failed(self, future):
            return future
        error, trace = state.exception, state.traceback

        async def retry() -> None:
            # Before the request: the new result may arrive before the answer to it.
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
        # `submit` does not call this with a known key; other calls cannot be retried here.
        futures: Any = super()._graph_to_futures(*args, **kwargs)
        failed = [key for key, future in futures.items() if _had_failed(self, future)]
        if failed:
            logger.warning(
                "scalable: %d task%s of this call had failed before and %s not run again, as a "
                "future of the failed task is still held (such as %s): release it, call "
                "client.retry(futures), or submit with pure=False",
                len(failed),
                "" if len(failed) == 1 else "s",
                "is" if len(failed) == 1 else "are",
                str(failed[0])[:200],
            )
        return futures


def _had_failed(client: Any, future: Any) -> bool:
    """Whether a new future is of a task that failed before and that another future holds."""
    return client.refcount.get(future.key, 0) > 1 and future.status == "error"


def component_place(manifest: Path | None) -> str | None:
    """Return the position of the first component of a manifest, as ``scalable.yaml:7``."""
    if manifest is None:
        return None
    try:
        source = read_source(read_text(manifest), shown(manifest))
    except SessionError:
        return shown(manifest)
    lines = [mark.line for path, mark in source.keys.items() if path[:1] == ("components",)]
    return f"{shown(manifest)}:{min(lines[1:] or lines)}" if lines else shown(manifest)
