"""Renders as JSON, for programs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import orjson

from scalable.analysis.findings import Diagnosis, Finding
from scalable.analysis.report import Report
from scalable.analysis.terminal import escape_json
from scalable_runs.schema import SCHEMA_VERSION

_OPTIONS: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


def render_json(subject: Report | Diagnosis) -> dict[str, Any]:
    """Return a report or a diagnosis as a document.

    Of a diagnosis: the attributes of its classes, times in ISO 8601. Of a report: summary.json's
    shape, and under `report` its `path`, `status` and `why`, `is_live`, `as_of` (when the last
    thing known of the run happened), `source` (`summary.json` or `scan`), `missing` (what the
    record lacks) and `notes`, sentences each.
    """
    return _report(subject) if isinstance(subject, Report) else _diagnosis(subject)


def json_text(document: Any) -> str:
    """Return a document as JSON that is as safe to look at on a terminal as it is to parse."""
    try:
        data = orjson.dumps(document, option=_OPTIONS)
    except TypeError:
        data = orjson.dumps(_shallow(document), option=_OPTIONS)
    return escape_json(data.decode())


def path_text(path: Path | str) -> str:
    """Return a path as text that can be encoded: a file name may be any bytes."""
    return str(path).encode(errors="replace").decode()


def _report(report: Report) -> dict[str, Any]:
    return {
        **report.document,
        "report": {
            "path": path_text(report.path),
            "status": report.status,
            "why": report.why,
            "is_live": report.is_live,
            "as_of": _iso(report.as_of),
            "source": report.source,
            "missing": list(report.missing),
            "notes": list(report.notes),
        },
    }


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": diagnosis.run_id,
        "path": path_text(diagnosis.path),
        "status": diagnosis.status,
        "started_at": _iso(diagnosis.started_at),
        "as_of": _iso(diagnosis.as_of),
        "summary": diagnosis.summary,
        "prose": diagnosis.prose,
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "notes": list(diagnosis.notes),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    document = asdict(finding)
    evidence = document["evidence"]
    evidence["frames"] = [frame._asdict() for frame in finding.evidence.frames]
    for name in ("first_at", "last_at"):
        evidence[name] = _iso(getattr(finding.evidence, name))
    return document


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _shallow(value: Any, depth: int = 50) -> Any:
    """Cut off what is nested deeper than can be written: a run may hold what others wrote."""
    if not isinstance(value, dict | list):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        return {str(name): _shallow(below, depth - 1) for name, below in table.items()}
    return [_shallow(item, depth - 1) for item in cast("list[Any]", value)]
