"""Names of files in what user code records: in tracebacks, and where a record was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from scalable.code.tracebacks import is_unnamed, locate, resolve_text
from scalable.telemetry import semconv

_STACK: Final = "." + semconv.EXCEPTION_STACKTRACE.rpartition(".")[2]


def with_names(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return attributes in which frames without a file have their name, where that is known."""
    changed: dict[str, Any] = {
        name: resolve_text(text)
        for name, text in attributes.items()
        # That of an exception, or of code.
        if name.endswith(_STACK) and isinstance(text, str)
    }
    file = attributes.get(semconv.CODE_FILE)
    if isinstance(file, str) and is_unnamed(file):
        function = str(attributes.get(semconv.FUNCTION_NAME, "")).rpartition(".")[2]
        line = attributes.get(semconv.CODE_LINE)
        located = locate(function, line, file) if isinstance(line, int) else None
        if located is not None:
            changed[semconv.CODE_FILE] = located.name
    return {**attributes, **changed} if changed else attributes
