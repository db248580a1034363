"""Errors of the catalog."""

from __future__ import annotations

from scalable_runs.redact import Redactor


class CatalogError(Exception):
    """The catalog cannot do what was asked; the message says why, without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(redactor()(message))


class NotInCatalogError(CatalogError, FileNotFoundError):
    """There is no such name or digest in the catalog, or no such file to put there."""


class ChangedError(CatalogError):
    """What is in the catalog is not what was put there.

    Attributes
    ----------
    expected, found : str
        Digest of what was put there, and of what is there now.
    """

    def __init__(self, message: str, expected: str, found: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[type[ChangedError], tuple[str, str, str]]:
        return type(self), (str(self), self.expected, self.found)


def redactor() -> Redactor:
    """Return what takes secrets out of texts; it knows those of this process's environment."""
    global _redactor
    if _redactor is None:
        import os

        _redactor = Redactor.from_environment(os.environ)
    return _redactor


_redactor: Redactor | None = None
