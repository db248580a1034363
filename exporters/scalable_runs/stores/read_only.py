"""The writing half of a store that is only read."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar

from scalable_runs.problems import LossCounter
from scalable_runs.schema import JournalMark
from scalable_runs.stores.base import Found, Synced


class ReadOnly:
    """Refuses to write. A class that has it implements the other half of a store."""

    #: Why nothing is written here.
    why: ClassVar[str]

    def create(
        self, documents: Mapping[str, bytes], journals: Mapping[str, int], losses: LossCounter
    ) -> None:
        """Raise OSError."""
        raise self._refused()

    def reopen(
        self, found: Mapping[str, Found], marks: Mapping[str, JournalMark], losses: LossCounter
    ) -> None:
        """Raise OSError."""
        raise self._refused()

    def append(self, journal: str, lines: bytes) -> int:
        """Raise OSError."""
        raise self._refused()

    def sync(self) -> Synced:
        """Raise OSError."""
        raise self._refused()

    def replace(self, name: str, data: bytes) -> None:
        """Raise OSError."""
        raise self._refused()

    def seal(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """There is nothing to release."""

    def _refused(self) -> OSError:
        return OSError(errno.EROFS, self.why)
