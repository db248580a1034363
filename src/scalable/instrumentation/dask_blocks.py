"""Tells when the program enters and leaves a block of ``distributed.span()``.

Called by the threads that run those blocks.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from scalable.common.guard import Guard
from scalable.instrumentation import dask_compat


class BlockListener(Protocol):
    """What a run does about blocks; called by any thread."""

    def entered(self, dask_ids: Sequence[str]) -> None:
        """Blocks were entered at once, outermost first; these are Dask's ids."""
        ...

    def left(self, dask_ids: Sequence[str]) -> None:
        """Blocks were left."""
        ...


_listeners: tuple[BlockListener, ...] = ()

#: Errors of this module, in any run of the process.
guard = Guard()


def listen(listener: BlockListener) -> None:
    """Report all blocks to a listener, until :func:`unlisten`."""
    global _listeners
    _spans.apply()
    _listeners = (*_listeners, listener)


def unlisten(listener: BlockListener) -> None:
    """Undo :func:`listen`; the last one restores what Dask uses."""
    global _listeners
    _listeners = tuple(each for each in _listeners if each is not listener)
    _spans.undo()


class _Dask:
    """The module `dask` with another `annotate`."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    @contextmanager
    def annotate(self, **annotations: Any) -> Generator[None]:
        dask_ids = _new_ids(self._original.get_annotations(), annotations)
        with self._original.annotate(**annotations):
            for listener in _listeners if dask_ids else ():
                with guard.watch("block"):
                    listener.entered(dask_ids)
            try:
                yield
            finally:
                for listener in _listeners if dask_ids else ():
                    with guard.watch("block"):
                        listener.left(dask_ids)


def _new_ids(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of the blocks that annotations begin."""
    try:
        around = before["span"]["ids"] if before.get("span") else ()
        return tuple(map(str, now["span"]["ids"][len(around) :]))
    except (KeyError, TypeError):  # they are not those of a span
        return ()


_spans = dask_compat.span_patch(_Dask)
