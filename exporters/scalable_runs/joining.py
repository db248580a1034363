"""Finds where programs that write one run join it: in a directory, or in a place of objects."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from scalable_runs.sharing import SharedRun, new_writer_name
from scalable_runs.stores.places import spec_of
from scalable_runs.stores.shared import SharedRoot


def shared_run(place: Any, run_id: str, writer: str | None) -> SharedRun | None:
    """Return a run as a whole if several programs may write it; None if it has one writer.

    Nothing is opened before it is joined or left.

    Parameters
    ----------
    place
        The place of runs, or the store of a run.
    run_id
        Its id.
    writer
        Name of this program among its writers; None: a new one.
    """
    if hasattr(place, "append"):
        return None
    spec = spec_of(place)
    root = spec.writing()
    if not root.shared:
        return None
    here = cast("SharedRoot", root).run(run_id)
    writer = writer or new_writer_name()
    if not spec.is_elsewhere:
        return SharedRun(here, writer)
    # Not at the top: most runs are not shared there.
    elsewhere: Any = import_module("scalable_runs.remote.shared_run")
    return elsewhere.RunElsewhere(here, writer, spec.opened, spec.location)
