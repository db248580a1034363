"""Directories for the import path in which distributions seem to be installed."""

from __future__ import annotations

from pathlib import Path


def installed(site: Path, group: str, *points: str) -> None:
    """Add a distribution with entry points (``name = module:object``) of a group."""
    info = site / f"{group.replace('_', '-')}.plugin-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("entry_points.txt").write_text("\n".join([f"[{group}]", *points]) + "\n")
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {group}\nVersion: 1.0\n")
