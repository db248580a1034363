"""Where a result came from, and what it went into, across the runs of a place."""

from scalable.analysis.lineage.model import Lineage
from scalable.analysis.lineage.outline import lineage_outline
from scalable.analysis.lineage.subjects import NoSubjectError, Subject, find_subject
from scalable.analysis.lineage.touches import Touches, read_touches
from scalable.analysis.lineage.walk import trace

__all__ = [
    "Lineage",
    "NoSubjectError",
    "Subject",
    "Touches",
    "find_subject",
    "lineage_outline",
    "read_touches",
    "trace",
]
