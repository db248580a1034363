"""What a run directory tells: reports and overviews.

Reads through :mod:`scalable_runs` alone, so a run can be looked at where there is neither Dask nor
OpenTelemetry.
"""

from scalable.analysis.overview import Overview, load_overviews
from scalable.analysis.render import (
    json_text,
    path_text,
    render_json,
    render_overviews,
    render_text,
)
from scalable.analysis.report import Report, load_report

__all__ = [
    "Overview",
    "Report",
    "json_text",
    "load_overviews",
    "load_report",
    "path_text",
    "render_json",
    "render_overviews",
    "render_text",
]
