"""Follows the tracer provider that a process has of its own, whose spans no recorder receives."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakSet

from scalable.common.guard import Guard
from scalable.instrumentation.otel_compat import TRACER_PROVIDER, TRACES

#: Providers of this process that have our processor; it stays there, as none can be removed.
_watched: Final[WeakSet[Any]] = WeakSet()


class OwnExports:
    """Lets the process's tracer provider mark attempts whose code opens spans; used by one thread.

    The recorder never receives those spans. It sends their attempts at any span budget, so that
    they have a parent.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        #: The provider that :meth:`follow` has found.
        self.provider: Any = None

    def follow(self) -> bool:
        """Look at the process's provider; True if it has one since the last call.

        What its spans were children of until now is not known then.
        """
        provider = TRACES[TRACER_PROVIDER]
        if provider is self.provider:
            return False
        self.provider = provider
        add: Any = getattr(provider, "add_span_processor", None)
        if add is None:
            return False
        try:
            if provider not in _watched:
                from scalable.instrumentation.child_spans import ChildSpans

                _watched.add(provider)
                add(ChildSpans())
        except BaseException as error:
            self._guard.failed("own_exports", error)
        return True
