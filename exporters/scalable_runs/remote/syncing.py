"""Brings runs that are on this machine to a place, once: what `scalable sync` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scalable_runs import schema
from scalable_runs.remote.fence import SupersededError
from scalable_runs.remote.shipper import CopyState, Shipper, sync
from scalable_runs.stores.base import Store
from scalable_runs.stores.run_store import RunStore


def sync_run(
    objects: RunStore,
    run: Store,
    *,
    compress: bool = False,
    progress: Callable[[int], None] | None = None,
) -> CopyState:
    """Bring what a place lacks of one run, with the parts of all its writers.

    Repeating it does no harm, also while the run is recorded. What the copy lacks afterwards is
    noted in the run's directory.

    Parameters
    ----------
    objects
        The place.
    run
        The run.
    compress
        Whether all files of lines are compressed if the run is closed, and not just large ones.
    progress
        Called with the bytes of lines that were brought since the last call.

    Returns
    -------
    CopyState
        With an error, if not all could be brought.
    """
    run_id = Path(run.location).name
    # The run's own documents are last: with them it is closed.
    parts = run.parts()
    stores: list[tuple[str | None, Store]] = [*parts.items(), (None, run)]
    states: list[CopyState] = []
    for writer, store in stores:
        shipper = Shipper(
            objects,
            store,
            run_id=run_id,
            writer=writer,
            compress=compress,
            joins=writer is None and len(stores) > 1,
        )
        shipper.progress = progress
        try:
            state = sync(shipper)
            if parts and writer is None and all(state.complete for state in states):
                shipper.finish_shared()
                state = shipper.state()
        except SupersededError as error:
            state = shipper.state(str(error))
        except OSError as error:
            state = shipper.state(error.strerror or str(error))
        problems = "; ".join(filter(None, (state.error, *shipper.problems)))
        states.append(replace(state, error=problems))
    error = "; ".join(dict.fromkeys(state.error for state in states if state.error))
    state = replace(
        states[-1],
        complete=not error and all(state.complete for state in states),
        missing_bytes=sum(state.missing_bytes for state in states),
        error=error,
    )
    Shipper(objects, run, run_id=run_id).note_state(state)
    return state


def size_of(run: Store) -> int:
    """Return how many bytes of lines a run has."""
    stores = [run, *run.parts().values()]
    entries = [
        store.stat(name)
        for store in stores
        for names in store.segments().values()
        for name in names
        if name != schema.UPLOADS
    ]
    return sum(entry.size for entry in entries if entry is not None)
