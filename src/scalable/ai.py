"""Diagnoses, also in a model's words where that is asked for; needs neither Dask nor a cluster."""

from __future__ import annotations

from scalable.analysis.diagnose import Consequence, Diagnosis, Evidence, Finding, diagnose_run

__all__ = ["Consequence", "Diagnosis", "Evidence", "Finding", "diagnose_run"]
