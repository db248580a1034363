"""What a run directory contains, as reports, diagnoses and overviews.

Reads through :mod:`scalable_runs` alone, so a run can be looked at where there is neither Dask nor
OpenTelemetry.
"""

from scalable.analysis.attempts import Attempt, load_attempts
from scalable.analysis.json_renderer import json_text, path_text, render_json
from scalable.analysis.load import load_report
from scalable.analysis.log_choice import LogChoice
from scalable.analysis.log_renderer import render_log
from scalable.analysis.markdown_renderer import render_markdown
from scalable.analysis.overview import Overview, load_overviews
from scalable.analysis.report import Report
from scalable.analysis.run_list import RunFilter, list_runs
from scalable.analysis.run_logs import RunLogs
from scalable.analysis.text_renderer import render_overviews, render_text

__all__ = [
    "Attempt",
    "LogChoice",
    "Overview",
    "Report",
    "RunFilter",
    "RunLogs",
    "json_text",
    "list_runs",
    "load_attempts",
    "load_overviews",
    "load_report",
    "path_text",
    "render_json",
    "render_log",
    "render_markdown",
    "render_overviews",
    "render_text",
]
