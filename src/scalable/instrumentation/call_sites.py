"""Finds out what a graph was sent for, and on which line of the user's code.

Called by the threads that send graphs, with the frame of Dask's function that sends one. Code is
the user's if Dask would show it as such: ``distributed.diagnostics.computations.ignore-modules``
and ``ignore-files`` name what is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from types import CodeType, FrameType
from typing import Any, Final

import dask.config
from dask.base import is_dask_collection

from scalable.code.tracebacks import name_of_code
from scalable.facts.graphs import CallSite, DaskSpan, GraphRequest
from scalable.instrumentation import dask_compat

#: Outputs that a request names.
MAX_OUTPUTS: Final = 3
#: Frames that are examined at most.
MAX_FRAMES: Final = 100
#: Pieces of code, and lines, that are remembered.
MAX_KNOWN: Final = 4096

#: Functions of Dask that its users call to send a graph.
_OPERATIONS: Final = frozenset({"submit", "map", "compute", "persist", "get"})
#: Those that are given collections.
_OF_COLLECTIONS: Final = frozenset({"compute", "persist"})
#: Packages whose functions are never the user's.
_OURS: Final = frozenset({"dask", "distributed", "scalable"})
#: Code inside of a function; Dask shows the function.
_INNER: Final = frozenset({"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"})

#: Roles of code besides the operations.
_USER: Final = "user"
_LIBRARY: Final = "library"
_DASK: Final = ""

#: The role of each piece of code. It is known by its address, as its hash takes microseconds; the
#: reference to it keeps the address its own.
_roles: Final[dict[int, tuple[str, CodeType]]] = {}
#: Lines, by the address of the code and the instruction.
_sites: Final[dict[tuple[int, int], CallSite]] = {}


def request_of(frame: FrameType | None, message: Mapping[str, Any]) -> GraphRequest:
    """What is asked for with the graph of `message`, which the function of `frame` sends."""
    operation, maps, left = _DASK, 0, MAX_FRAMES
    library: FrameType | None = None
    computing: FrameType | None = None
    while frame is not None and left:
        known = _roles.get(id(frame.f_code))
        role = _learn(frame) if known is None else known[0]
        if role is _USER:
            break
        if role is _LIBRARY:
            library = library or frame
        elif role:
            operation = role
            if role == "map":
                maps += 1
            elif computing is None and role in _OF_COLLECTIONS:
                computing = frame
        left -= 1
        frame = frame.f_back
    else:
        frame = library  # all of the user's code is in modules that Dask leaves out
    names: tuple[Any, ...] = ()
    count = 0
    if computing is not None:
        names, count = _collections(computing)
    if not names:
        keys = message["keys"]
        names, count = tuple(islice(keys, MAX_OUTPUTS)), len(keys)
    annotation = dask_compat.graph_annotations(message).get("span")
    return GraphRequest(
        operation or "compute",
        names,
        count,
        None if frame is None else _site(frame),
        None if annotation is None else _span(annotation),
        maps > 1,
    )


def _learn(frame: FrameType) -> str:
    """Find out and remember the role of the code of a frame."""
    code = frame.f_code
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] in _OURS:
        role = code.co_name if code.co_name in _OPERATIONS else _DASK
    elif code.co_name in _INNER:
        role = _DASK
    else:
        role = _LIBRARY if _is_left_out(module, code.co_filename) else _USER
    if len(_roles) >= MAX_KNOWN:
        _sites.clear()
        _roles.clear()
    _roles[id(code)] = (role, code)
    return role


def _is_left_out(module: str, file: str) -> bool:
    """Whether Dask leaves code out of what it shows as the user's."""
    name = "distributed.diagnostics.computations.ignore-{}"
    modules: Any = dask.config.get(name.format("modules"), None)
    files: Any = dask.config.get(name.format("files"), None)
    try:
        if any(re.match(pattern, module) for pattern in modules or ()):
            return True
        return any(
            re.match(rf".*[\\/]({pattern})([\\/]|\.pyc?$|$)|<frozen ({pattern})>$", file)
            for pattern in files or ()
        )
    except (TypeError, re.error):  # a mistake in the user's configuration
        return False


def _site(frame: FrameType) -> CallSite:
    code = frame.f_code
    place = (id(code), frame.f_lasti)
    site = _sites.get(place)
    if site is None:
        module = frame.f_globals.get("__name__", "")
        function = f"{module}.{code.co_qualname}"
        line = frame.f_lineno or code.co_firstlineno
        site = CallSite(function, name_of_code(code, line), line)
        # A line is kept as long as its code is, whose address is a part of its key.
        known = _roles.get(id(code))
        if known is not None and known[1] is code:
            if len(_sites) >= MAX_KNOWN:
                _sites.clear()
            _sites[place] = site
    return site


def _span(annotation: Any) -> DaskSpan | None:
    try:
        names, ids = annotation["name"], annotation["ids"]
        return DaskSpan(tuple(map(str, names)), tuple(map(str, ids)))
    except (KeyError, TypeError):  # an annotation of the user's own
        return None


def _collections(frame: FrameType) -> tuple[tuple[str, ...], int]:
    """Names of the collections that a function of Dask was called with, and their number."""
    found = list(_given(frame.f_locals))
    return tuple(_name_of(each) for each in found[:MAX_OUTPUTS]), len(found)


def _given(variables: Mapping[str, Any]) -> Iterator[Any]:
    """Collections among the local variables of `compute` or `persist`, of Dask or of a client."""
    given = variables.get("variables", variables.get("collections"))
    for each in given if isinstance(given, list | tuple) else (given,):
        if is_dask_collection(each):
            yield each


def _name_of(collection: Any) -> str:
    """Name of a collection, which its keys begin with; the name of its type if it has none."""
    # A Delayed makes something of any name that does not begin with an underscore.
    for attribute in ("_name", "_key", "key", "name"):
        name = getattr(collection, attribute, None)
        if isinstance(name, tuple) and name:
            name = name[0]
        if isinstance(name, str) and name:
            expression = type(getattr(collection, "expr", None)).__module__
            grouped = expression.endswith("_groupby") and not name.startswith("groupby")
            return f"groupby-{name}" if grouped else name
    return type(collection).__name__
