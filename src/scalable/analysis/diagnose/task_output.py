"""The last lines that a task printed before it failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from scalable.analysis.findings import Finding
from scalable_runs.stores.base import Hole, Store
from scalable_runs.task_logs import task_log

#: Bytes that are read of the end of an attempt's output, and lines that are kept.
_TAIL: Final = 4_096
_LINES: Final = 20
#: Tasks of a finding, and attempts of each, whose output is looked for.
_TASKS: Final = 3
_ATTEMPTS: Final = 20


def with_output(finding: Finding, stores: Sequence[Store]) -> Finding:
    """Add the end of the output of one of the tasks that failed, if it was kept."""
    evidence = finding.evidence
    if evidence.is_death or evidence.traceback is None:
        return finding
    for task_id in evidence.task_ids[:_TASKS]:
        for store in stores:
            tail = _tail(store, task_id)
            if tail:
                with_tail = replace(evidence, output_tail=tail, output_task=task_id)
                return replace(finding, evidence=with_tail)
    return finding


def _tail(store: Store, task_id: str) -> str:
    """Return the end of the output of a task's last attempt that has some."""
    last = ""
    for attempt in range(1, _ATTEMPTS + 1):
        name = task_log(task_id, attempt)
        entry = store.stat(name)
        if entry is not None:
            last = name
        elif last or attempt > 2:
            break
    if not last:
        return ""
    entry = store.stat(last)
    start = max(0, entry.size - _TAIL) if entry is not None else 0
    try:
        blocks = [it for it in store.read(last, start) if not isinstance(it, Hole)]
    except OSError:
        return ""
    text = b"".join(blocks).decode("utf-8", "replace")
    if start:
        text = text.partition("\n")[2]
    return "\n".join(text.rstrip().splitlines()[-_LINES:])
