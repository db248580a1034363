"""The entry points that an installation of the package has, for programs that need them."""

from __future__ import annotations

import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def entry_points(site: Path) -> Path:
    """Write the package's entry points into a directory for the import path; returns it."""
    info = site / "scalable_otel-0.1.0.dist-info"
    info.mkdir(parents=True)
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    lines: list[str] = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    info.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: scalable-otel\nVersion: 0\n")
    return site
