"""What a run keeps of its tasks, as it travels to the workers: plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from scalable.cache.store import cache_directory
from scalable.common.options import KEPT_RESULT, Settings

#: Begins the name of the worker plugin of one run.
PLUGIN_PREFIX: Final = "scalable-keep-"


class KeepSettings(NamedTuple):
    """What the workers keep for one run."""

    #: The run as its tasks name it, and its id.
    run: str
    run_id: str
    #: Whether tasks of other clients are kept too.
    every_client: bool
    #: Bytes of a result at most; 0 keeps none.
    results: int
    #: Bytes of a failed call at most; 0 keeps none.
    failed: int
    #: Bytes of an argument or a result that is put into the catalog at most; 0 puts none there.
    objects: int
    #: Where results are kept, unless the worker's environment names another place.
    directory: str

    @property
    def plugin_name(self) -> str:
        """Name of the worker plugin."""
        return f"{PLUGIN_PREFIX}{self.run}"

    def document(self) -> dict[str, Any]:
        """Return what run.json says of it."""
        return {
            "results_bytes": self.results,
            "failed_bytes": self.failed,
            "objects_bytes": self.objects,
            "directory": self.directory,
        }


def keep_settings(run: str, run_id: str, settings: Settings) -> KeepSettings | None:
    """Return what a run keeps; None if nothing."""
    results = settings.keep_results or (KEPT_RESULT if settings.retry_of is not None else 0)
    if not results and not settings.keep_failed and not settings.objects:
        return None
    return KeepSettings(
        run,
        run_id,
        settings.scope == "cluster",
        results,
        settings.keep_failed,
        settings.objects,
        str(_absolute(cache_directory())),
    )


def _absolute(path: Path) -> Path:
    try:
        return path.resolve()
    except OSError:  # the working directory was deleted
        return path
