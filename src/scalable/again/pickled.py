"""Pickles values of user code, bounded in size."""

from __future__ import annotations

import io
from typing import Any, cast

import cloudpickle

from scalable.cache.store import LimitedFile


def pickled(value: Any, most: int) -> bytes:
    """Pickle a value.

    Raises
    ------
    TooLargeError
        It has more than `most` bytes.
    Exception
        What the value's own code raises.
    """
    file = io.BytesIO()
    cloudpickle.Pickler(cast("Any", LimitedFile(file, most))).dump(value)
    return file.getvalue()
