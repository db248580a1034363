"""Pickles values of user code, bounded in size."""

from __future__ import annotations

import io
from typing import Any

import cloudpickle


class TooLargeError(Exception):
    """A value has more bytes than are kept."""


class _Limited(io.BytesIO):
    """Refuses what is beyond a limit."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > self._most:
            raise TooLargeError
        return super().write(data)


def pickled(value: Any, most: int) -> bytes:
    """Pickle a value; raises TooLargeError beyond `most` bytes, else what its own code raises."""
    file = _Limited(most)
    cloudpickle.Pickler(file).dump(value)
    return file.getvalue()
