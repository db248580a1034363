"""Why something failed: one classifier over one catalog of causes.

Pure: no I/O, no Dask, no OpenTelemetry. The recorder uses it when it writes a failure, the
analysis when it judges a record of an older version.
"""

from __future__ import annotations

from scalable.causes.catalog import CAUSES, Cause, Confidence
from scalable.causes.deaths import DEATHS, judge_death
from scalable.causes.exceptions import judge_exception
from scalable.causes.model import Case, Verdict, case_of

__all__ = [
    "CAUSES",
    "DEATHS",
    "Case",
    "Cause",
    "Confidence",
    "Verdict",
    "case_of",
    "classify",
]


def classify(case: Case) -> Verdict:
    """Judge one failure.

    Parameters
    ----------
    case : Case
        What is known of it.

    Returns
    -------
    Verdict
        Its `evidence` is a sentence or two for a person, never empty.
    """
    if case.blame:
        return Verdict("upstream", "high", (f"task {case.blame} had failed before",))
    if case.is_worker or case.failure_class == "WorkerLost":
        return judge_death(case)
    return judge_exception(case)
