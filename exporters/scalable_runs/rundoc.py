"""Composes the documents of a run: its id, run.json, and a manifest if it has none."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from scalable_runs.plain import iso
from scalable_runs.schema import SCHEMA_VERSION, Environment, RunDocument

#: Characters of the project's name in a run id.
_MAX_LABEL: Final = 48


class AsFound(NamedTuple):
    """The documents of a run without a manifest.

    Attributes
    ----------
    target
        Name of the target.
    manifest
        manifest.yaml.
    plan
        plan.json: the workers as found.
    lock
        Digest of the manifest's canonical content, `sha256:<hex>`.
    """

    target: str
    manifest: str
    plan: dict[str, Any]
    lock: str


def new_run_id(project: str, started: float) -> str:
    """Return a unique id: the start, the project and eight random digits.

    Parameters
    ----------
    project
        The project's name.
    started
        Start of the run, in seconds since the epoch.
    """
    label = re.sub(r"[^A-Za-z0-9]+", "-", project).strip("-")[:_MAX_LABEL].rstrip("-") or "run"
    return (
        f"run-{datetime.fromtimestamp(started, UTC):%Y%m%dT%H%M%SZ}-{label}-{secrets.token_hex(4)}"
    )


def run_document(
    run_id: str,
    *,
    project: str,
    target: str,
    provider: str,
    lock: str,
    started: float,
    trace_id: str,
    environment: Environment,
    manifest_path: str | None = None,
) -> RunDocument:
    """Return run.json of a new run; the writer adds `recorder`, `journal` and counts."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "project_name": project,
        "target_name": target,
        "provider_name": provider,
        "manifest_lock": lock,
        "source_manifest_path": manifest_path,
        "started_at": iso(started),
        "finished_at": None,
        "status": "running",
        "trace_id": trace_id,
        "environment": environment,
        "code_identities": [],
    }


def as_found(project: str, provider: str, workers: Sequence[Mapping[str, Any]] = ()) -> AsFound:
    """Describe a run as found, in the manifest's shape.

    Parameters
    ----------
    project, provider
        Name of the project; kind of cluster.
    workers
        The workers at the start of the run.
    """
    import yaml

    target = "existing"
    content = {
        "version": 1,
        "project": {"name": project},
        "targets": {target: {"provider": provider}},
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    lock = f"sha256:{hashlib.sha256(canonical.encode('utf-8', 'backslashreplace')).hexdigest()}"
    plan = {
        "version": 1,
        "target": target,
        "provider": provider,
        "manifest_lock": lock,
        "workers": list(workers),
    }
    manifest = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return AsFound(target, manifest, plan, lock)
