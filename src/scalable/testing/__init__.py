"""For tests: runs recorded in memory, and the tests that every run store passes.

Examples
--------
>>> from scalable.testing import record_in_memory
>>> with record_in_memory(client) as run:  # doctest: +SKIP
...     client.submit(pow, 2, 3).result()
>>> [line["state"] for line in run.lines("tasks.jsonl")]  # doctest: +SKIP
['submitted', 'running', 'succeeded']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scalable.testing.recorded import (
        MEASURED,
        START,
        CountingIds,
        InMemorySignals,
        RecordedRun,
        StepClock,
        record_facts,
        record_in_memory,
    )
    from scalable.testing.run_stores import RunStoreConformance

__all__ = [
    "MEASURED",
    "START",
    "CountingIds",
    "InMemorySignals",
    "RecordedRun",
    "RunStoreConformance",
    "StepClock",
    "record_facts",
    "record_in_memory",
]

_CONFORMANCE: Final = "RunStoreConformance"


def __getattr__(name: str) -> Any:
    """Import what is asked for: the tests of run stores need pytest, the others Dask."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{'run_stores' if name == _CONFORMANCE else 'recorded'}"
    if name == _CONFORMANCE:
        import pytest

        # A test that fails shows the values that differ.
        pytest.register_assert_rewrite(module)
    return getattr(import_module(module), name)
