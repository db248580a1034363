"""The summary of a run, kept while it is recorded or made by a scan of its journals."""

from scalable_runs.summary.arguments import Arguments
from scalable_runs.summary.groups import MAX_FAILURE_GROUPS, MAX_MESSAGES, MAX_WORKERS
from scalable_runs.summary.names import OTHER, failure_pattern, name_of_key
from scalable_runs.summary.running import RunSummary
from scalable_runs.summary.tasks import MAX_NAMES, NameCounts
from scalable_runs.summary.values import EXACT_VALUES, RELATIVE_ERROR

__all__ = [
    "EXACT_VALUES",
    "MAX_FAILURE_GROUPS",
    "MAX_MESSAGES",
    "MAX_NAMES",
    "MAX_WORKERS",
    "OTHER",
    "RELATIVE_ERROR",
    "Arguments",
    "NameCounts",
    "RunSummary",
    "failure_pattern",
    "name_of_key",
]
