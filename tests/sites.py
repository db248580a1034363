"""Directories for the import path in which distributions seem to be installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.util import _importlib_metadata


def installed(monkeypatch: pytest.MonkeyPatch, site: Path, group: str, *points: str) -> None:
    """Add a distribution with entry points (``name = module:object``) of a group, for a test."""
    monkeypatch.syspath_prepend(site)
    # OpenTelemetry looks once for what is installed in a process.
    cached = getattr(_importlib_metadata, "_original_entry_points_cached", None)
    if hasattr(cached, "__wrapped__"):
        monkeypatch.setattr(
            _importlib_metadata, "_original_entry_points_cached", cached.__wrapped__
        )
    info = site / f"{group.replace('_', '-')}.plugin-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("entry_points.txt").write_text("\n".join([f"[{group}]", *points]) + "\n")
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {group}\nVersion: 1.0\n")
