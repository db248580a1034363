"""Artifacts, costs and metrics that user code records.

The functions work inside any task, in whatever process it runs, and outside tasks in the client's
process. They never wait for the network, and a location that cannot be read is only logged.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, Final, cast

from scalable.common.digests import measure
from scalable.common.options import resolve
from scalable.common.units import HOURS_PER_MONTH

logger = logging.getLogger("scalable")

#: Characters of one text, and items of one mapping or list: records go through the scheduler.
_MAX_TEXT: Final = 2_000
_MAX_ITEMS: Final = 100
_MAX_DEPTH: Final = 4

#: Passes on an event, with its type and fields; returns whether a run takes it.
Emit = Callable[[str, Mapping[str, Any]], bool]


def record_artifact(
    location: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    name: str | None = None,
    task_name: str | None = None,
    component: str | None = None,
    artifact_name: str | None = None,
    stage: str = "put",
    digest: bool = True,
    metadata: Mapping[str, Any] | None = None,
    emit: Emit | None = None,
) -> dict[str, Any]:
    """Record a file, a directory tree or a remote object that the work made or used.

    Parameters
    ----------
    location : path or URL
        A file, a directory, or a URL that fsspec can read (``s3://…``, ``memory://…``).
    kind : str, optional
        What it is, such as ``result`` or ``figure``.
    name, artifact_name : str, optional
        Its name; default: the last part of the location.
    task_name, component : str, optional
        What made it, if not the running task.
    stage : {"put", "get"}
        It was made, or used.
    digest : bool
        Compute the SHA-256 of its content (for a directory: of the sorted relative paths, each
        with the digest of its file). False leaves it out, for what is too large to read again.
    metadata : mapping, optional
        Further plain values.

    Returns
    -------
    dict
        The record's fields. `size_bytes` and `digest` are missing if the location cannot be read;
        that is logged.

    Raises
    ------
    TypeError
        There is no location.
    ValueError
        `stage` is neither ``put`` nor ``get``.
    """
    if location is None:
        raise TypeError("record_artifact() needs a location")
    if stage not in ("put", "get"):
        raise ValueError(f"stage cannot be {stage!r}; allowed: put, get")
    place = os.fspath(location)
    if "://" not in place:
        # The working directory of this process is not that of the reader.
        place = str(Path(place).expanduser().absolute())
    fields: dict[str, Any] = {
        "artifact_name": name or artifact_name or place.rstrip("/").rpartition("/")[2] or place,
        "location": place,
        "kind": kind,
        "stage": stage,
        "task_name": task_name,
        "component": component,
        "metadata": _bounded(metadata) if metadata else None,
    }
    try:
        fields["size_bytes"], fields["digest"] = measure(place, digest=digest)
    except Exception as error:
        logger.warning("scalable: artifact %s cannot be read: %s", place, error)
    return _emit("artifact", fields, emit)


def record_cost(
    total_hourly: float | None = None,
    *,
    total_monthly: float | None = None,
    currency: str = "USD",
    provider: str | None = None,
    region: str | None = None,
    line_items: Sequence[Mapping[str, Any]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    emit: Emit | None = None,
) -> dict[str, Any]:
    """Record what something costs; the summary adds up the records of each currency.

    A record whose `metadata` has a true ``estimate`` is an estimate of the whole run: it replaces
    the estimate before it and is never added.

    Parameters
    ----------
    total_hourly, total_monthly : float, optional
        Cost of an hour, and of a month of 730 hours; the second follows from the first.
    currency : str
        ISO 4217 code.
    provider, region : str, optional
        Who charges, and where.
    line_items : sequence of mapping, optional
        Its parts.
    metadata : mapping, optional
        Further plain values.

    Raises
    ------
    ValueError
        Neither total is given, or one is negative or not finite.
    """
    if total_hourly is None and total_monthly is None:
        raise ValueError("record_cost() needs total_hourly or total_monthly")
    for value in (total_hourly, total_monthly):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"a cost cannot be {value!r}")
    if total_monthly is None and total_hourly is not None:
        total_monthly = total_hourly * HOURS_PER_MONTH
    fields: dict[str, Any] = {
        "provider": provider,
        "region": region,
        "currency": currency,
        "total_hourly": total_hourly,
        "total_monthly": total_monthly,
        "line_items": _bounded(line_items) if line_items else None,
        "metadata": _bounded(metadata) if metadata else None,
    }
    return _emit("cost", fields, emit)


def record_metric(
    name: str,
    value: float,
    *,
    step: int | None = None,
    unit: str = "",
    attributes: Mapping[str, Any] | None = None,
    emit: Emit | None = None,
) -> dict[str, Any]:
    """Record a number: a point of a gauge of that name, and of a series.

    The last value of each series and the least and the greatest are in the run's
    `user_defined_metrics`, and in the report.

    Parameters
    ----------
    name : str
        Name of the metric, such as ``loss``.
    value : float
        The number; must be finite.
    step : int, optional
        Its place in the series, such as the number of an epoch: the last value is that of the
        greatest step.
    unit : str
        UCUM code, such as ``s`` or ``By``.
    attributes : mapping, optional
        Attributes of the point, besides the key and name of the running task.

    Raises
    ------
    ValueError
        The name is empty, or the value is not a finite number.
    TypeError
        The step is not a whole number.
    """
    number = float(value)
    if not name or not math.isfinite(number):
        raise ValueError(f"a metric needs a name and a finite value, not {name!r}, {value!r}")
    fields: dict[str, Any] = {
        "name": name[:255],
        "value": number,
        "unit": unit[:63] or None,
        "step": None if step is None else _whole(step),
    }
    if attributes:
        fields["attributes"] = {
            str(key)[:255]: below
            if isinstance(below, bool | int | float)
            else str(below)[:_MAX_TEXT]
            for key, below in list(attributes.items())[:_MAX_ITEMS]
        }
    return _emit("metric", fields, emit)


def _whole(step: int) -> int:
    """A step as it is recorded: also a number of another package that is whole."""
    number = index(step)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a step of a metric has at most 64 bits")
    return number


def _emit(event_type: str, fields: dict[str, Any], emit: Emit | None) -> dict[str, Any]:
    fields = {name: value for name, value in fields.items() if value is not None}
    if emit is not None:
        emit(event_type, fields)
        return fields
    from scalable.instrumentation.user_events import emit as emit_here

    if not emit_here(event_type, fields) and event_type not in _warned and resolve({}).enabled:
        _warned.add(event_type)
        logger.warning(
            "scalable: this %s is not recorded: no session and no instrument() is active here",
            event_type,
        )
    return fields


_warned: Final[set[str]] = set()


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return plain values only, and not too many."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        items = list(cast("Mapping[Any, Any]", value).items())[:_MAX_ITEMS]
        return {str(key)[:255]: _bounded(below, depth + 1) for key, below in items}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        return [_bounded(item, depth + 1) for item in list(cast("Any", value))[:_MAX_ITEMS]]
    return str(value)[:_MAX_TEXT]
