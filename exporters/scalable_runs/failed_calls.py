"""Files of kept calls: function and arguments of an attempt that failed, pickled as they were.

A file is a line with JSON that says what follows, and then the pickle. Nothing here unpickles it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

#: Directory of kept calls in a run.
DIRECTORY: Final = "failed"
#: First word of a file.
_MAGIC: Final = b"scalable-failed-call "
#: Bytes of the first line at most.
_MAX_HEADER: Final = 16 * 1024


class KeptCallError(Exception):
    """A kept call cannot be used; the message says why."""


def file_of(span_id: str) -> str:
    """Return the name in the run of the kept call of an attempt, by the id of its span."""
    return f"{DIRECTORY}/{span_id}.pickle"


def header(about: Mapping[str, Any]) -> bytes:
    """Return the first line of a file.

    Parameters
    ----------
    about
        `function`, and `size` and `sha256` of the pickle, or `not_kept`: why there is none.
    """
    return _MAGIC + orjson.dumps(dict(about)) + b"\n"


def parse(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what a file says of a call, and the pickle.

    Raises
    ------
    KeptCallError
        The call was not kept, or the file is not whole.
    """
    head, newline, data = content.partition(b"\n")
    read: Any = None
    if head.startswith(_MAGIC) and newline and len(head) <= _MAX_HEADER:
        try:
            read = orjson.loads(head[len(_MAGIC) :])
        except ValueError:
            read = None
    if not isinstance(read, dict):
        raise KeptCallError("the file is not a kept call")
    about = cast("dict[str, Any]", read)
    if about.get("not_kept"):
        raise KeptCallError(f"the call was not kept: {about['not_kept']}")
    size = about.get("size")
    if len(data) != size:
        raise KeptCallError(f"the file is not whole: it has {len(data)} of {size} bytes")
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise KeptCallError("the file was changed since it was written")
    return about, data
