"""Records what is put into the catalog and got from it, in the run and attempt that go on here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from scalable.catalog.entries import CatalogEntry
from scalable.catalog.places import in_force
from scalable.facts.protocol import CATALOG

#: Key of the metadata of an artifact that was got by its digest, and not by its name alone.
PINNED: Final = "by_digest"
#: Events of one call; the rest is in none.
_MAX_EVENTS: Final = 10_000


def place_here() -> str | None:
    """Return the place that the run of the running task says, or that of this process's run."""
    place, _ = in_force()
    attempt, _ = _attempt()
    if attempt is not None:
        from scalable.facts.identity import carried

        told = carried(attempt.carrier).get(CATALOG)
        if isinstance(told, str) and told:
            return told
    return place


def origin() -> dict[str, Any]:
    """Return which run and attempt go on here, as fields of an entry; empty if none does."""
    attempt, propagation = _attempt()
    fields: dict[str, Any] = {}
    if attempt is not None:
        from scalable.facts.identity import task_id

        fields = {"run_id": propagation.run_of(attempt), "task_id": task_id(attempt.key)}
        ids = propagation.ids_of(attempt)
    else:
        _, run_id = in_force()
        if run_id is None:
            return {}
        from opentelemetry.trace import get_current_span

        fields = {"run_id": run_id}
        ids = get_current_span().get_span_context()
    if ids.is_valid:
        fields |= {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}
    return _shown(fields)


def record(
    stage: str,
    entries: tuple[CatalogEntry, ...],
    catalog: str,
    path: Path | None = None,
    *,
    pinned: bool = False,
) -> None:
    """Record entries of the catalog as artifacts; nothing if no run goes on here.

    `pinned` says that their digest was asked for.
    """
    try:
        from scalable.instrumentation.user_events import emit
    except ImportError:  # there is no Dask, so there is no run
        return
    for entry in entries[:_MAX_EVENTS]:
        location = str(path) if path is not None and len(entries) == 1 else entry.source
        fields: dict[str, Any] = {
            "artifact_name": entry.name,
            "location": location or catalog,
            "kind": entry.kind,
            "stage": stage,
            "size_bytes": entry.size_bytes,
            "digest": entry.digest,
            "catalog": catalog,
            "version": entry.version or None,
            "put_by": entry.run_id if stage == "get" else None,
            "metadata": {
                **({"files": entry.files} if entry.is_directory else {}),
                **({PINNED: True} if pinned else {}),
            }
            or None,
        }
        emit("artifact", {name: value for name, value in fields.items() if value is not None})


def _attempt() -> tuple[Any, Any]:
    try:
        from scalable.instrumentation import propagation
    except ImportError:
        return None, None
    return propagation.current_attempt.get(), propagation


def _shown(fields: dict[str, Any]) -> dict[str, Any]:
    from scalable.catalog.errors import redactor

    return {name: redactor()(value) for name, value in fields.items() if value is not None}
