"""Records as the rules read them."""

from __future__ import annotations

from typing import Any, TypeAlias

TaskRecord: TypeAlias = dict[str, Any]
WorkerRecord: TypeAlias = dict[str, Any]
FailureRecord: TypeAlias = dict[str, Any]
FailureDetails: TypeAlias = dict[str, Any]
