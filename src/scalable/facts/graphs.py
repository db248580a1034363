"""What a program asks for when it sends a graph."""

from __future__ import annotations

from typing import Any, NamedTuple


class CallSite(NamedTuple):
    """A line of the user's code."""

    #: Module and qualified name, as ``__main__.main``.
    function: str
    file: str
    line: int


class DaskSpan(NamedTuple):
    """Where a graph is in the user's ``distributed.span()``: outermost first."""

    names: tuple[str, ...]
    ids: tuple[str, ...]


class GraphRequest(NamedTuple):
    """One call that sends a graph."""

    #: ``submit``, ``map``, ``compute``, ``persist`` or ``get``.
    operation: str
    #: Keys of the tasks, or names of the collections, whose results are asked for; not all of many.
    outputs: tuple[Any, ...]
    #: How many there are.
    total: int
    #: Where the user's code asks for it; None if no frame of it is on the stack.
    site: CallSite | None = None
    span: DaskSpan | None = None
    #: The call sends several graphs, of which this is one.
    is_part: bool = False
